"""perception_client: what control code uses to receive the labels of a perception node, and to
control it. Needs pyzmq and msgpack only.

    from perception_client import Subscriber

    with Subscriber("tcp://robot:5570") as subscriber:
        labels = subscriber.require(max_age_s=0.2)
"""

from typing import TYPE_CHECKING, Any

from perception_client.control import Answer, Control, Picture
from perception_client.errors import (
    CannotSeeError,
    ClientError,
    ConfigError,
    ControlError,
    EndpointError,
    MessageError,
    NoAnswerError,
    NodeGoneError,
    NoMessageError,
    NotLookingError,
    NotSeenError,
    NotUsableError,
    PerceptionError,
    TooOldError,
)
from perception_client.events import EventStream
from perception_client.inbox import Gap
from perception_client.keys import Keys
from perception_client.messages.calibration import Bearing, Calibration
from perception_client.messages.kinds import (
    Box,
    Detection,
    EventMessage,
    HealthMessage,
    InfoMessage,
    Label,
    LabelsMessage,
    Status,
)
from perception_client.subscriber import StaleGuard, Subscriber

if TYPE_CHECKING:
    from perception_client.aio import AsyncSubscriber

__all__ = [
    "Answer",
    "AsyncSubscriber",
    "Bearing",
    "Box",
    "Calibration",
    "CannotSeeError",
    "ClientError",
    "ConfigError",
    "Control",
    "ControlError",
    "Detection",
    "EndpointError",
    "EventMessage",
    "EventStream",
    "Gap",
    "HealthMessage",
    "InfoMessage",
    "Keys",
    "Label",
    "LabelsMessage",
    "MessageError",
    "NoAnswerError",
    "NoMessageError",
    "NodeGoneError",
    "NotLookingError",
    "NotSeenError",
    "NotUsableError",
    "PerceptionError",
    "Picture",
    "StaleGuard",
    "Status",
    "Subscriber",
    "TooOldError",
]


def __getattr__(name: str) -> Any:
    """AsyncSubscriber, when it is asked for: loading asyncio takes as long as all the rest."""
    if name == "AsyncSubscriber":
        from perception_client.aio import AsyncSubscriber

        return AsyncSubscriber
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
