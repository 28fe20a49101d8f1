"""Recorder: the thread that writes recordings and keeps the black box.

It never holds up the thread that gives it something: what exceeds the bounds of the intake is
lost, and counted. Messages go first, and frames, which have to be encoded, after them: on a
computer that is too busy to encode pictures, the file still has the messages.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from node import __version__
from node.config.schema import NodeConfig, RecordingConfig
from node.errors import OutputError
from node.image.frame import Frame
from node.process.output_files import remedy
from node.recording.black_box import BlackBox
from node.recording.dump_trigger import DumpTrigger
from node.recording.encode import Clock, config_entry, frame_entries, message_entries
from node.recording.folder import MIB, RecordingFolder
from node.recording.intake import HOLD_S, Intake, Item, WaitingMessage
from node.recording.new_files import NewFiles
from node.recording.rotation import OTHER_FOLDER, Rotation
from perception_client.messages.kinds import InfoMessage, Message, RecordingHealth, boot_id
from perception_client.recordings.names import BLACK_BOX
from perception_client.recordings.records import Entry

log = logging.getLogger(__name__)

FLUSH_S = 0.25
"""Period at which the chunk in progress ends: so much of a recording is lost with a process that
is killed, and so late the thread may run on a busy computer."""
NICENESS = 10
"""Of the recorder's thread: the inference has priority."""
LAST_FRAMES_SHARE = 0.5
"""Share of the time of an end or a crash in which waiting frames are encoded; then the file is
ended without the others. A file without its index is worth less than one without its last
frames."""
_Result = TypeVar("_Result")


