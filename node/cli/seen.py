"""What a message shows, for `label` and `watch`: detections, areas or labels, with their names and
figures."""

from perception_client.messages.kinds import Area, Detection, Label, LabelsMessage

Thing = Label | Detection | Area


def things_in(message: LabelsMessage, *, labels: int) -> tuple[Thing, ...]:
    """The detections, areas or best `labels` labels of a message, best or largest first."""
    return message.detections or message.areas or message.labels[:labels]


def named(thing: Thing) -> str:
    """The name, with the number of a track."""
    track = thing.track if isinstance(thing, Detection) else None
    return thing.name if track is None else f"{thing.name} #{track}"


def share(thing: Thing) -> float:
    """The score, or an area's fraction of the picture; 0 to 1."""
    return thing.fraction if isinstance(thing, Area) else thing.score


def figure(thing: Thing, digits: int) -> str:
    """The score with `digits` digits, or an area's fraction in per cent."""
    return f"{thing.fraction:.1%}" if isinstance(thing, Area) else f"{thing.score:.{digits}f}"
