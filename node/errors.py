"""The node's own exceptions, beside those that it shares with its clients (see
`perception_client.errors`). Each message names the thing, what is wrong with it, and the mend; each
class carries the exit code of the command that it ends.

    PerceptionError
    ├── SourceError             a camera, stream, video or picture
    │   ├── PictureError        one picture; the next may be fine
    │   └── BacklogError        pictures come, none of them of now
    ├── ModelError              a model or its weights
    │   └── FrameError          one frame without an answer that can be believed
    ├── InferenceError          only a new process helps
    ├── OutputError             a result that cannot be written
    └── ClientError             ConfigError, EndpointError, ControlError, MessageError ...
"""

from perception_client.errors import (
    ConfigError,
    ControlError,
    EndpointError,
    MessageError,
    PerceptionError,
)

__all__ = [
    "BacklogError",
    "ConfigError",
    "ControlError",
    "EndpointError",
    "FrameError",
    "InferenceError",
    "MessageError",
    "ModelError",
    "OutputError",
    "PerceptionError",
    "PictureError",
    "SourceError",
]


class SourceError(PerceptionError):
    """A camera, stream, video or picture that cannot be opened or read."""

    exit_code = 3


class PictureError(SourceError):
    """One picture of a camera that cannot be decoded; the next may be fine."""


class BacklogError(SourceError):
    """Pictures come, and for a while none of them could be shown as one of now; the next may."""


class ModelError(PerceptionError):
    """A model or its weights that cannot be found, fetched, read or run."""

    exit_code = 3


class FrameError(ModelError):
    """One frame that the model gave no answer for which can be believed; the next may be fine."""


class InferenceError(PerceptionError):
    """A model that fails again and again, or hangs: only a new process helps, which the
    supervisor starts."""

    exit_code = 4


class OutputError(PerceptionError):
    """A result that cannot be written: no space left, a device that went."""
