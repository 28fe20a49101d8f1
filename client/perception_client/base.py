"""SubscriberBase: what every form of a subscriber has in common, and none needs a socket for: the
checks of arguments, and what was received so far. `Subscriber`, `AsyncSubscriber` and the recorded
labels of tests add the receiving."""

import inspect
from collections.abc import Callable
from typing import Any

from perception_client.errors import (
    ArgumentTypeError,
    ConfigError,
    NoCalibrationError,
    NotSeenError,
)
from perception_client.inbox import Inbox
from perception_client.messages.calibration import Calibration
from perception_client.messages.health import HealthMessage
from perception_client.text import duration


class SubscriberBase:
    """Properties of what was received so far. Reading a property receives nothing and never waits;
    `wait`, `latest`, `require`, `receive`, `wait_for`, `health`, `calibration` and iteration
    receive.

    source: endpoint or file, for the texts of errors. camera: None for all.
    """

    def __init__(self, source: str, camera: str | None, inbox: Inbox) -> None:
        if camera is not None and not isinstance(camera, str):
            raise ArgumentTypeError(f"camera is {camera!r:.40}", fix="give a camera's name")
        self._source = source
        self._camera = camera or None
        self._inbox = inbox

    @property
    def alive(self) -> bool:
        """Whether a message was received that the node sent in the last 2.5 seconds, and none that
        says that it stops. A node sends one a second at least.

        Counts what was received so far: a loop that only looks at `alive` receives nothing, and
        finds False after 2.5 seconds; call `wait` or `health` in it.
        """
        return self._inbox.alive

    @property
    def newest_health(self) -> HealthMessage | None:
        """The newest health message received so far, however old; None before the first."""
        return self._inbox.health

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the node's cameras, as far as received; empty before the first health."""
        return self._inbox.cameras

    @property
    def rejected(self) -> int:
        """Number of received messages that could not be read: random bytes, a newer schema."""
        return self._inbox.rejected

    @property
    def last_rejection(self) -> str | None:
        """Why the newest of the rejected messages could not be read; None without one."""
        return self._inbox.last_rejection

    def late(self, camera: str) -> int:
        """Number of received messages of a camera that came after its deadline (`deadline_s` of
        the node). Messages that `latest` and `require` skip after a rest are not counted."""
        return self._inbox.late[camera]

    def _camera_of(self, camera: str | None) -> str | None:
        """The camera that a call means. Raises ConfigError for one that this subscriber was not
        made for, and would wait for in vain."""
        if camera and self._camera and camera != self._camera:
            raise ConfigError(
                f"this subscriber receives camera {self._camera!r} only, not {camera!r}",
                fix=f"make another one with camera={camera!r}",
            )
        return camera or self._camera

    def _not_seen(self, name: str | None, timeout_s: float) -> NotSeenError:
        """The error of `wait_for` where messages came, and none showed the class."""
        thing = "nothing" if name is None else f"no {name!r}"
        return NotSeenError(f"{self._source}: {thing} was seen for {duration(timeout_s)}")

    def _calibration(self, camera: str) -> Calibration | None:
        """A camera's calibration; None where the node's info was not received yet. Raises
        NoCalibrationError, UnknownCameraError."""
        info = self._inbox.info
        if info is None:
            return None
        for calibration in info.calibrations:
            if calibration.camera == camera:
                return calibration
        if (unknown := self._inbox.unknown_camera(camera)) is not None:
            raise unknown
        raise NoCalibrationError(
            f"camera {camera!r} has no calibration",
            fix="give [camera.calibration] in the node's file",
        )


def check_callback(
    name: str, callback: Callable[..., Any] | None, *, required: bool = False
) -> None:
    """Raises ArgumentTypeError for a callback that cannot be called with one argument. Found when
    it is registered, not in the emergency that it is for.

    name: of the argument, for the error.
    """
    if callback is None and not required:
        return
    if not callable(callback):
        raise ArgumentTypeError(
            f"{name} is {callback!r:.60}", fix="give a function of one argument"
        )
    called = (callback, getattr(type(callback), "__call__", None))  # noqa: B004  # of an object
    if any(inspect.iscoroutinefunction(function) for function in called):
        raise ArgumentTypeError(
            f"{name} is async, and is called from a thread without an event loop",
            fix="give a plain function, which may call loop.call_soon_threadsafe",
        )
    try:
        signature = inspect.signature(callback)
    except ValueError:  # some functions written in C have no signature
        return
    try:
        signature.bind(object())
    except TypeError as error:
        raise ArgumentTypeError(
            f"{name} has to take one argument, {_ARGUMENTS[name]}, and "
            f"{getattr(callback, '__name__', repr(callback))}{signature} does not: {error}"
        ) from None


_ARGUMENTS = {
    "callback": "the NotUsableError that says why",
    "on_fresh": "the first usable LabelsMessage",
}
