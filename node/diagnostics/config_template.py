"""The configuration file that explains every key, with the settings of this computer's camera."""

import re
from dataclasses import dataclass
from pathlib import Path

import node
from node.config.schema import CameraConfig
from node.errors import ConfigError, SourceError


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """A camera of this computer. Size, rate and format are its defaults, None where unknown."""

    source: str
    """A path that stays the same after a replug, if udev provides one; else /dev/videoN."""
    width: int | None
    height: int | None
    fps: float | None
    pixel_format: str | None


def found_camera() -> FoundCamera | None:
    """The first camera that can be opened; None without one."""
    from node.capture.sources.device import open_device

    by_id = sorted(Path("/dev/v4l/by-id").glob("*-video-index0"))
    for device in (*by_id, *sorted(Path("/dev").glob("video*"))):
        try:
            opened = open_device(CameraConfig(source=str(device)))
        except SourceError:
            continue
        facts = opened.facts
        opened.close()
        return FoundCamera(str(device), facts.width, facts.height, facts.fps, facts.pixel_format)
    return None


def template_for(camera: FoundCamera | None) -> str:
    """The text of config/default.toml with this camera's settings. Raises ConfigError where the
    installation lacks that file."""
    text = _template().read_text(encoding="utf-8")
    if camera is None:
        return text
    text = text.replace('source = "demo"', f'source = "{camera.source}"', 1)
    for key, value in (("width", camera.width), ("height", camera.height), ("fps", camera.fps)):
        if value is not None:
            text = re.sub(rf"^# {key} = \S+", f"{key} = {value}", text, count=1, flags=re.M)
    if camera.pixel_format is not None:
        text = text.replace('# fourcc = "MJPG"', f'fourcc = "{camera.pixel_format}"', 1)
    return text


def _template() -> Path:
    package = Path(node.__file__).parent
    for file in (package / "default.toml", package.parent / "config" / "default.toml"):
        if file.is_file():
            return file
    raise ConfigError("default.toml is missing from this installation", fix="install it again")
