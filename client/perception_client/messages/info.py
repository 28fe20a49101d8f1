"""The info message: the classes of the model, and the calibrations of the cameras."""

from dataclasses import dataclass

from perception_client.messages.calibration import Calibration
from perception_client.messages.labels import ModelInfo
from perception_client.messages.wire import SCHEMA
from perception_client.text import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoMessage:
    """One message of `info/<node>/`: the classes of the model, and the calibrations."""

    schema: int = SCHEMA
    """Version of the schema; raised when a meaning changes."""
    node: str
    """Name of the node, from its configuration."""
    session: str
    """One run of the node; a new one at every start."""
    seq: int
    """Number of the message in its session, from 0."""
    published_ns: int
    """When the message was handed to the socket, in Unix ns."""
    model: ModelInfo
    """The model in use."""
    names: tuple[str, ...]
    """Names of its classes; `names[id]` is that of class `id`."""
    calibrations: tuple[Calibration, ...] = ()
    """Of the cameras that have one."""
    crop_model: ModelInfo | None = None
    """The second model, which looks at the crop of each detection; None without one."""
    crop_names: tuple[str, ...] = ()
    """Names of the classes of the second model."""
    retained: bool = False
    """Whether the message was sent again for a subscriber that joined later."""

    def __str__(self) -> str:
        """One line: the model and the number of its classes."""
        return f"{printable(self.node)}: {self.model}, {len(self.names)} classes"
