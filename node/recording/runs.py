"""Opens a recording, one of several runs in a folder."""

from collections.abc import Collection
from dataclasses import dataclass

from node.recording.reader import Recording
from perception_client.recordings.runs import choose_recording


@dataclass(frozen=True, slots=True)
class Opened:
    """A recording that was chosen. note: which of several runs it is, in words; None for the only
    one."""

    recording: Recording
    note: str | None


def open_recording(
    source: str, run: str | None = None, cameras: Collection[str] = ()
) -> Opened | None:
    """Opens a recording: one file, or of a folder or pattern the newest run.

    Args:
        source: as for `find_recording`.
        run: name of one of its files, its session, or its node (its newest run); None for
            the newest of all.
        cameras: names of the cameras whose frames are read; empty for all.

    Returns None for a source that names no recording. Raises SourceError as `Recording` and
    `choose_recording` do.
    """
    choice = choose_recording(source, run)
    if choice is None:
        return None
    return Opened(Recording(choice.paths, cameras), choice.note)
