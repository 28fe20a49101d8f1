"""Limits on the size of pictures and of recording chunks. A header of a few bytes can claim any
size, so each decoder checks the claim first. One set of limits for the whole process."""

from dataclasses import dataclass

from node.errors import PictureError
from perception_client.recordings.limits import max_chunk_mb, set_max_chunk_mb

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on untrusted input.

    Attributes:
        max_pixels: pixels of one picture of a camera, stream, file or recording.
        max_picture_mb: MiB of one coded picture.
        max_chunk_mb: MiB of one chunk of a recording after decompression.
    """

    max_pixels: int = 70_000_000
    max_picture_mb: int = 200
    max_chunk_mb: int = max_chunk_mb()

    @property
    def max_picture_bytes(self) -> int:
        """Bytes of one coded picture."""
        return self.max_picture_mb * MIB

    @property
    def max_buffer_bytes(self) -> int:
        """Largest buffer that a decoder needs for a picture within the limits: three bytes a pixel
        and 1 MiB of padding, or the coded picture."""
        return max(3 * self.max_pixels + MIB, self.max_picture_bytes)


_in_force = Limits()


def limits() -> Limits:
    """Returns the limits in force."""
    return _in_force


def set_limits(new: Limits) -> None:
    """Replaces the limits; call it before anything is opened."""
    global _in_force
    _in_force = new
    set_max_chunk_mb(new.max_chunk_mb)


def check_pixels(width: int, height: int) -> None:
    """Raises PictureError for a claimed size above limits.max_pixels."""
    limit = _in_force.max_pixels
    if width * height > limit:
        raise PictureError(
            f"{width} x {height} pixels are more than limits.max_pixels = {limit}",
            fix="raise it if the picture is real",
        )


def check_bytes(count: int) -> None:
    """Raises PictureError for more bytes than limits.max_picture_mb."""
    if count > _in_force.max_picture_bytes:
        raise PictureError(
            f"{count / MIB:.0f} MiB are more than limits.max_picture_mb = "
            f"{_in_force.max_picture_mb}",
            fix="raise it if the picture is real",
        )
