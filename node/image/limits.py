"""Limits: how large a picture or a chunk of a recording may be. A header of a few bytes can claim
any size, so each decoder looks at the claim first. One definition for all of the process."""

from dataclasses import dataclass

from node.errors import PictureError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """max_pixels: of a picture, of a camera, a stream, a file or a recording; max_picture_mb: MiB
    of its bytes as they come; max_chunk_mb: MiB of a chunk of a recording, unpacked."""

    max_pixels: int = 70_000_000
    max_picture_mb: int = 200
    max_chunk_mb: int = 64

    @property
    def max_picture_bytes(self) -> int:
        """Bytes of a picture as they come."""
        return self.max_picture_mb * MIB

    @property
    def max_chunk_bytes(self) -> int:
        """Bytes of a chunk, unpacked."""
        return self.max_chunk_mb * MIB

    @property
    def max_buffer_bytes(self) -> int:
        """Longest buffer that a decoder needs for a picture within the limits."""
        return max(3 * self.max_pixels + MIB, self.max_picture_bytes)


_in_force = Limits()


def limits() -> Limits:
    """Those in force."""
    return _in_force


def set_limits(new: Limits) -> None:
    """Puts others in force; called before anything is opened."""
    global _in_force
    _in_force = new


def check_pixels(width: int, height: int) -> None:
    """Raises PictureError for a picture that claims more than limits.max_pixels."""
    most = _in_force.max_pixels
    if width * height > most:
        raise PictureError(
            f"{width} x {height} pixels are more than limits.max_pixels = {most}; raise it if the "
            "picture is real"
        )


def check_bytes(count: int) -> None:
    """Raises PictureError for more bytes than limits.max_picture_mb."""
    if count > _in_force.max_picture_bytes:
        raise PictureError(
            f"{count / MIB:.0f} MiB are more than limits.max_picture_mb = "
            f"{_in_force.max_picture_mb}; raise it if the picture is real"
        )
