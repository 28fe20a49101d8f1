"""The settings of a recording that decide what a replay of it gives."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from node.config.schema import CameraConfig, NodeConfig

_SECTIONS = ("name", "model", "detect", "crops", "segment", "track", "smooth")
"""Those that change the messages. The others are of the robot: endpoints, keys, files, limits."""
_OF_THE_COMPUTER = ("threads", "inference_timeout_s")
"""Settings of `model` for the robot's processor."""
_OF_THE_CLASSES = {"detect": ("classes", "class_scores"), "segment": ("classes",)}
"""Settings that name classes of the model."""


def settings_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the settings for a replay, as content of a configuration file, and in words what
    cannot be used of them: a recording may come from another version or from a stranger.

    A GPU becomes `auto`, and threads and timeouts become the defaults: the computer of the replay
    may be another one.
    """
    content: dict[str, Any] = {}
    problems: list[str] = []
    for section in _SECTIONS:
        if section in config:
            value = _known(section, config[section])
            if _is_valid({section: value}):
                content[section] = value
            else:
                problems.append(f"the recorded settings of {section} are invalid, and are not used")
    model = content.get("model", {})
    if str(model.get("device", "")).startswith("cuda"):
        model["device"] = "auto"
    for key in _OF_THE_COMPUTER:
        model.pop(key, None)
    cameras = [camera for camera in map(_camera, _listed(config.get("camera"))) if camera]
    if cameras and _is_valid({"camera": cameras}):
        content["camera"] = cameras
    elif "camera" in config:
        problems.append("the recorded settings of the cameras are invalid, and are not used")
    return content, problems


def for_another_model(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings without those that are of the recorded model alone: its weights, its
    classes and the second model."""
    other = {key: value for key, value in content.items() if key != "crops"}
    for section, keys in {**_OF_THE_CLASSES, "model": ("name", "weights")}.items():
        if section in other:
            other[section] = {
                key: value for key, value in other[section].items() if key not in keys
            }
    return other


def _known(section: str, value: object) -> object:
    """Returns a section without keys that this version does not have."""
    kind = NodeConfig.model_fields[section].annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, Mapping)):
        return value
    return {key: item for key, item in value.items() if key in kind.model_fields}


def _camera(value: object) -> dict[str, Any]:
    """Returns the settings of a camera without its source, which the recording replaces."""
    if not isinstance(value, Mapping):
        return {}
    known = CameraConfig.model_fields.keys() - {"source"}
    return {key: item for key, item in value.items() if key in known}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _is_valid(content: dict[str, Any]) -> bool:
    try:
        NodeConfig.model_validate(content)
    except (ValidationError, RecursionError):
        return False
    return True
