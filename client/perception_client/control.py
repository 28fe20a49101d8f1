"""Control: sends requests to a running node. Needs pyzmq and msgpack only. A Control belongs to the
thread that first calls it, as a Subscriber does."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

from perception_client.connection import Handshakes, Sockets, keys_of
from perception_client.endpoint import connect_to, keep_alive
from perception_client.errors import (
    ArgumentTypeError,
    ControlError,
    EndpointError,
    MessageError,
    NoAnswerError,
)
from perception_client.keys import Keys
from perception_client.messages.codec import from_map
from perception_client.messages.labels import LabelsMessage
from perception_client.ownership import Owner
from perception_client.text import duration
from perception_client.waits import poll, seconds

DEFAULT_CONTROL_ENDPOINT = "tcp://127.0.0.1:5571"
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Longest answer that is accepted, in bytes: a snapshot of the largest cameras."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request."""

    settings: int
    """Number of the settings in force."""
    first_seq: Mapping[str, int]
    """By camera, `seq` of the first message that the change applies to; empty without a change."""
    result: Mapping[str, Any]
    """What the command returns; its keys are those of the command."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A labelled frame."""

    jpeg: bytes
    """The frame as JPEG."""
    message: LabelsMessage
    """The labels of the frame."""


class Control:
    """A connection to a node's control socket (`control.endpoint` of its configuration).

    Each call raises ControlError where the node refuses, and NoAnswerError where no answer comes in
    time.

    Args:
        endpoint: `tcp://HOST:PORT` or `ipc://PATH`.
        keys: this client's folder of keys, where the node asks for keys.
        timeout_s: longest wait for an answer, in seconds; `math.inf` waits without limit.

    Raises:
        EndpointError: the endpoint is malformed.
        ConfigError: the folder of keys is missing or damaged.
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
        self._owner = Owner(f"control of {endpoint}")
        own = keys_of(keys)
        self._sockets = Sockets(zmq.Context())
        try:
            self._socket: zmq.Socket[bytes] = self._sockets.open(zmq.DEALER)
            self._socket.setsockopt(zmq.LINGER, 0)
            # Without it libzmq keeps a request for a node that is not there yet, and the node
            # carries the request out when it starts, long after the caller gave up.
            self._socket.setsockopt(zmq.IMMEDIATE, 1)
            # Not ZeroMQ's heartbeats: with them libzmq can end the process by an assertion.
            keep_alive(self._socket)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_ANSWER_BYTES)
            if own is not None:
                own.put_on(self._socket)
            self._handshakes = Handshakes(
                self._sockets, self._socket, str(endpoint), keyed=own is not None, access="control"
            )
            connect_to(self._socket, endpoint, DEFAULT_CONTROL_ENDPOINT)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(f"endpoint {endpoint!r}: no socket: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def status(self) -> Mapping[str, Any]:
        """The node's health, model, and the settings that can be changed."""
        return self.ask("status").result

    def pause(self, camera: str | None = None) -> Answer:
        """Stops looking, at one camera or at all: their status becomes `paused`."""
        return self.ask("pause", **_given(camera=camera))

    def resume(self, camera: str | None = None) -> Answer:
        """Looks again."""
        return self.ask("resume", **_given(camera=camera))

    def set(self, settings: Mapping[str, Any]) -> Answer:
        """Changes keys of the configuration, all or none: `{"detect.score": 0.4}`. None unsets a
        key whose default is none: `{"camera.front.max_fps": None}`."""
        return self.ask("set", settings=dict(settings))

    def model(self, name: str, weights: str | None = None, *, timeout_s: float = 120.0) -> Answer:
        """Loads another model and tries it beside the running one, then swaps them between two
        frames. Where that fails the running one stays, and ControlError says why.

        timeout_s: longest wait for the swap, in seconds.
        """
        wait_s = seconds("timeout_s", timeout_s)
        return self._ask_long("model", wait_s, name=name, **_given(weights=weights))

    def snapshot(self, camera: str | None = None, quality: int = 90) -> Picture:
        """The next labelled frame of a camera, with its message.

        camera: None for the first one. quality: of the JPEG, 1 to 100.
        """
        result = self.ask("snapshot", quality=quality, **_given(camera=camera)).result
        message = from_map("labels", result.get("message"))
        jpeg = result.get("jpeg")
        if not isinstance(message, LabelsMessage) or not isinstance(jpeg, bytes):
            raise MessageError(f"{self._endpoint}: a snapshot without a picture")
        return Picture(jpeg, message)

    def record(self, action: str) -> str | None:
        """Starts or stops the recording, or writes the black box to a file. Gives the path of the
        file on the node's computer; None where nothing was recorded.

        action: `start`, `stop` or `dump`.
        """
        file = self._ask_long("record", max(self._timeout_s, 30.0), action=action).result
        return None if file.get("file") is None else str(file["file"])

    def step(self, frames: int = 1) -> tuple[LabelsMessage, ...]:
        """Lets a replay that was started with `--step` label its next frames. Gives their messages,
        which subscribers get too; fewer than `frames` at the end of the recording."""
        wait_s = self._timeout_s + max(frames, 0)
        result = self.ask("step", timeout_s=wait_s, frames=frames).result
        messages = tuple(from_map("labels", content) for content in result.get("messages", ()))
        return tuple(message for message in messages if isinstance(message, LabelsMessage))

    def ask(self, command: str, *, timeout_s: float | None = None, **arguments: Any) -> Answer:
        """Sends any command by its name, and gives the answer.

        timeout_s: longest wait, in seconds; None for that of the constructor. Raises
        ArgumentTypeError for arguments that msgpack cannot hold.
        """
        wait_s = self._timeout_s if timeout_s is None else seconds("timeout_s", timeout_s)
        return self._ask(command, wait_s, wait_s, arguments)

    def _ask_long(self, command: str, wait_s: float, **arguments: Any) -> Answer:
        """A command that takes long waits no longer than others for a node that is not there."""
        return self._ask(command, wait_s, min(wait_s, self._timeout_s), arguments)

    def _ask(
        self, command: str, wait_s: float, connect_s: float, arguments: Mapping[str, Any]
    ) -> Answer:
        self._owner.check()
        number = next(self._numbers)
        began_s = time.monotonic()
        request = {"schema": 1, "id": number, "command": command, "arguments": arguments}
        try:
            body = msgpack.packb(request)
        except (TypeError, ValueError, OverflowError) as error:
            raise ArgumentTypeError(f"{command}: these arguments cannot be sent: {error}") from None
        # The socket takes a request once it is connected.
        while not poll(
            self._socket, began_s + connect_s - time.monotonic(), self._owner.check, zmq.POLLOUT
        ):
            if time.monotonic() >= began_s + connect_s:
                raise self._silence(connect_s)
        self._socket.send(body, zmq.NOBLOCK)
        while (left_s := began_s + wait_s - time.monotonic()) > 0:
            if not poll(self._socket, left_s, self._owner.check):
                continue
            answer = _read(self._socket.recv_multipart(zmq.NOBLOCK)[-1])
            if answer.get("id") == number:  # not one that came too late for the call before
                return self._checked(answer)
        raise self._silence(wait_s)

    def close(self) -> None:
        """Closes the connection; a second call does nothing. Raises WrongThreadError while another
        thread uses it."""
        if self._owner.close():
            self._sockets.close()

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
        if (refusal := self._handshakes.refusal()) is not None:
            return NoAnswerError(f"{self._endpoint}: {refusal}")
        return NoAnswerError(
            f"{self._endpoint}: no answer for {duration(wait_s)}",
            fix="is the node running, with "
            "control.endpoint set to this? Without wire.keys it answers its own user and root only "
            "(its log names others): run this as that user, or make keys (perception-node keys)",
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
        raise MessageError(
            "an answer that is not msgpack", fix="is this a control socket?"
        ) from error
    if not isinstance(answer, dict):
        raise MessageError("an answer that is no map", fix="is this a control socket?")
    return answer


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
