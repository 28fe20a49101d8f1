"""A pytest plugin for teams whose control code subscribes to labels: tests against recordings, in
virtual time. pytest finds it wherever perception-client is installed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perception_client.testing.recorded import RecordedLabels

Play = Callable[..., RecordedLabels]


@pytest.fixture
def recorded_labels() -> Iterator[Play]:
    """`recorded_labels(SOURCE, camera=None, run=None)` opens a recording with the interface of
    `Subscriber`; see `RecordedLabels`. Time passes by `advance`, and by the waits of control code.
    A recording that cannot be read whole is played in part, with a warning."""
    with contextlib.ExitStack() as stack:

        def play(
            source: Path | str, camera: str | None = None, run: str | None = None
        ) -> RecordedLabels:
            return stack.enter_context(RecordedLabels(source, camera, run))

        yield play
