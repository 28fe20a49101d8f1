"""Frame: the pixels and the capture time of one frame of a camera. Produced by capture, read by
perception."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception_client.messages.clock import boottime_ns

Clock = Literal["driver", "host", "media"]
"""Source of a stamp: the camera driver, this host at arrival, or the position in a recording."""
Image = NDArray[np.uint8]
"""[height, width, 3], BGR."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a frame was captured.

    Attributes:
        unix_ns: Unix time in ns; on the clock `media`, the position in the recording.
        mono_ns: the same moment on CLOCK_MONOTONIC in ns; None on the clock `media`.
        clock: where the stamp comes from.
        boot_ns: the same moment on CLOCK_BOOTTIME in ns, which includes suspended time; None if it
            was not read.
        uncertainty_ns: upper bound of how much older the frame is than the stamp; None if the stamp
            hides no age (a driver's stamp, a recording).
    """

    unix_ns: int
    mono_ns: int | None
    clock: Clock
    boot_ns: int | None = None
    uncertainty_ns: int | None = None

    @classmethod
    def now(cls) -> "Stamp":
        """Returns the current time of the host's clocks."""
        return cls(time.time_ns(), time.monotonic_ns(), "host", boottime_ns())

    @classmethod
    def from_driver(cls, driver_mono_ns: int) -> "Stamp":
        """Returns the stamp for a driver's time on CLOCK_MONOTONIC, in ns."""
        age_ns = time.monotonic_ns() - driver_mono_ns
        return cls(time.time_ns() - age_ns, driver_mono_ns, "driver", boottime_ns() - age_ns)

    @classmethod
    def at_media(cls, media_ns: int) -> "Stamp":
        """Returns the stamp for a position in a recording, in ns, without a known date."""
        return cls(unix_ns=media_ns, mono_ns=None, clock="media")


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame.

    Attributes:
        image: [height, width, 3] uint8, BGR.
        camera: name of the camera.
        frame_id: number of the frame in its camera, from 0; gaps are dropped frames.
        stamp: None if the capture time is unknown (a photograph).
        media_ns: position in the recording, None for a live camera.
        capture_ns: time from the stamp to the decoded image.
        file: the file that it was read from, None for a camera.
        epoch: number of the continuous scene: rises when the source is reopened, restarts or
            changes its size.
        jpeg: the JPEG bytes that it was decoded from, None for another format.
        dropped: frames of its camera dropped since the previous one.
        degraded: why its camera runs below its configuration.
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
