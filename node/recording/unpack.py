"""Unpacking the chunks of a recording, up to the length that was said and no further: a few bytes
can be packed that have no end."""

import lz4.frame
import zstandard

_PART_BYTES = 1 << 20


def unpacked(compression: str, data: bytes, length: int) -> bytes:
    """The chunk's bytes. compression: as MCAP names it; length: that it says it has.

    Raises ValueError where it has another length or the compression is not known, and whatever the
    libraries raise for damage.
    """
    if not compression:
        content = data
    elif compression == "zstd":
        content = _unpacked_zstd(data, length)
    elif compression == "lz4":
        content = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=length + 1)
    else:
        raise ValueError(f"its compression {compression[:20]!r} is not known")
    if len(content) != length:
        raise ValueError(f"it says that it has {length} bytes, and has others")
    return content


def _unpacked_zstd(data: bytes, length: int) -> bytes:
    """In parts: the library believes what the data say of their length."""
    content = bytearray()
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        while len(content) <= length and (
            part := stream.read(min(_PART_BYTES, length + 1 - len(content)))
        ):
            content += part
    return bytes(content)
