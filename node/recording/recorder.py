"""Recorder: the thread that writes recordings and keeps the black box. It never holds up who gives
it something: what it cannot take is lost, and counted.

Messages go first and frames, which have to be encoded, after them: on a computer that is too busy
for its pictures, the file still says what was seen.
"""

import errno
import logging
import os
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from node import __version__
from node.config.schema import NodeConfig
from node.errors import OutputError
from node.image.frame import Frame
from node.recording.black_box import BlackBox
from node.recording.dump_trigger import Triggers
from node.recording.encode import Clock, config_entry, frame_entries, message_entries
from node.recording.folder import BLACK_BOX, MIB, RecordingFolder
from node.recording.mcap_writer import RecordingFile
from node.recording.records import Entry
from perception_client.messages.kinds import (
    InfoMessage,
    LabelsMessage,
    Message,
    RecordingHealth,
    boot_id,
)

log = logging.getLogger(__name__)

MOST_WAITING_BYTES = 128 * MIB
"""What may wait to be written, in memory: about 45 undecoded frames of 720p, more of JPEG."""
MOST_WAITING_MESSAGES = 4096
FLUSH_S = 0.25
"""How often the chunk in progress ends: so much of a recording a killed process loses, and what a
busy computer takes to run this thread."""
HOLD_S = 0.1
"""How long a frame waits for its labels before it is encoded: encoding beside the inference would
make that a third slower on two cores."""
NICENESS = 10
"""Of the recorder's thread: the model's have the right of way."""
LAST_FRAMES_SHARE = 0.5
"""Of the time that an end or a crash leaves: so long are waiting frames encoded, then the file is
ended without the others. One without its index is worth less than one without its last frames."""

MOST_NAMES_TRIED = 100
"""Until nodes of one name in one folder have each a file of their own."""


@dataclass(frozen=True, slots=True)
class _Frame:
    frame: Frame
    log_ns: int
    lost_before: int


@dataclass(frozen=True, slots=True)
class _Message:
    message: Message
    log_ns: int


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)
_Result = TypeVar("_Result")
_Command = Callable[[], None]
_Item = _Message | _Command


