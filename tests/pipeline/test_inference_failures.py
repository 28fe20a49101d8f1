"""The log of frames that the model fails on."""

import pytest

from node.errors import FrameError
from node.pipeline.inference_failures import InferenceFailures


def test_reasons_that_differ_in_their_numbers_are_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model whose scores are wrong gives others for each frame, thirty a second."""
    failures = InferenceFailures()
    for frame in range(30):
        failures.note_lost("front", FrameError(f"scores from -{frame}.5 to 1.{frame}e+0{frame}"))
        failures.note_lost("front", FrameError("not finite (nan or infinity)"))
    assert [record.getMessage() for record in caplog.records] == [
        "camera 'front': frame lost: scores from -0.5 to 1.0e+00",
        "camera 'front': frame lost: not finite (nan or infinity)",
    ]
    assert failures.lost_frames == 60
    failures.note_lost("back", FrameError("not finite (nan or infinity)"))
    assert len(caplog.records) == 3
