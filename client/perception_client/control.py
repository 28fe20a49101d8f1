"""Control: asks a running node to do things. Needs pyzmq and msgpack only. It belongs to the thread
that made it."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

from perception_client.endpoint import address_of, prepare
from perception_client.errors import ControlError, EndpointError, MessageError, NoAnswerError
from perception_client.keys import Keys
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import LabelsMessage
from perception_client.waits import poll_ms, seconds

DEFAULT_CONTROL_ENDPOINT = "tcp://127.0.0.1:5571"
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Longest answer that is taken, in bytes: a snapshot of the largest cameras."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. settings: number of the settings in force; first_seq: by camera the
    first message that the change applies to."""

    settings: int
    first_seq: Mapping[str, int]
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """A labelled frame as JPEG, and the message that tells of it."""

    jpeg: bytes
    message: LabelsMessage


class Control:
    """A connection to a node's control socket (`control.endpoint` of its configuration).

    keys: a folder of keys, where the node asks for them. timeout_s: how long an answer is waited
    for; `math.inf` for ever. Raises EndpointError and ConfigError.
    Each call raises ControlError where the node refuses, NoAnswerError where it does not answer.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_CONTROL_ENDPOINT,
        *,
        keys: Path | str | Keys | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = seconds("timeout_s", timeout_s)
        self._numbers = itertools.count(1)
        own = keys if keys is None or isinstance(keys, Keys) else Keys.read(keys)
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        # A request waits for a connection here, where it is given up in time; libzmq would keep it
        # and have a node that comes up later carry it out, long after its answer was given up.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_ANSWER_BYTES)
        if own is not None:
            own.put_on(self._socket)
        prepare(self._socket, endpoint)
        try:
            self._socket.connect(address_of(endpoint))
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(
                f"endpoint {endpoint!r} cannot be connected to: {error.strerror}; "
                f"write tcp://HOST:PORT or ipc://PATH, for example {DEFAULT_CONTROL_ENDPOINT}"
            ) from error

    def status(self) -> Mapping[str, Any]:
        """The node's health, model, and the settings that can be changed."""
        return self.ask("status").result

    def pause(self, camera: str | None = None) -> Answer:
        """Looks no more, at one camera or at all: their status becomes `paused`."""
        return self.ask("pause", **_given(camera=camera))

    def resume(self, camera: str | None = None) -> Answer:
        """Looks again."""
        return self.ask("resume", **_given(camera=camera))

    def set(self, settings: Mapping[str, Any]) -> Answer:
        """Changes keys of the configuration, all or none: `{"detect.score": 0.4}`."""
        return self.ask("set", settings=dict(settings))

    def model(self, name: str, weights: str | None = None, *, timeout_s: float = 120.0) -> Answer:
        """Another model: loaded and tried beside the running one, then put in its place between two
        frames. Where that fails the one before goes on, and ControlError says why."""
        return self.ask("model", timeout_s=timeout_s, name=name, **_given(weights=weights))

    def snapshot(self, camera: str | None = None, quality: int = 90) -> Picture:
        """The next labelled frame of a camera (the first one), with its message."""
        result = self.ask("snapshot", quality=quality, **_given(camera=camera)).result
        message = from_map("labels", result.get("message"))
        jpeg = result.get("jpeg")
        if not isinstance(message, LabelsMessage) or not isinstance(jpeg, bytes):
            raise MessageError(f"{self._endpoint}: a snapshot without a picture")
        return Picture(jpeg, message)

    def record(self, action: str) -> str | None:
        """`start`s or `stop`s the recording, or writes the black box out (`dump`); the file's path
        on the node's computer, None where nothing was recorded."""
        file = self.ask("record", timeout_s=max(self._timeout_s, 30.0), action=action).result
        return None if file.get("file") is None else str(file["file"])

    def step(self, frames: int = 1) -> tuple[LabelsMessage, ...]:
        """Lets a replay that was started with `--step` label its next frames; their messages, which
        subscribers have been sent. Fewer than asked for: the recording is over."""
        wait_s = self._timeout_s + max(frames, 0)
        result = self.ask("step", timeout_s=wait_s, frames=frames).result
        messages = tuple(from_map("labels", one) for one in result.get("messages", ()))
        return tuple(message for message in messages if isinstance(message, LabelsMessage))

    def ask(self, command: str, *, timeout_s: float | None = None, **arguments: Any) -> Answer:
        """Any command by its name, and its answer."""
        number = next(self._numbers)
        wait_s = self._timeout_s if timeout_s is None else seconds("timeout_s", timeout_s)
        deadline = time.monotonic() + wait_s
        request = {"schema": 1, "id": number, "command": command, "arguments": arguments}
        body = msgpack.packb(request)
        while not self._socket.poll(poll_ms(deadline - time.monotonic()), zmq.POLLOUT):
            if time.monotonic() >= deadline:
                raise self._silence(wait_s)
        self._socket.send(body, zmq.NOBLOCK)
        while (left_s := deadline - time.monotonic()) > 0:
            if not self._socket.poll(poll_ms(left_s), zmq.POLLIN):
                continue
            answer = _read(self._socket.recv_multipart(zmq.NOBLOCK)[-1])
            if answer.get("id") == number:  # not one that came too late for the call before
                return self._checked(answer)
        raise self._silence(wait_s)

    def close(self) -> None:
        """Lets go of the connection; twice does no harm."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _silence(self, wait_s: float) -> NoAnswerError:
        return NoAnswerError(
            f"{self._endpoint}: no answer for {wait_s:g} s; does the node run, with "
            "control.endpoint set to this? Without wire.keys it answers its own user and root only "
            "(its log names others): run this as that user, or make keys (perception-node keys); "
            "with keys it answers clients on its allow list for control"
        )

    def _checked(self, answer: Mapping[str, Any]) -> Answer:
        if not answer.get("ok"):
            raise ControlError(str(answer.get("error")))
        return Answer(
            int(answer.get("settings") or 0), answer.get("first_seq", {}), answer.get("result", {})
        )


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        answer = msgpack.unpackb(body, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # msgpack raises ValueErrors and its own kinds; all mean this
        raise MessageError("an answer that is not msgpack; is this a control socket?") from error
    if not isinstance(answer, dict):
        raise MessageError("an answer that is no map; is this a control socket?")
    return answer


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
