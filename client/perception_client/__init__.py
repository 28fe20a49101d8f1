"""perception_client: what control code uses to receive the labels of a perception node, and to
control it. Needs pyzmq and msgpack only.

    from perception_client import Subscriber

    with Subscriber("tcp://robot:5570") as subscriber:
        labels = subscriber.require(max_age_s=0.2)
"""

from typing import TYPE_CHECKING, Any

from perception_client.control import Answer, Control, Picture
from perception_client.errors import (
    ArgumentError,
    ArgumentTypeError,
    CannotSeeError,
    ClientError,
    ClosedError,
    ConfigError,
    ControlError,
    EndpointError,
    ForkedError,
    GuardError,
    MessageError,
    NoAnswerError,
    NoCalibrationError,
    NodeGoneError,
    NoMessageError,
    NotLookingError,
    NotSeenError,
    NotUsableError,
    PerceptionError,
    TooOldError,
    UnknownCameraError,
    UnknownClassError,
    UseError,
    WrongThreadError,
)
from perception_client.events import EventStream
from perception_client.inbox import Gap
from perception_client.keys import Keys
from perception_client.messages.calibration import Bearing, Calibration
from perception_client.messages.events import EventMessage
from perception_client.messages.health import HealthMessage
from perception_client.messages.info import InfoMessage
from perception_client.messages.labels import Box, Detection, Label, LabelsMessage, Pose, Status
from perception_client.protocol import AsyncLabelSource, LabelSource
from perception_client.subscriber import StaleGuard, Subscriber

if TYPE_CHECKING:
    from perception_client.aio import AsyncSubscriber

__all__ = [
    "Answer",
    "ArgumentError",
    "ArgumentTypeError",
    "AsyncLabelSource",
    "AsyncSubscriber",
    "Bearing",
    "Box",
    "Calibration",
    "CannotSeeError",
    "ClientError",
    "ClosedError",
    "ConfigError",
    "Control",
    "ControlError",
    "Detection",
    "EndpointError",
    "EventMessage",
    "EventStream",
    "ForkedError",
    "Gap",
    "GuardError",
    "HealthMessage",
    "InfoMessage",
    "Keys",
    "Label",
    "LabelSource",
    "LabelsMessage",
    "MessageError",
    "NoAnswerError",
    "NoCalibrationError",
    "NoMessageError",
    "NodeGoneError",
    "NotLookingError",
    "NotSeenError",
    "NotUsableError",
    "PerceptionError",
    "Picture",
    "Pose",
    "StaleGuard",
    "Status",
    "Subscriber",
    "TooOldError",
    "UnknownCameraError",
    "UnknownClassError",
    "UseError",
    "WrongThreadError",
]


def __getattr__(name: str) -> Any:
    """Loads AsyncSubscriber on its first use: asyncio takes as long to load as all the rest."""
    if name == "AsyncSubscriber":
        from perception_client.aio import AsyncSubscriber

        return AsyncSubscriber
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
