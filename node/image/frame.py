"""Frame: the pixels of one moment of one camera and when that moment was. What capture makes and
perception reads."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception_client.messages.clock import boottime_ns

Clock = Literal["driver", "host", "media"]
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a frame was captured.

    unix_ns: Unix time in ns; on the clock `media` the position in the recording instead.
    mono_ns: the same moment on CLOCK_MONOTONIC in ns, None on the clock `media`. boot_ns: on
    CLOCK_BOOTTIME, which counts suspended time; None where nobody read it.
    uncertainty_ns: by how much the frame can be older than that, None where nothing is known to
    hide age (a driver's stamp, a recording).
    """

    unix_ns: int
    mono_ns: int | None
    clock: Clock
    boot_ns: int | None = None
    uncertainty_ns: int | None = None

    @classmethod
    def now(cls) -> "Stamp":
        """This moment, by the host's clocks."""
        return cls(time.time_ns(), time.monotonic_ns(), "host", boottime_ns())

    @classmethod
    def from_driver(cls, driver_mono_ns: int) -> "Stamp":
        """The moment that a camera driver wrote down on CLOCK_MONOTONIC, in ns."""
        age_ns = time.monotonic_ns() - driver_mono_ns
        return cls(time.time_ns() - age_ns, driver_mono_ns, "driver", boottime_ns() - age_ns)

    @classmethod
    def at_media(cls, media_ns: int) -> "Stamp":
        """A position in a recording that does not say when it was made."""
        return cls(unix_ns=media_ns, mono_ns=None, clock="media")


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured picture.

    image: [height, width, 3] uint8, BGR, as OpenCV decodes.
    frame_id: number of the captured frame of this camera, from 0.
    stamp: None where nothing says when the picture was taken (a photograph).
    media_ns: position in the recording, None for a live camera.
    capture_ns: how long reading and decoding took after the stamp.
    jpeg: the bytes it came in, where the source delivers JPEG.
    epoch: how often the source was opened or began again before; another one, another scene.
    file: the file the picture came from, None for a camera.
    dropped: frames of its camera that were given up before it, since the one before.
    degraded: why its camera runs below what is configured.
    ready: what perception made of the picture ahead of its turn; of no use to anybody else.
    """

    image: Image
    camera: str
    frame_id: int
    stamp: Stamp | None
    media_ns: int | None
    capture_ns: int
    file: Path | None = None
    epoch: int = 0
    jpeg: bytes | None = None
    dropped: int = 0
    degraded: tuple[str, ...] = ()
    ready: object | None = None
