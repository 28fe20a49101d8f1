"""Unpacks the chunks of a recording up to their declared length: a few packed bytes can unpack
without end."""

import lz4.frame
import zstandard

COMPRESSIONS = ("", "zstd", "lz4")
"""MCAP's names of the compressions that `unpacked` knows; empty for none."""
_PART_BYTES = 1 << 20


def unpacked(compression: str, data: bytes, length: int) -> bytes:
    """Unpacks a chunk.

    Args:
        compression: MCAP's name of it; empty for none.
        data: the packed bytes.
        length: the declared length of the result, in bytes.

    Raises ValueError for another length or an unknown compression, and any exception of the
    libraries for damaged data.
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
        raise ValueError(f"it declares {length} bytes, and contains a different number")
    return content


def unpacked_message(data: bytes, most: int) -> bytes:
    """A message of a ROS 2 bag, which may be packed by itself (compression mode `message`).

    Args:
        data: the message; unchanged where it is not packed.
        most: longest result, in bytes.

    Raises ValueError for a longer one, and any exception of the library for damaged data.
    """
    if not data.startswith(zstandard.FRAME_HEADER):
        return data
    content = _unpacked_zstd(data, most)
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most} bytes")
    return content


def _unpacked_zstd(data: bytes, length: int) -> bytes:
    """Unpacks in parts, since the library trusts the length that the data declare."""
    content = bytearray()
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        while len(content) <= length and (
            part := stream.read(min(_PART_BYTES, length + 1 - len(content)))
        ):
            content += part
    return bytes(content)
