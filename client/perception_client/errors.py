"""The library's exceptions. Each message names the thing, what is wrong with it, and the mend.

PerceptionError                 of the library and of the node; carries a command's exit code
├── ClientError                 all that this library raises
│   ├── ConfigError             bad usage: an argument, a file, a folder of keys
│   │   └── EndpointError       an endpoint that cannot be bound or connected to
│   ├── ControlError            a request that the node refuses; nothing was changed
│   ├── MessageError            received bytes that are no message this version can read
│   ├── NoAnswerError           the node did not answer a request in time
│   ├── NoMessageError          nothing was received in time
│   ├── NotSeenError            messages came, none showed what was waited for
│   └── NotUsableError          there are no labels to act on
│       ├── NodeGoneError       the node was not heard of lately, or said that it stops
│       ├── CannotSeeError      the camera cannot see
│       ├── NotLookingError     the node was told not to look
│       └── TooOldError         the newest labels are older than allowed
└── (the node's own: node.errors)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perception_client.messages.kinds import LabelsMessage


class PerceptionError(Exception):
    """Something a person can mend; commands print it as one line and exit with `exit_code`."""

    exit_code = 1


class ClientError(PerceptionError):
    """All that this library raises, for code that treats it alike."""


class ConfigError(ClientError):
    """Bad usage or configuration: an unknown key, a wrong type, a value out of range."""

    exit_code = 2


class EndpointError(ConfigError):
    """An endpoint that cannot be bound or connected to."""


class ControlError(ClientError):
    """A request that the node refuses, or could not carry out; nothing was changed."""


class MessageError(ClientError):
    """Received bytes that are not a message this version can read."""


class NoAnswerError(ClientError, TimeoutError):
    """The node did not answer in time: gone, unreachable, without a control socket, or refusing
    these keys or this user."""


class NoMessageError(ClientError, TimeoutError):
    """Nothing was received in the time given: the node is gone, unreachable, or silent."""


class NotSeenError(ClientError, TimeoutError):
    """Messages came, and none showed what was waited for."""


class NotUsableError(ClientError, RuntimeError):
    """There are no labels to act on; its kind says why.

    message: the newest of the camera, None where there is none.
    """

    def __init__(self, why: str, message: "LabelsMessage | None") -> None:
        super().__init__(why)
        self.message = message


class NodeGoneError(NotUsableError):
    """Nothing was heard of the node lately, or it said that it stops."""


class CannotSeeError(NotUsableError):
    """The node lives, and its camera cannot see (`no_camera`, `stalled`)."""


class NotLookingError(NotUsableError):
    """The node lives, and was told not to look (`paused`)."""


class TooOldError(NotUsableError):
    """The node lives and looks, and its newest labels are older than allowed; or this subscriber
    rested, and what is new is still on its way to it."""
