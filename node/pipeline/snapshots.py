"""SnapshotRequests: requests for the next labelled frame of a camera, with its message."""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from node.image.frame import Frame, Image
from node.pipeline.call_queue import CallQueue
from perception_client.messages.kinds import LabelsMessage, Message


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frame and the message with its labels. image: [height, width, 3] uint8 BGR."""

    image: Image
    message: LabelsMessage


class SnapshotRequests:
    """The open requests of each camera. The inference thread owns them."""

    def __init__(self, calls: CallQueue) -> None:
        self._calls = calls
        self._open: defaultdict[str, list[Future[Snapshot]]] = defaultdict(list)

    def request(self, camera: str) -> "Future[Snapshot]":
        """Requests the next labelled frame of a camera, from any thread. Cancelling the Future
        withdraws the request."""
        answer: Future[Snapshot] = Future()

        def add() -> None:
            remaining = [future for future in self._open[camera] if not future.cancelled()]
            self._open[camera] = [*remaining, answer]

        self._calls.call(add)
        return answer

    def take(self, frame: Frame) -> Callable[[Message], None] | None:
        """Takes the open requests of a frame's camera; the callable answers them with the frame's
        finished message. None without open requests."""
        answers = self._open.pop(frame.camera, None)
        if not answers:
            return None

        def answer_all(message: Message) -> None:
            assert isinstance(message, LabelsMessage)
            for answer in answers:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(Snapshot(frame.image, message))

        return answer_all
