"""What an http address serves: pictures, video, or something that is no live stream. Judged by the
first bytes, since servers often declare a wrong type, then by the declared type."""

import re

_PICTURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF[\s\S]{4}WEBP")
_PART = re.compile(rb"\s*--[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*?content-type:\s*image/", re.IGNORECASE)
"""A first part of a multipart stream."""
HEAD_BYTES = 512
"""Bytes that decide for most kinds."""
CONTAINER_BYTES = 4096
"""Bytes that decide whether a video has an end."""
_ENDLESS_BYTES = (1 << 31) - 1
"""Length of a body from which on it means no end."""
_ENDLESS_SEGMENT = re.compile(rb"\x18\x53\x80\x67(?:\xff|\x01\xff{7})")
"""A segment of unknown size (Matroska, RFC 8794, 6.2)."""

_RTSP_INSTEAD = "give the camera's RTSP or motion JPEG address, whose pictures are current"
_STREAM_INSTEAD = "give the address of the stream itself"
_PLAYLIST_TYPES = {
    "application/vnd.apple.mpegurl": "HLS",
    "application/x-mpegurl": "HLS",
    "audio/mpegurl": "HLS",
    "audio/x-mpegurl": "HLS",
    "application/dash+xml": "DASH",
    "application/vnd.ms-sstr+xml": "Smooth Streaming",
}
_PLAYLIST_STARTS = (
    (b"#EXTM3U", "HLS"),
    (b"<MPD", "DASH"),
    (b"<SmoothStreamingMedia", "Smooth Streaming"),
)
_CONTAINERS = (
    (re.compile(rb"[\s\S]{4}(?:ftyp|styp|moov|mdat|free|wide|skip)"), "MP4"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "Matroska or WebM"),
    (re.compile(rb"RIFF[\s\S]{4}AVI "), "AVI"),
    (re.compile(rb"FLV\x01"), "FLV"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "ASF"),
    (re.compile(rb"OggS"), "Ogg"),
    (re.compile(rb"\x00\x00\x01\xba"), "MPEG-PS"),
    (re.compile(rb"\x47[\s\S]{187}\x47"), "MPEG-TS"),
    (re.compile(rb"\x00{1,3}\x01"), "H.264 or H.265"),
)
_MAY_BE_ENDLESS = ("MP4", "Matroska or WebM")
_OTHER_PICTURES = (
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"BM[\s\S]{4}\0\0\0\0"), "BMP"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF"),
    (re.compile(rb"[\s\S]{4}ftyp(?:avif|avis|heic|heix|mif1|msf1)"), "AVIF or HEIC"),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<svg", re.IGNORECASE), "SVG"),
)
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_CUT_BYTES = 3
"""Bytes of a character of UTF-8 that may be missing at the end of the first bytes."""
_HTML = re.compile(rb"\s*(?:<!--[\s\S]*?-->\s*)?<(?:!doctype\s+html|html|head|body)", re.IGNORECASE)


def holds_pictures(head: bytes) -> bool:
    """Whether a body that begins with `head` is a picture, pictures one after another, or a
    multipart stream of pictures."""
    return bool(_PICTURE.match(head) or _PART.match(head))


def holds_video(head: bytes) -> bool:
    """Whether a body that begins with `head` is a video of a known container."""
    return any(pattern.match(head) for pattern, _ in _CONTAINERS)


def needs_more(head: bytes) -> bool:
    """Whether CONTAINER_BYTES decide, where there are as many."""
    return any(pattern.match(head) for pattern, kind in _CONTAINERS if kind in _MAY_BE_ENDLESS)


def refusal(media_type: str, head: bytes, length: int | None) -> tuple[str, str] | None:
    """Returns what an address serves instead of a live stream, and the fix; None for a live stream
    of video, or for something unknown.

    Args:
        media_type: as the server declares it, in lower case.
        head: the first bytes; not those of a picture or a multipart stream.
        length: of the body in bytes; None if the server does not declare it.
    """
    if not head:
        return "answers with an empty body", _STREAM_INSTEAD
    playlist = _playlist(media_type, head)
    if playlist is not None:
        return (
            f"is a playlist of {playlist}: its pictures come in segments, seconds old, and nothing "
            "says how old",
            _RTSP_INSTEAD,
        )
    for pattern, kind in _OTHER_PICTURES:
        if pattern.match(head):
            return f"is a picture of type {kind}", "JPEG, PNG and WebP are read"
    container = next((kind for pattern, kind in _CONTAINERS if pattern.match(head)), None)
    if container is not None:
        if not _is_recorded(container, head, length):
            return None
        size = f" of {length / 1e6:.3g} MB" if length is not None else ""
        return (
            f"is a recorded video{size} ({container}), not a live stream",
            "download it and give the file, or set discard_backlog = false to label it as it comes",
        )
    if _HTML.match(head) or media_type in ("text/html", "application/xhtml+xml"):
        return "is an HTML page, not a stream", _STREAM_INSTEAD
    if _is_text(head):
        return f"is a text{_declared(media_type)}, not a stream", _STREAM_INSTEAD
    if media_type.startswith("image/"):
        return f"is a picture of unknown type{_declared(media_type)}", "JPEG, PNG and WebP are read"
    if media_type.startswith("audio/"):
        return f"is sound{_declared(media_type)}, not a video", _STREAM_INSTEAD
    return None


def _is_recorded(container: str, head: bytes, length: int | None) -> bool:
    """Whether a video has an end: by its container, else by the declared length of the body."""
    if container == "MP4":
        return b"mvex" not in head  # ISO 14496-12, 8.8.1: fragments follow
    if container == "Matroska or WebM":
        return _ENDLESS_SEGMENT.search(head) is None
    return container == "AVI" or (length is not None and length < _ENDLESS_BYTES)


def _playlist(media_type: str, head: bytes) -> str | None:
    text = head.removeprefix(_BYTE_ORDER_MARK)
    for start, kind in _PLAYLIST_STARTS:
        if text.lstrip().startswith(start) or (start[:1] == b"<" and start in text):
            return kind
    return _PLAYLIST_TYPES.get(media_type) if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    if _CONTROL.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - _MOST_CUT_BYTES > 0
    return True


def _declared(media_type: str) -> str:
    return f" ({media_type[:60]})" if media_type else ""
