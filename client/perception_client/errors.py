"""The library's exceptions. Each carries the `problem` (the thing, and what is wrong with it), the
`fix` where one is known, and the `exit_code` of a command that ends with it.

PerceptionError                 of the library and of the node; carries a command's exit code
├── ClientError                 everything that this library raises
│   ├── ConfigError             bad usage: an argument, a file, a folder of keys
│   │   ├── EndpointError       an endpoint that cannot be bound or connected to
│   │   ├── ArgumentError       an argument out of its range; also a ValueError
│   │   ├── ArgumentTypeError   an argument of the wrong type; also a TypeError
│   │   └── UnknownClassError   a class name that the model does not have
│   ├── SourceError             a recording that cannot be read; for the node also a camera, a file
│   ├── UseError                a connection that cannot be used here; also a RuntimeError
│   │   ├── ClosedError         it was closed
│   │   ├── WrongThreadError    it belongs to another thread or event loop
│   │   └── ForkedError         it was made before this process was forked
│   ├── GuardError              a stale guard that cannot start; also a RuntimeError
│   ├── ControlError            a request that the node refuses; nothing was changed
│   ├── MessageError            received bytes that are no message this version can read
│   ├── NoAnswerError           the node did not answer a request in time
│   ├── NoCalibrationError      a camera without calibration; also a LookupError
│   ├── NoMessageError          nothing was received in time
│   ├── NotSeenError            messages came, none showed the class
│   └── NotUsableError          there are no labels to act on
│       ├── NodeGoneError       nothing was received from the node lately, or the node stops
│       ├── CannotSeeError      the camera cannot see
│       ├── NotLookingError     the camera is paused
│       ├── TooOldError         the newest labels are older than allowed
│       └── UnknownCameraError  the node has no camera of this name; also a ConfigError
└── (the node's own: node.errors)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_client.messages.labels import LabelsMessage


class PerceptionError(Exception):
    """Something that a person can fix; commands print it as one line and exit with `exit_code`.

    problem: the thing, and what is wrong with it.
    fix: what to do about it; None where that is not known. The text of the error is both.
    """

    exit_code = 1

    def __init__(self, problem: str = "", *, fix: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}" if self.fix else self.problem


class ClientError(PerceptionError):
    """Base of everything that this library raises: `except ClientError` catches all of it."""


class ConfigError(ClientError):
    """Bad usage or configuration: an unknown key, a wrong type, a value out of range."""

    exit_code = 2


class EndpointError(ConfigError):
    """An endpoint that cannot be bound or connected to."""


class ArgumentError(ConfigError, ValueError):
    """An argument out of its range, such as a negative number of seconds."""


class ArgumentTypeError(ConfigError, TypeError):
    """An argument of the wrong type, such as a callback that does not take one argument."""


class UnknownClassError(ConfigError):
    """A class name that the model does not have. The text names the nearest one."""


class SourceError(ClientError):
    """A recording that cannot be opened or read. The node uses it for its other sources as well: a
    camera, stream, video or picture."""

    exit_code = 3


class UseError(ClientError, RuntimeError):
    """A connection that cannot be used here: closed, of another thread, or of another process."""


class ClosedError(UseError):
    """The connection was closed."""


class WrongThreadError(UseError):
    """The connection belongs to another thread or another event loop."""


class ForkedError(UseError):
    """The connection was made before this process was forked; make a new one in this process."""


class GuardError(ClientError, RuntimeError):
    """A stale guard that cannot start, because the system has no thread for it."""


class ControlError(ClientError):
    """A request that the node refuses, or could not carry out; nothing was changed."""


class MessageError(ClientError):
    """Received bytes that are not a message this version can read."""


class NoAnswerError(ClientError, TimeoutError):
    """The node did not answer in time: gone, unreachable, without a control socket, or refusing
    these keys or this user."""


class NoCalibrationError(ClientError, LookupError):
    """A camera whose configuration has no calibration."""


class NoMessageError(ClientError, TimeoutError):
    """Nothing was received in the time given: the node is gone, unreachable, or silent.

    refusal: why the node refuses this client's connection; None where it is not known to.
    """

    def __init__(
        self, problem: str = "", *, fix: str | None = None, refusal: str | None = None
    ) -> None:
        super().__init__(problem, fix=fix)
        self.refusal = refusal


class NotSeenError(ClientError, TimeoutError):
    """Messages came, and none of them showed the class."""


class NotUsableError(ClientError, RuntimeError):
    """There are no labels to act on; the subclass says why.

    message: the newest message of the camera; None where none was received.
    """

    def __init__(
        self, problem: str, message: "LabelsMessage | None", *, fix: str | None = None
    ) -> None:
        super().__init__(problem, fix=fix)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy, which would call the class with the text alone: a pool of processes
        hands errors over so."""
        return type(self), (self.problem, self.message), {"fix": self.fix}


class NodeGoneError(NotUsableError):
    """Nothing was received from the node lately, or the node announced that it stops."""


class CannotSeeError(NotUsableError):
    """The node is alive, and its camera cannot see (`no_camera`, `stalled`)."""


class NotLookingError(NotUsableError):
    """The node is alive, and its camera is paused (`paused`)."""


class TooOldError(NotUsableError):
    """The node is alive and looks, and its newest labels are older than allowed; or this subscriber
    did not read for a while, and newer labels are still on their way to it."""


class UnknownCameraError(NotUsableError, ConfigError):
    """The node is alive, and has no camera of this name. The text names its cameras."""
