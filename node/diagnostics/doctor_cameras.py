"""The doctor's checks of cameras: access, negotiated format, and bus bandwidth."""

import os
from collections.abc import Iterator
from pathlib import Path

from node.config.redact import redacted
from node.config.schema import CameraConfig, NodeConfig
from node.diagnostics.finding import Finding
from node.errors import SourceError

USB2_BYTES_PER_S = 35e6
"""Approximate throughput of USB 2 for video: 24.6 MB/s for one device by isochronous transfers
(USB 2.0 specification), shared by all devices of a hub; more by bulk transfers."""
_UNPACKED = {"YUYV": 2.0, "UYVY": 2.0, "NV12": 1.5, "YU12": 1.5, "BGR3": 3.0, "RGB3": 3.0}
"""Bytes a pixel of V4L2's uncompressed formats."""


def cameras(config: NodeConfig) -> Iterator[Finding]:
    """Yields findings of this computer's devices, then of the configured cameras."""
    from node.capture.sources.open import is_live

    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        yield Finding(
            "cameras", "note", "no /dev/video* on this computer",
            "plug in a camera, or label a stream, a video, or --source demo",
        )  # fmt: skip
    for device in devices:
        if os.access(device, os.R_OK | os.W_OK):
            yield Finding("camera", "ok", f"{device}{_card(device)}")
        else:
            yield Finding(
                "camera", "wrong", f"{device} may not be opened by this user",
                "sudo usermod -aG video $USER, then log in again",
            )  # fmt: skip
    for camera in config.camera:
        if camera.source.isdecimal() or camera.source.startswith("/dev/"):
            yield _negotiated(camera)
        elif camera.source.startswith("gst:") or not is_live(camera.source):
            yield _readable(camera)
        else:
            yield Finding(
                f"camera {camera.name}", "note", f"{redacted(camera.source)} was not opened",
                f"look at it with: perception-node run --source {redacted(camera.source)}",
            )  # fmt: skip


def _readable(camera: CameraConfig) -> Finding:
    """A file, folder or pipeline, of which a file or folder is read."""
    from node.capture.sources.open import check_source, open_source

    subject, shown = f"camera {camera.name}", redacted(camera.source)
    try:
        check_source(camera)
        if camera.source.startswith("gst:"):
            return Finding(subject, "note", f"{shown} was not opened")
        source = open_source(camera)
        picture = source.read()
        source.close()
    except SourceError as error:
        return Finding(subject, "wrong", error.problem, error.fix)
    if picture is None:
        return Finding(
            subject, "wrong", f"{shown}: no picture in it can be read",
            f"see why: perception-node label {shown}",
        )  # fmt: skip
    height, width = picture.image.shape[:2]
    return Finding(subject, "ok", f"{shown}, {width}x{height}")


def _negotiated(camera: CameraConfig) -> Finding:
    from node.capture.sources.device import open_device

    subject = f"camera {camera.name}"
    try:
        source = open_device(camera)
    except SourceError as error:
        return Finding(
            subject, "wrong", error.problem, error.fix or "use one of the cameras listed above"
        )
    facts = source.facts
    source.close()
    gives = f"{facts.width}x{facts.height}, {facts.fps or 0:g} fps, {facts.pixel_format}"
    if facts.differences:
        return Finding(
            subject, "note", f"gives {gives}; {'; '.join(facts.differences)}",
            'configure a format of v4l2-ctl --list-formats-ext; fourcc = "MJPG" is often faster',
        )  # fmt: skip
    return bandwidth(subject, gives, facts.pixel_format, facts.width, facts.height, facts.fps)


def bandwidth(
    subject: str,
    gives: str,
    pixel_format: str | None,
    width: int | None,
    height: int | None,
    fps: float | None,
) -> Finding:
    """Checks whether a USB 2 bus can carry a camera's format.

    Args:
        subject: name of the finding.
        gives: the negotiated format in words.
        pixel_format: V4L2's four characters; None where unknown.
        width, height: in pixels; None where unknown.
        fps: frames a second; None where unknown.
    """
    per_pixel = _UNPACKED.get(pixel_format or "")
    if per_pixel is None or width is None or height is None or fps is None:
        return Finding(subject, "ok", f"gives {gives}")
    rate = per_pixel * width * height * fps
    if rate <= USB2_BYTES_PER_S:
        return Finding(subject, "ok", f"gives {gives}, {rate / 1e6:.0f} MB/s")
    return Finding(
        subject, "note", f"gives {gives}: {rate / 1e6:.0f} MB/s, where USB 2 carries about 35",
        'fourcc = "MJPG", a smaller picture, or a USB 3 port',
    )  # fmt: skip


def _card(device: Path) -> str:
    name = Path("/sys/class/video4linux") / device.name / "name"
    return f" ({name.read_text().strip()})" if name.exists() else ""
