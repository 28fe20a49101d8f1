"""Opens the stream at an address."""

import time

from node.capture.backlog import BacklogMeter
from node.capture.packets import timeout_ms
from node.capture.rate import RateLimit
from node.capture.sources.base import Source, SourceFacts
from node.capture.sources.device import open_url
from node.capture.sources.http_answer import HttpAddress, HttpAnswer
from node.capture.sources.http_pictures import HttpPictures
from node.capture.sources.jpeg_stream import JpegStream
from node.capture.sources.media_kind import (
    CONTAINER_BYTES,
    HEAD_BYTES,
    holds_pictures,
    holds_video,
    needs_more,
    refusal,
)
from node.config.redact import redacted
from node.config.schema import CameraConfig
from node.errors import SourceError

_SECOND_TRY_S, _MAX_FIRST_TRY_S = 1.0, 4.0
"""Seconds until the second attempt, and most seconds of the first one; a longer one waited in
vain."""


def open_address(config: CameraConfig, limit: RateLimit | None = None) -> Source:
    """Opens the stream at an address: pictures by http here, all else in OpenCV. Raises
    SourceError.

    Args:
        config: the camera.
        limit: which frames are decoded; None: as configured.
    """
    if config.source.partition("://")[0].lower() not in ("http", "https"):
        return open_url(config, limit)
    label = f"camera '{config.name}': {redacted(config.source)}"
    address = HttpAddress(config.source, label, timeout_ms(config) / 1000)
    answer: HttpAnswer | None = None
    source: Source | None = None
    requested_ns = time.monotonic_ns()
    try:
        answer = address.get()
        if _serves_pictures(answer, discard_backlog=config.discard_backlog):
            limit = limit or RateLimit(config.max_fps)
            pictures = HttpPictures(address, answer, config, limit, requested_ns)
            facts = _facts(config)
            meter = BacklogMeter(config.fps, discard=config.discard_backlog, opened_ns=requested_ns)
            source = JpegStream(pictures, answer.label, config, facts, limit, meter)
            return source
    finally:
        if source is None:
            if answer is not None:
                answer.close()
            address.close()
    return _open_again(config, limit)


def _facts(config: CameraConfig) -> SourceFacts:
    """What is known before the first picture: nothing can be requested by http."""
    requested = (("width", config.width), ("height", config.height), ("fourcc", config.fourcc))
    differences = tuple(
        f"{name} {value} asked for, unknown given" for name, value in requested if value is not None
    )
    return SourceFacts(fps=config.fps, pixel_format="MJPG", differences=differences)


def _open_again(config: CameraConfig, limit: RateLimit | None) -> Source:
    """Opens an address whose first connection was closed just now, in OpenCV. A server for a single
    viewer may need a moment to notice that. Raises SourceError."""
    began_s = time.monotonic()
    try:
        return open_url(config, limit)
    except SourceError:
        if time.monotonic() - began_s > _MAX_FIRST_TRY_S:
            raise
    time.sleep(_SECOND_TRY_S)
    return open_url(config, limit)


def _serves_pictures(answer: HttpAnswer, *, discard_backlog: bool) -> bool:
    """Whether an answer consists of pictures; False for video. Raises SourceError for an answer
    that is no live stream."""
    # A slow stream need not have sent anything yet.
    if answer.is_multipart:
        return True
    head = answer.peek(HEAD_BYTES)
    if holds_pictures(head):
        return True
    if needs_more(head):
        head = answer.peek(CONTAINER_BYTES)
    refused = refusal(answer.media_type, head, answer.length)
    if refused is not None and (discard_backlog or not holds_video(head)):
        problem, fix = refused
        raise SourceError(f"{answer.label} {problem}", fix=fix)
    return False