class Recorder:
    """Records what a node of this configuration sees and says.

    Idle it costs nothing. A disk that fails ends the recording with an error in `health`; all else
    goes on.
    """

    def __init__(self, config: NodeConfig, session: str) -> None:
        self._config = config
        self._settings = 0
        self._recording = config.recording
        self._about = {
            "node": config.name,
            "session": session,
            "version": __version__,
            "boot_id": boot_id() or "",
        }
        self._folder = RecordingFolder(
            self._recording.folder,
            config.name,
            None if self._recording.budget_mb is None else self._recording.budget_mb * MIB,
            self._recording.keep_free_mb * MIB,
            self._recording.black_box_budget_mb * MIB,
        )
        self._clock = Clock()
        self._black_box: BlackBox | None = None
        if self._recording.black_box_s > 0:
            self._black_box = BlackBox(
                self._recording.black_box_s, self._recording.black_box_mb * MIB
            )
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._frames: deque[_Frame] = deque()
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._lost_frames = self._lost_messages = 0
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._closing = False
        self._frames_until = float("inf")
        # Of the thread's own, from here on.
        self._file: RecordingFile | None = None
        self._file_bytes = 0
        self._last_path: Path | None = None
        self._last_error: str | None = None
        self._failed = False
        self._told_problem: str | None = None
        self._info: InfoMessage | None = None
        self._labelled_ns = 0
        self._flushed_at = self._began_at = 0.0
        self._dumped_at = float("-inf")
        self._dump_wanted: str | None = None
        self._triggers = Triggers(self._recording)

    @property
    def _wanted(self) -> bool:
        return self._file is not None or self._black_box is not None

    @property
    def health(self) -> RecordingHealth:
        """How the recording is, for the health message."""
        state: Literal["off", "recording", "failed"] = "recording"
        if self._file is None:  # and after it, what `_fail` sets before
            state = "failed" if self._failed else "off"
        return RecordingHealth(
            state=state,
            file=None if self._last_path is None else str(self._last_path),
            bytes=self._file_bytes,
            lost_frames=self._lost_frames,
            lost_messages=self._lost_messages,
            last_error=self._last_error,
            skipped_black_boxes=self._triggers.skipped,
        )

    def start(self) -> None:
        """Starts the thread; with `recording.enabled` the recording. Raises OutputError where that
        cannot be written."""
        self._thread.start()
        if self._recording.enabled:
            self.begin().result()

    # From any thread, never blocking.

    def frame(self, frame: Frame) -> None:
        """Records a frame."""
        if not self._wanted:
            return
        size = len(frame.jpeg) if frame.jpeg is not None else frame.image.nbytes
        stamp = frame.stamp
        log_ns = self._clock.at(None if stamp is None else stamp.mono_ns)
        # What waits is what is counted: the bytes that are recorded, and nothing that was made of
        # them.
        kept = replace(frame, image=frame.image if frame.jpeg is None else _NO_PIXELS, ready=None)
        with self._lock:
            if self._waiting_bytes + size > MOST_WAITING_BYTES:
                self._lost[frame.camera] += 1
                self._lost_frames += 1
                return
            self._waiting_bytes += size
            self._frames.append(_Frame(kept, log_ns, self._lost.pop(frame.camera, 0)))

    def message(self, message: Message) -> None:
        """Records a message that went out."""
        if isinstance(message, InfoMessage):
            self._info = message
        if not self._wanted:
            return
        with self._lock:
            if self._items.qsize() > MOST_WAITING_MESSAGES:
                self._lost_messages += 1
                return
            self._items.put(_Message(message, self._clock.at(None)))

    def configuration(self, config: NodeConfig, settings: int) -> None:
        """Records that another configuration is in force."""

        def change() -> None:
            self._config, self._settings = config, settings
            if self._file is not None:
                self._write([config_entry(config, settings, self._clock.at(None))])

        self._items.put(change)

    def begin(self) -> "Future[Path]":
        """Starts a recording, or goes on with the one that runs; its file. The Future may have an
        OutputError."""
        return self._call(self._begin)

    def end(self) -> "Future[Path | None]":
        """Ends the recording; its file, None where there was none."""
        return self._call(self._end)

    def dump(self, reason: str, *, within_s: float = float("inf")) -> "Future[Path]":
        """Writes the black box out; its file. The Future may have an OutputError. within_s: of
        what waits to be encoded, what takes longer is left out."""
        until = time.monotonic() + within_s * LAST_FRAMES_SHARE
        return self._call(lambda: self._dump(reason, until))

    def close(self, timeout_s: float) -> bool:
        """Writes what is waiting and ends the recording; whether that was done in time."""
        self._frames_until = time.monotonic() + timeout_s * LAST_FRAMES_SHARE
        self._closing = True
        self._items.put(None)
        self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        if not ended and self._file is not None:
            log.error(
                "%s could not be ended in %.1f s; repair it with: perception-node recover %s",
                self._last_path, timeout_s, self._last_path,
            )  # fmt: skip
        return ended

    def _call(self, work: Callable[[], _Result]) -> "Future[_Result]":
        answer: Future[_Result] = Future()

        def do() -> None:
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

        self._items.put(do)
        return answer

    # The thread.

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            try:
                item = self._items.get(timeout=self._patience_s())
            except queue.Empty:
                item = self._write_due
            if item is None:
                break
            try:
                self._do(item)
                self._look_after()
            except OSError as error:
                self._fail(error)
            except Exception:  # a frame or message that cannot be recorded costs itself
                log.exception("recording: one record is lost")
                self._lost_messages += 1
        try:
            self._end()
        except OutputError as error:
            log.error("%s", error)

    def _do(self, item: _Item) -> None:
        if not isinstance(item, _Message):
            item()
            return
        if isinstance(item.message, LabelsMessage):
            self._labelled_ns = max(item.log_ns, self._labelled_ns)
        self._add(message_entries(item.message, item.log_ns))
        if self._black_box is not None:
            reason = self._triggers.reason(item.message, time.monotonic())
            self._dump_wanted = reason or self._dump_wanted

    def _patience_s(self) -> float:
        """How long to wait for a message before looking after frames."""
        if self._is_due():
            return 0.0
        return HOLD_S / 2 if self._frames else FLUSH_S / 2

    def _is_due(self) -> bool:
        """Whether a frame is to be written. It waits until it is labelled, so that its encoding
        takes the model no time, or for a while."""
        held_since_ns = self._clock.at(None) - int(HOLD_S * 1e9)
        return bool(self._frames) and self._frames[0].log_ns < max(held_since_ns, self._labelled_ns)

    def _write_due(self) -> None:
        if self._is_due():
            self._write_frame()

    def _write_frame(self) -> None:
        item = self._take_frame()
        self._add(
            frame_entries(
                item.frame,
                item.log_ns,
                quality=self._recording.quality,
                lost_before=item.lost_before,
            )
        )

    def _take_frame(self) -> _Frame:
        with self._lock:
            item = self._frames.popleft()
            jpeg = item.frame.jpeg
            self._waiting_bytes -= len(jpeg) if jpeg is not None else item.frame.image.nbytes
        return item

    def _write_frames(self, until: float) -> None:
        """All that wait now, but no longer than to a moment of the monotonic clock. Those that come
        meanwhile do not count: a busy computer encodes more slowly than they do."""
        for _ in range(len(self._frames)):
            if time.monotonic() >= until:
                break
            try:
                self._write_frame()
            except OSError as error:  # the black box has it nevertheless
                self._fail(error)
            except Exception:  # a frame that cannot be recorded costs itself, and not the file
                log.exception("recording: one frame is lost")
                self._count_lost(1)

    def _lose_frames(self) -> None:
        """What is still waiting when the recorder has to go."""
        count = 0
        while self._frames:
            self._take_frame()
            count += 1
        self._count_lost(count)
        if count and self._file is not None:
            log.warning(
                "recording: the last %d frames are not in %s: this computer was too busy to encode "
                "them", count, self._last_path,
            )  # fmt: skip

    def _count_lost(self, frames: int) -> None:
        with self._lock:
            self._lost_frames += frames

    def _add(self, entries: Iterable[Entry]) -> None:
        entries = tuple(entries)
        if self._black_box is not None:
            for entry in entries:
                self._black_box.add(entry)
        self._write(entries)

    def _write(self, entries: Iterable[Entry]) -> None:
        if self._file is not None:
            self._file.write(entries)

    def _look_after(self) -> None:
        """What is due: the black box, the end of a chunk, the next part of the recording."""
        now = time.monotonic()
        if self._dump_wanted is not None and (
            now - self._dumped_at >= self._recording.black_box_s or self._closing
        ):
            reason, self._dump_wanted = self._dump_wanted, None
            try:
                self._dump(reason, self._frames_until)
            except OutputError as error:
                self._last_error, self._failed = str(error), True
                log.error("%s", error)
        if self._file is not None and now - self._flushed_at >= FLUSH_S:
            self._look_after_file(self._file)

    def _look_after_file(self, file: RecordingFile) -> None:
        file.flush()
        self._flushed_at = time.monotonic()
        self._file_bytes = file.bytes
        if not file.is_in_place:
            self._begin_anew(file)
            return
        full = self._file_bytes >= self._recording.split_mb * MIB
        if full or self._flushed_at - self._began_at >= self._recording.split_s:
            file.close()
            file = self._open()
        try:
            self._folder.make_room_when_due(file.path)
        except OSError:  # there is room for the index yet
            file.close()
            raise
        self._note_problem()

    def _begin_anew(self, file: RecordingFile) -> None:
        """The file is no more where it is looked for: the recording goes on in another."""
        told = _how_it_went(file)
        log.error("%s", told)
        _end_where_it_is(file)
        opened = self._open()
        self._last_error = f"{told}; the recording goes on in {opened.path}"
        log.warning("the recording goes on in %s", opened.path)

    def _note_problem(self) -> None:
        problem = self._folder.problem
        if problem is not None and problem != self._told_problem:
            self._last_error = problem
        self._told_problem = problem

    def _begin(self) -> Path:
        if self._file is not None:
            return self._file.path
        try:
            file = self._open()
        except OSError as error:
            self._fail(error)
            raise OutputError(self._last_error) from error
        self._last_error, self._failed = None, False
        log.info("recording into %s", file.path)
        return file.path

    def _open(self) -> RecordingFile:
        """The next file, which stands on its own: configuration and label names come first. Until
        it is there the old one stays, so that frames in between are taken."""
        self._folder.make_room()
        file = self._new_file("", self._about)
        try:
            self._begin_file(file, self._clock.at(None))
        except OSError as error:
            file.abandon()
            raise OSError(error.errno, error.strerror, str(file.path)) from error
        self._began_at = self._flushed_at = time.monotonic()
        self._last_path, self._file_bytes = file.path, 0
        self._file = file
        return file

    def _new_file(self, kind: str, about: Mapping[str, str]) -> RecordingFile:
        """A file of a new name. Another node of this name may take one in the same moment."""
        for _ in range(MOST_NAMES_TRIED):
            path = self._folder.new_path(kind)
            try:
                return RecordingFile(path, about)
            except FileExistsError:
                continue
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
        raise FileExistsError(errno.EEXIST, "others take every new name", str(self._folder.path))

    def _begin_file(self, file: RecordingFile, log_ns: int) -> None:
        """Written at once, so that a disk that is full says so now. Raises OSError."""
        file.write(self._head(log_ns))
        file.flush()

    def _head(self, log_ns: int) -> Iterable[Entry]:
        yield config_entry(self._config, self._settings, log_ns)
        if self._info is not None:
            yield from message_entries(self._info, log_ns)

    def _end(self) -> Path | None:
        self._write_frames(self._frames_until)
        if self._closing:
            self._lose_frames()
        file, self._file = self._file, None
        if file is None:
            return None
        gone = None if file.is_in_place else _how_it_went(file)
        try:
            _end_where_it_is(file)
            if gone is None:
                self._folder.keep_budget(file.path)
        except OSError as error:
            self._file = file
            self._fail(error)
            raise OutputError(self._last_error) from error
        if gone is not None:
            self._last_error, self._failed = gone, True
            raise OutputError(gone)
        log.info("recorded %s, %.1f MiB", file.path, file.bytes / MIB)
        return file.path

    def _fail(self, error: OSError) -> None:
        """The disk does not take it: the recording ends, all else goes on."""
        reason = error.strerror or error
        file = self._file
        if file is None:
            told = (
                f"recording not started: {error.filename or self._folder.path}: {reason}; make "
                "room there, or name another recording.folder"
            )
        else:
            file.abandon()
            left = "whole" if file.is_ended else "repaired by perception-node recover"
            told = (
                f"recording stopped: {error.filename or file.path}: {reason}; make room and start "
                f"it again (perception-node ctl record start); what was written is {left}"
            )
        # In this order: `health` is asked for by others meanwhile.
        self._last_error, self._failed, self._file = told, True, None
        log.error("%s", told)

    def _dump(self, reason: str, frames_until: float) -> Path:
        if self._black_box is None:
            raise OutputError("there is no black box; set recording.black_box_s, in seconds")
        self._write_frames(frames_until)
        entries = self._black_box.take()
        self._dumped_at = time.monotonic()
        try:
            path = self._write_black_box(reason, entries)
        except OSError as error:
            raise OutputError(
                f"black box: {error.filename or self._folder.path}: {error.strerror}; make room, "
                "or name another recording.folder"
            ) from error
        log.info("black box (%s) written to %s", reason, path)
        return path

    def _write_black_box(self, reason: str, entries: Sequence[Entry]) -> Path:
        self._folder.make_room(*self._open_files())
        file = self._new_file(f"{BLACK_BOX}_{reason}", {**self._about, "reason": reason})
        try:
            self._begin_file(file, entries[0].log_ns if entries else self._clock.at(None))
            file.write(entries)
            file.flush()
            file.close()
        except OSError as error:
            file.abandon()
            raise OSError(error.errno, error.strerror, str(file.path)) from error
        self._folder.make_room_for_black_box(file.path, *self._open_files())
        return file.path

    def _open_files(self) -> tuple[Path, ...]:
        return () if self._file is None else (self._file.path,)


def _end_where_it_is(file: RecordingFile) -> None:
    """Also where it was moved, so that who moved it has it whole. Raises OSError."""
    if file.is_removed:
        file.abandon()
    else:
        file.close()


def _how_it_went(file: RecordingFile) -> str:
    """What is lost of a file that is no more where it was begun."""
    if not file.is_removed:
        return f"{file.path} was moved while it was written, and ended there"
    seconds = 0.0 if file.first_ns is None else (file.last_ns - file.first_ns) / 1e9
    return (
        f"{file.path} was removed while it was written: {file.bytes / MIB:.1f} MiB of "
        f"{seconds:.0f} s are lost"
    )
