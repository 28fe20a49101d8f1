"""Rotation: the files of a recording, one after the other, from its begin to its end or failure."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from node.config.schema import RecordingConfig
from node.errors import OutputError
from node.process.output_files import remedy
from node.recording.encode import Clock
from node.recording.folder import MIB, RecordingFolder
from node.recording.mcap_writer import RecordingFile
from node.recording.new_files import NewFiles
from perception_client.recordings.records import Entry

log = logging.getLogger(__name__)

OTHER_FOLDER = "name another folder (recording.folder, or record --output)"
"""The instruction that helps against each error of a folder for recordings."""


class Rotation:
    """Writes into one file, and splits by size and by time. The recorder's thread calls the
    methods; any thread reads the properties and attributes.

    file: the file that is written, None when nothing is recorded. path: of the newest file. bytes:
    of the newest file at its last flush. last_error: the newest problem, None before the first and
    after a new begin. lost: as last_error, of the first removed file. flushed_at: when the last
    chunk ended, on CLOCK_MONOTONIC in s.
    """

    def __init__(
        self, settings: RecordingConfig, folder: RecordingFolder, files: NewFiles, clock: Clock
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._files = files
        self._clock = clock
        self._failed = False
        self._known_problem: str | None = None
        self._began_at = 0.0
        self.flushed_at = 0.0
        self.file: RecordingFile | None = None
        self.path: Path | None = None
        self.bytes = 0
        self.last_error: str | None = None
        self.lost: str | None = None

    @property
    def state(self) -> Literal["off", "recording", "failed"]:
        """As the health message has it."""
        if self.file is not None:
            return "recording"
        return "failed" if self._failed else "off"  # `fail` sets this before it takes the file away

    @property
    def open_files(self) -> tuple[Path, ...]:
        """The files that must not be deleted."""
        return () if self.file is None else (self.file.path,)

    def write(self, entries: Iterable[Entry]) -> None:
        """Adds entries to the recording, if there is one. Raises OSError."""
        if self.file is not None:
            self.file.write(entries)

    def begin(self) -> Path:
        """Begins a recording, or goes on with the one in progress; its file. Raises OutputError."""
        if self.file is not None:
            return self.file.path
        try:
            file = self._next_file()
        except OSError as error:
            raise OutputError(self._give_up(error)) from error
        self.last_error, self.lost, self._failed = None, None, False
        log.info("recording into %s", file.path)
        return file.path

    def end(self) -> Path | None:
        """Ends the recording; its file, None without a recording. Raises OutputError."""
        file, self.file = self.file, None
        if file is None:
            return None
        loss = None if file.is_in_place else _loss(file)
        try:
            _end_in_its_place(file)
            if loss is None:
                self._folder.keep_budget(file.path, spare_newest=True)
        except OSError as error:
            self.file = file
            raise OutputError(self._give_up(error)) from error
        if loss is not None:
            self.note_failure(loss)
            raise OutputError(loss)
        log.info("recorded %s, %.1f MiB", file.path, file.bytes / MIB)
        return file.path

    def note_failure(self, reason: str) -> None:
        """Sets the error of the health message, and the state `failed` until the next begin."""
        self.last_error, self._failed = reason, True

    def fail(self, error: OSError) -> None:
        """Ends the recording after an error of the disk, and logs it. All else goes on."""
        log.error("%s", self._give_up(error))

    def _give_up(self, error: OSError) -> str:
        reason = _reason(error)
        file = self.file
        if file is None:
            description = (
                f"recording not started: {error.filename or self._folder.path}: {reason}; "
                + remedy(error, OTHER_FOLDER)
            )
        else:
            file.abandon()
            left = "whole" if file.is_ended else "repaired by perception-node recover"
            description = (
                f"recording stopped: {error.filename or file.path}: {reason}; "
                f"{remedy(error, OTHER_FOLDER)}, and start it again (perception-node ctl record "
                f"start); what was written is {left}"
            )
        self.note_failure(description)  # before the file goes, since `state` reads the file first
        self.file = None
        return description

    def flush(self) -> None:
        """Ends the chunk in progress; begins the next file where this one is full, or is no longer
        at its path; makes room on the disk. Raises OSError."""
        file = self.file
        if file is None:
            return
        file.flush()
        self.flushed_at = time.monotonic()
        self.bytes = file.bytes
        if not file.is_in_place:
            self._replace(file)
            return
        full = self.bytes >= self._settings.split_mb * MIB
        if full or self.flushed_at - self._began_at >= self._settings.split_s:
            file.close()
            file = self._next_file()
        try:
            self._folder.make_room_when_due(file.path)
        except OSError:  # the disk still has room for the index
            file.close()
            raise
        self._note_problem()

    def _replace(self, file: RecordingFile) -> None:
        """Goes on in a new file after the current one was moved or removed."""
        loss = _loss(file)
        log.error("%s", loss)
        if file.is_removed:
            self.lost = self.lost or loss
        _end_in_its_place(file)
        opened = self._next_file()
        self.last_error = f"{loss}; the recording goes on in {opened.path}"
        log.warning("the recording goes on in %s", opened.path)

    def _note_problem(self) -> None:
        problem = self._folder.problem
        if problem is not None and problem != self._known_problem:
            self.last_error = problem
        self._known_problem = problem

    def _next_file(self) -> RecordingFile:
        """Makes the next file. The current one stays until the next one exists, so that frames in
        between are recorded. Raises OSError."""
        self._folder.make_room()
        file = self._files.make(self._clock.at(None))
        self._began_at = self.flushed_at = time.monotonic()
        self.path, self.bytes = file.path, 0
        self.file = file
        return file


def _reason(error: OSError) -> str:
    if isinstance(error, FileExistsError) and error.filename and Path(error.filename).is_file():
        return "it is a file, not a folder"
    return error.strerror or str(error)


def _end_in_its_place(file: RecordingFile) -> None:
    """Ends a file also where it was moved to, so that it is whole there. Raises OSError."""
    if file.is_removed:
        file.abandon()
    else:
        file.close()


def _loss(file: RecordingFile) -> str:
    """What is lost of a file that is no longer at its path, in words."""
    if not file.is_removed:
        return f"{file.path} was moved while it was written, and ended there"
    seconds = 0.0 if file.first_ns is None else (file.last_ns - file.first_ns) / 1e9
    return (
        f"{file.path} was removed while it was written: {file.bytes / MIB:.1f} MiB of "
        f"{seconds:.0f} s are lost"
    )