class Recorder:
    """Records the frames and messages of a node of this configuration.

    Without a recording and a black box, a frame costs nothing. A disk that fails ends the recording
    with an error in `health`; all else goes on. Any thread calls the methods, and none blocks but
    `start` and `close`.
    """

    def __init__(self, config: NodeConfig, session: str) -> None:
        """session: of the node's messages, for the metadata of the files."""
        self._config = config
        self._settings = 0
        self._recording = config.recording
        self._clock = Clock()
        self._intake = Intake(self._clock)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._closing = False
        self._frames_until = float("inf")
        # The thread owns the rest.
        self._folder = _folder(config.name, config.recording)
        about = {
            "node": config.name,
            "session": session,
            "version": __version__,
            "boot_id": boot_id() or "",
        }
        self._files = NewFiles(self._folder, about, self._head)
        self._rotation = Rotation(config.recording, self._folder, self._files, self._clock)
        self._black_box = _black_box(config.recording)
        self._trigger = DumpTrigger(config.recording)
        self._dump_reason: str | None = None
        self._dumped_at = float("-inf")
        self._info: InfoMessage | None = None

    @property
    def health(self) -> RecordingHealth:
        """The state of the recording, for the health message."""
        rotation = self._rotation
        return RecordingHealth(
            state=rotation.state,
            file=None if rotation.path is None else str(rotation.path),
            bytes=rotation.bytes,
            lost_frames=self._intake.lost_frames,
            lost_messages=self._intake.lost_messages,
            last_error=rotation.last_error,
            skipped_black_boxes=self._trigger.skipped,
        )

    @property
    def failure(self) -> str | None:
        """After `close`, why the recording is incomplete; None where it is not."""
        if self._rotation.file is not None:
            return f"{self._rotation.path} could not be ended"
        if self._rotation.state == "failed":
            return self._rotation.last_error
        return self._rotation.lost

    def start(self) -> None:
        """Starts the thread; with `recording.enabled` the recording. Raises OutputError where the
        recording cannot be written."""
        self._thread.start()
        if self._recording.enabled:
            self.begin().result()

    @property
    def _is_recording(self) -> bool:
        return self._rotation.file is not None or self._black_box is not None

    def frame(self, frame: Frame) -> None:
        """Records a frame."""
        if self._is_recording:
            self._intake.put_frame(frame)

    def message(self, message: Message) -> None:
        """Records a message that was sent."""
        if isinstance(message, InfoMessage):
            self._info = message
        if self._is_recording:
            self._intake.put_message(message)

    def configuration(self, config: NodeConfig, settings: int) -> None:
        """Records that another configuration is in force. settings: its number."""

        def change() -> None:
            self._config, self._settings = config, settings
            self._rotation.write([config_entry(config, settings, self._clock.at(None))])

        self._intake.put_command(change)

    def begin(self) -> "Future[Path]":
        """Begins a recording, or goes on with the one in progress; its file. The Future may have an
        OutputError."""
        return self._call(self._rotation.begin)

    def end(self) -> "Future[Path | None]":
        """Ends the recording; its file, None without a recording. The Future may have an
        OutputError."""
        return self._call(self._end)

    def dump(self, reason: str, *, within_s: float = float("inf")) -> "Future[Path]":
        """Writes the black box out; its file. The Future may have an OutputError. within_s: frames
        whose encoding takes longer are left out."""
        until = time.monotonic() + within_s * LAST_FRAMES_SHARE
        return self._call(lambda: self._dump(reason, until))

    def close(self, timeout_s: float) -> bool:
        """Writes what waits and ends the recording; whether that was done in time."""
        self._frames_until = time.monotonic() + timeout_s * LAST_FRAMES_SHARE
        self._closing = True
        self._intake.close()
        self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        if not ended and self._rotation.file is not None:
            path = self._rotation.path
            log.error(
                "%s could not be ended in %.1f s; repair it with: perception-node recover %s",
                path, timeout_s, path,
            )  # fmt: skip
        return ended

    def _call(self, work: Callable[[], _Result]) -> "Future[_Result]":
        answer: Future[_Result] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

        self._intake.put_command(run)
        return answer

    # The thread.

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            try:
                item = self._intake.get(self._patience_s())
            except queue.Empty:
                item = self._write_due_frame
            if item is None:
                break
            try:
                self._process(item)
                self._dump_where_due()
                if time.monotonic() - self._rotation.flushed_at >= FLUSH_S:
                    self._rotation.flush()
            except OSError as error:
                self._rotation.fail(error)
            except Exception:  # a frame or message that cannot be recorded costs itself alone
                log.exception("recording: one record is lost")
                self._intake.count_lost_message()
        try:
            self._end()
        except OutputError as error:
            log.error("%s", error)

    def _process(self, item: Item) -> None:
        if not isinstance(item, WaitingMessage):
            item()
            return
        self._add(message_entries(item.message, item.log_ns))
        if self._black_box is not None:
            reason = self._trigger.reason(item.message, time.monotonic())
            self._dump_reason = reason or self._dump_reason

    def _patience_s(self) -> float:
        """How long the thread waits for a message before it encodes a frame."""
        if self._intake.frame_is_due:
            return 0.0
        return HOLD_S / 2 if self._intake.frames_waiting else FLUSH_S / 2

    def _write_due_frame(self) -> None:
        if self._intake.frame_is_due:
            self._write_frame()

    def _write_frame(self) -> None:
        waiting = self._intake.take_frame()
        self._add(
            frame_entries(
                waiting.frame,
                waiting.log_ns,
                quality=self._recording.quality,
                lost_before=waiting.lost_before,
            )
        )

    def _write_frames(self, until: float) -> None:
        """Writes the frames that wait now, until a time on CLOCK_MONOTONIC in s. Frames that come
        meanwhile are not included: a busy computer encodes more slowly than they come."""
        for _ in range(self._intake.frames_waiting):
            if time.monotonic() >= until:
                break
            try:
                self._write_frame()
            except OSError as error:  # the black box has the frame nevertheless
                self._rotation.fail(error)
            except Exception:  # a frame that cannot be recorded costs itself, not the file
                log.exception("recording: one frame is lost")
                self._intake.count_lost_frames(1)

    def _add(self, entries: Iterable[Entry]) -> None:
        entries = tuple(entries)
        if self._black_box is not None:
            for entry in entries:
                self._black_box.add(entry)
        self._rotation.write(entries)

    def _head(self, log_ns: int) -> Iterable[Entry]:
        """The first entries of each file: the configuration and the label names."""
        yield config_entry(self._config, self._settings, log_ns)
        if self._info is not None:
            yield from message_entries(self._info, log_ns)

    def _end(self) -> Path | None:
        self._write_frames(self._frames_until)
        if self._closing:
            count = self._intake.lose_frames()
            if count and self._rotation.file is not None:
                log.warning(
                    "recording: the last %d frames are not in %s: this computer was too busy to "
                    "encode them", count, self._rotation.path,
                )  # fmt: skip
        return self._rotation.end()

    # The black box.

    def _dump_where_due(self) -> None:
        """Writes the black box that a message triggered, once the previous one is a length of the
        black box ago, or at once when the recorder closes."""
        if self._dump_reason is None:
            return
        elapsed_s = time.monotonic() - self._dumped_at
        if elapsed_s < self._recording.black_box_s and not self._closing:
            return
        reason, self._dump_reason = self._dump_reason, None
        try:
            self._dump(reason, self._frames_until)
        except OutputError as error:
            self._rotation.note_failure(str(error))
            log.error("%s", error)

    def _dump(self, reason: str, frames_until: float) -> Path:
        if self._black_box is None:
            raise OutputError("there is no black box", fix="set recording.black_box_s, in seconds")
        self._write_frames(frames_until)
        entries = self._black_box.take()
        self._dumped_at = time.monotonic()
        try:
            path = self._write_black_box(reason, entries)
        except OSError as error:
            raise OutputError(
                f"black box: {error.filename or self._folder.path}: {error.strerror}",
                fix=remedy(error, OTHER_FOLDER),
            ) from error
        log.info("black box (%s) written to %s", reason, path)
        return path

    def _write_black_box(self, reason: str, entries: Sequence[Entry]) -> Path:
        self._folder.make_room(*self._rotation.open_files)
        log_ns = entries[0].log_ns if entries else self._clock.at(None)
        file = self._files.make(log_ns, f"{BLACK_BOX}_{reason}", reason=reason)
        try:
            file.write(entries)
            file.flush()
            file.close()
        except OSError as error:
            file.abandon()
            raise OSError(error.errno, error.strerror, str(file.path)) from error
        self._folder.make_room_for_black_box(file.path, *self._rotation.open_files)
        return file.path


def _folder(node: str, settings: RecordingConfig) -> RecordingFolder:
    return RecordingFolder(
        settings.folder,
        node,
        None if settings.budget_mb is None else settings.budget_mb * MIB,
        settings.keep_free_mb * MIB,
        settings.black_box_budget_mb * MIB,
    )


def _black_box(settings: RecordingConfig) -> BlackBox | None:
    if settings.black_box_s <= 0:
        return None
    return BlackBox(settings.black_box_s, settings.black_box_mb * MIB)
