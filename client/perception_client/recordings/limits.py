"""The limit on a chunk of a recording after decompression: its header of a few bytes can claim any
size. One limit for the whole process."""

MIB = 1 << 20

_max_chunk_mb = 64


def max_chunk_mb() -> int:
    """The limit in force, in MiB."""
    return _max_chunk_mb


def max_chunk_bytes() -> int:
    """The limit in force, in bytes."""
    return _max_chunk_mb * MIB


def set_max_chunk_mb(limit_mb: int) -> None:
    """Replaces the limit; call it before a recording is opened."""
    global _max_chunk_mb
    _max_chunk_mb = limit_mb
