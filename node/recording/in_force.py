"""InForce: the configuration and the model of a recording at one of its moments."""

from dataclasses import dataclass
from typing import Any

from node.recording.reader import CONFIG, INFO, Recording
from perception_client.messages.kinds import InfoMessage, ModelInfo


@dataclass(frozen=True, slots=True)
class InForce:
    """What was in force; None where the recording does not say.

    Attributes:
        config: the configuration, as `NodeConfig.model_dump` gives it, without passwords; not
            validated.
        model: the model.
        crop_model: the second model.
    """

    config: dict[str, Any] | None = None
    model: ModelInfo | None = None
    crop_model: ModelInfo | None = None


def in_force(recording: Recording, at_ns: int) -> InForce:
    """Returns what was in force at a log time; where that was recorded later only, the first that
    was."""
    config: dict[str, Any] | None = None
    info: InfoMessage | None = None
    missing = {name for name in (CONFIG, INFO) if recording.holds(name)}
    if not missing:
        return InForce()
    for entry in recording.entries(recording.part_start_ns(at_ns), schemas=(CONFIG, INFO)):
        if entry.log_ns > at_ns and not missing:
            break
        late = entry.log_ns > at_ns
        if entry.channel.name == CONFIG and not (late and config):
            config = recording.read_configuration(entry) or config
        elif entry.channel.name == INFO and not (late and info):
            message = recording.read_message("info", entry)
            info = message if isinstance(message, InfoMessage) else info
        missing -= {CONFIG} if config else set()
        missing -= {INFO} if info else set()
    if info is None:
        return InForce(config)
    return InForce(config, info.model, info.crop_model)
