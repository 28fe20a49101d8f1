"""The configuration file that explains every key, filled in for the camera that is found here."""

import re
from dataclasses import dataclass
from pathlib import Path

import node
from node.config.schema import CameraConfig
from node.errors import ConfigError, SourceError


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """A camera of this computer. source: a path that stays the same after a replug, where udev
    makes one. The rest is what it gives when asked for nothing."""

    source: str
    width: int | None
    height: int | None
    fps: float | None
    pixel_format: str | None


def found_camera() -> FoundCamera | None:
    """The first camera that can be opened."""
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
    """config/default.toml, with this camera's settings in it. Raises ConfigError where the
    installation lacks it."""
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
    raise ConfigError("default.toml is missing from this installation; install it again")
