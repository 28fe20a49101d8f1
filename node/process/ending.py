"""Ending: the steps that close the parts of a node. Every step runs, whatever other steps raise.

Rejected: contextlib.ExitStack, in which the error of a step replaces the error of the block.
"""

import contextlib
import logging
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)


class Ending(contextlib.AbstractContextManager["Ending"]):
    """Runs the added steps, the newest first, at the end of a `with` block.

    A step that raises is logged with its name. The error of the block itself is raised on; without
    one, the first error of a step is raised after the last step.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, name: str, step: Callable[[], object]) -> None:
        """Adds a step. name: the part that the step closes, for the log."""
        self._steps.append((name, step))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        first: Exception | None = None
        while self._steps:
            name, step = self._steps.pop()
            try:
                step()
            except Exception as failure:  # the following steps close other parts
                log.error("closing the %s failed: %s", name, str(failure) or repr(failure))
                first = first or failure
        if first is not None and error is None:
            raise first
