"""The package's own exceptions. Each message names the thing, what is wrong with it, and the mend;
each class carries the exit code of the command that it ends."""


class PerceptionNodeError(Exception):
    """Something a person can mend; commands print it as one line and exit with `exit_code`."""

    exit_code = 1


class ConfigError(PerceptionNodeError):
    """Bad usage or configuration: an unknown key, a wrong type, a value out of range."""

    exit_code = 2


class EndpointError(ConfigError):
    """An endpoint that cannot be bound or connected to."""


class SourceError(PerceptionNodeError):
    """A camera, stream, video or picture that cannot be opened or read."""

    exit_code = 3


class PictureError(SourceError):
    """One picture of a camera that cannot be decoded; the next may be fine."""


class BacklogError(SourceError):
    """Pictures come, and for a while none of them could be shown as one of now; the next may."""


class ModelError(PerceptionNodeError):
    """A model or its weights that cannot be found, fetched, read or run."""

    exit_code = 3


class FrameError(ModelError):
    """One frame that the model gave no answer for which can be believed; the next may be fine."""


class InferenceError(PerceptionNodeError):
    """A model that fails again and again, or hangs: only a new process helps, which the
    supervisor starts."""

    exit_code = 4


class ControlError(PerceptionNodeError):
    """A request that the node refuses, or could not carry out; nothing was changed."""


class OutputError(PerceptionNodeError):
    """A result that cannot be written: no space left, a device that went."""


class MessageError(PerceptionNodeError):
    """Received bytes that are not a message this version can read."""
