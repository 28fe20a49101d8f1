"""The node's own exceptions; `perception_client.errors` defines those that the node shares with its
clients. Each message names the thing, the problem and the fix; each class has the exit code of the
command that it ends. docs/architecture.md says who catches which.

    PerceptionError
    ├── ModelError              a model or its weights
    │   ├── FrameError          one frame with an invalid model output
    │   └── SettingsError       settings that do not fit the model
    ├── InferenceError          repeated failures or a hang; only a new process helps
    ├── OutputError             a result that cannot be written
    └── ClientError             ConfigError, EndpointError, ControlError, MessageError ...
        └── SourceError         a camera, stream, video, picture or recording
            ├── AccessError     a camera that refuses this user, or so many requests
            ├── PictureError    one picture; the next may be readable
            └── BacklogError    a stream delivers old pictures only
"""

from perception_client.errors import (
    ConfigError,
    ControlError,
    EndpointError,
    MessageError,
    PerceptionError,
    SourceError,
)

__all__ = [
    "CHECK_NAME",
    "AccessError",
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
    "SettingsError",
    "SourceError",
]

CHECK_NAME = "check the name; a relative path starts from the working directory"
"""The fix of an error about a path that does not exist."""


class AccessError(SourceError):
    """A camera that refuses this user, or so many requests. Many cameras block a user after a few
    failures, so it is asked less often."""


class PictureError(SourceError):
    """One picture that cannot be decoded; the next may be readable."""


class BacklogError(SourceError):
    """A stream delivers pictures, but for a while all were too old to label; the next may be
    current."""


class ModelError(PerceptionError):
    """A model or weights that cannot be found, fetched, read or run."""

    exit_code = 3


class FrameError(ModelError):
    """One frame for which the model's output is invalid; the next may be valid."""


class SettingsError(ModelError):
    """Settings of the configuration that do not fit the model: an unknown class, an engine that
    does not run it."""

    exit_code = 2


class InferenceError(PerceptionError):
    """A model that fails repeatedly, or hangs. Only a new process helps; a supervisor starts it."""

    exit_code = 4


class OutputError(PerceptionError):
    """A result that cannot be written: no space left, a removed device."""
