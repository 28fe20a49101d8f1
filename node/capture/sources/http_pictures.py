"""HttpPictures: pictures from an http address, as a stream or one by request."""

import re
import threading
import time
from collections import deque
from dataclasses import replace

from node.capture.backlog import Arrival
from node.capture.packets import CodedPicture, timeout_ms
from node.capture.picture_scanner import PictureScanner
from node.capture.rate import RateLimit
from node.capture.sources.http_answer import HttpAddress, HttpAnswer
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.frame import Stamp

DEFAULT_REQUEST_FPS = 5.0
"""Requests a second of a still-picture address whose camera has no `fps`."""
_SHORT_ANSWER_NS = 2_000_000_000
"""An answer of pictures that ends within this time is one of many; a longer one is a stream that
broke off."""
_MOST_OTHER_BYTES = 1 << 18
"""Bytes before the first picture of an answer, after which it counts as without pictures."""
_PART_TYPE = re.compile(rb"content-type:\s*([\w./+-]{1,60})", re.IGNORECASE)


class HttpPictures:
    """A `CodedSource` of one address: motion JPEG, as multipart or as plain JPEGs, and PNG or WebP
    in the place of JPEG. Boundaries and lengths need not be right.

    An address that ends each answer after its picture is requested at the camera's `fps`. Such a
    picture is shown once, and its age is bounded: the previous answer did not hold it, so it was
    taken after the previous request.

    Args:
        address: of the stream.
        answer: to its first request, of which nothing was read.
        config: the camera.
        limit: which pictures to decode; a still picture is not requested more often.
        requested_ns: when the first request began, CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        address: HttpAddress,
        answer: HttpAnswer,
        config: CameraConfig,
        limit: RateLimit,
        requested_ns: int,
    ) -> None:
        self._address = address
        self._label = answer.label
        self._limit = limit
        self._timeout_ns = timeout_ms(config) * 1_000_000
        self._fps = config.fps or DEFAULT_REQUEST_FPS
        self._repeats_count = not config.detect_frozen
        self._closing = threading.Event()
        self._answer = answer
        self._requested_ns = self._begun_ns = requested_ns
        self._scanner = PictureScanner()
        self._ready: deque[CodedPicture] = deque()
        self._pictures = 0
        self._polls = False
        self._is_single = answer.length is not None and not answer.is_multipart
        self._newest = b""
        self._newest_ns = self._requested_ns

    def read(self) -> CodedPicture:
        """As `CodedSource.read`."""
        while not self._polls:
            # Nothing bounds the age of the first still picture.
            if self._ready and not self._is_single:
                return self._ready.popleft()
            if not self._receive():
                self._begin_polling()
        return self._poll()

    def interrupt(self) -> None:
        """As `CodedSource.interrupt`."""
        self._closing.set()
        self._answer.interrupt()

    def release(self) -> None:
        """As `CodedSource.release`."""
        self._answer.close()
        self._address.close()

    def _receive(self) -> bool:
        """Receives what came of the answer; returns whether it goes on."""
        data = self._answer.read()
        stamp = Stamp.now()
        assert stamp.mono_ns is not None
        try:
            pictures = self._scanner.feed(data, stamp)
        except PictureError as error:
            raise SourceError(f"{self._label}: {error}") from error
        if pictures:
            self._ready.extend(CodedPicture(picture, came) for picture, came in pictures)
            self._pictures += len(pictures)
            self._newest, self._newest_ns = pictures[-1][0], stamp.mono_ns
        elif not self._pictures and self._scanner.other_bytes > _MOST_OTHER_BYTES:
            raise self._no_picture()
        elif stamp.mono_ns - self._newest_ns > self._timeout_ns:
            if not self._pictures and not self._scanner.is_inside:
                raise self._no_picture()
            raise SourceError(
                f"{self._label} stopped delivering frames: no whole picture came for "
                f"{self._timeout_ns / 1e9:g} s"
            )
        return bool(data)

    def _begin_polling(self) -> None:
        """Goes on with requests of single pictures. Raises SourceError if the answer that ended was
        a stream, or without a picture."""
        if not self._pictures:
            raise self._no_picture()
        if not self._is_single and time.monotonic_ns() - self._requested_ns > _SHORT_ANSWER_NS:
            raise SourceError(
                f"{self._label} stopped delivering frames: the server ended the stream"
            )
        self._polls = True
        self._ready.clear()

    def _no_picture(self) -> SourceError:
        """The error of an answer without a whole picture."""
        if self._scanner.is_inside:
            return SourceError(f"{self._label} ends within its first picture")
        types = dict.fromkeys(part.decode() for part in _PART_TYPE.findall(self._scanner.text))
        parts = f" with parts of type {', '.join(types)}" if types else ""
        declared = self._answer.media_type or "of no declared type"
        return SourceError(
            f"{self._label} delivers no picture: it is {declared}{parts}",
            fix="JPEG, PNG and WebP are read",
        )

    def _poll(self) -> CodedPicture:
        """Requests until an answer holds another picture than the previous one."""
        began_ns = time.monotonic_ns()
        while True:
            previous, bound_from_ns = self._newest, self._requested_ns
            coded = self._request_when_due()
            is_new = coded.data != previous or self._repeats_count
            self._newest, came_ns = coded.data, coded.stamp.mono_ns
            assert came_ns is not None
            if is_new:
                late_ns = came_ns - bound_from_ns + self._answer.cached_ns
                return replace(coded, arrival=Arrival(late_ns, old=False, periods=1.0))
            if came_ns - began_ns > self._timeout_ns:
                raise SourceError(
                    f"{self._label} repeats the same picture for {self._timeout_ns / 1e9:g} s",
                    fix="check the camera, or set detect_frozen = false if its scene stands still",
                )

    def _request_when_due(self) -> CodedPicture:
        """Requests the next picture. A single failure is no outage: it is requested again."""
        try:
            return self._request()
        except SourceError:
            if self._closing.is_set():
                raise
            return self._request()

    def _request(self) -> CodedPicture:
        """Requests one answer when it is due, and returns its picture. Raises SourceError."""
        requests_a_second = min(self._fps, self._limit.max_fps or self._fps)
        due_ns = self._begun_ns + round(1e9 / requests_a_second)
        if self._closing.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
            raise SourceError(f"{self._label} is closed")
        self._begun_ns = begun_ns = time.monotonic_ns()
        self._answer = self._address.get()
        self._scanner, self._pictures, self._newest_ns = PictureScanner(), 0, begun_ns
        while self._receive():
            if self._closing.is_set():
                raise SourceError(f"{self._label} is closed")
        if not self._ready:
            raise self._no_picture()
        # A single body may append a preview to its picture; a stream's newest picture is its last.
        coded = self._ready[-1 if self._answer.is_multipart else 0]
        self._ready.clear()
        self._requested_ns = begun_ns
        return coded
