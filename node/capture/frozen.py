"""FrozenDetector: tells whether a camera delivers new pictures.

`read` can keep succeeding after an unplug or a freeze. It then returns the same picture or the same
stamp every time, the few pictures that are left in the driver's buffers in turn, or a still picture
with a running clock burnt into it.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from node.capture.cadence import Cadence
from node.capture.sources.base import Picture, SourceFacts
from node.image.frame import Image

_ROW_STEP = 8
"""Distance between compared rows: sensor noise shows in every row, so a fraction of the rows is
enough."""
_COMPARED_PICTURES = 3
"""Number of earlier pictures that each picture is compared with: a freeze under double or triple
buffering repeats two or three pictures. With more, a short animation shown in a loop would count as
frozen."""
_PROBED_ROWS = 8
"""Rows that are compared first, because comparing all rows costs more."""
_LEARN_EVERY = 15
_LEARN_SAMPLES = 20
"""Pairs of consecutive pictures, spread over at least 300 pictures, needed to learn that a camera
has noise."""
_MAX_STATIC_DIFFERENCE = 4.0
"""Mean absolute difference of two pictures of a static scene, in grey levels: a larger one is
motion."""
_MIN_REPEATED = 0.9
"""Fraction of the rows that have to repeat."""
_MIN_TEXTURE = 8
"""Smallest range of grey levels in a row that can show noise: clipped pixels have no noise."""


_MAX_REPORTED_S = 60.0
"""Longest reported period that is believed."""


def period_s(cadence: Cadence, facts: SourceFacts, max_fps: float | None) -> float:
    """Returns the seconds between two pictures: the learnt period, else the longer of the reported
    and the requested period, else 0.

    Args:
        cadence: the learnt period.
        facts: of the open source, with its reported rate.
        max_fps: requested rate, pictures a second; None: every picture.
    """
    learnt_s = cadence.period_s(max_fps)
    if learnt_s is not None:
        return learnt_s
    reported_s = min(1 / facts.fps, _MAX_REPORTED_S) if facts.fps else 0.0
    return max(reported_s, 1 / max_fps if max_fps else 0.0)


class FrozenDetector:
    """Compares each picture with earlier ones. Not thread-safe: one thread owns it."""

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._recent: deque[bytes] = deque(maxlen=_COMPARED_PICTURES)
        self._noise = _Noise()

    def repeats(self, picture: Picture) -> str | None:
        """Returns which part of the picture repeats an earlier picture, in words for a message:
        `stamp`, `picture`, `few pictures` (in turn) or `most of its picture`. None for a new
        picture."""
        stamp = picture.stamp
        stamp_ns = stamp.mono_ns if stamp is not None and stamp.clock == "driver" else None
        same_stamp = stamp_ns is not None and stamp_ns == self._stamp_ns
        self._stamp_ns = stamp_ns
        same = self._repeated_pixels(picture)
        return "stamp" if same_stamp else same

    def _repeated_pixels(self, picture: Picture) -> str | None:
        rows = picture.image[::_ROW_STEP]
        pixels = rows.tobytes()
        previous = self._recent[-1] if self._recent else b""
        if pixels == previous:
            return "picture"
        if pixels in self._recent:
            self._recent.remove(pixels)
            self._recent.append(pixels)
            return "few pictures"
        self._recent.append(pixels)
        if len(pixels) != len(previous):
            self._noise = _Noise()
        elif _shows_noise(picture) and self._noise.is_missing(rows, pixels, previous):
            return "most of its picture"
        return None


def _shows_noise(picture: Picture) -> bool:
    """Whether the source codes each picture independently. H.264 and H.265 omit small changes, so a
    static scene repeats bit by bit there."""
    driver = picture.stamp is not None and picture.stamp.clock == "driver"
    return picture.jpeg is not None or driver


class _Noise:
    """Learns whether a camera's pictures have noise in every row. Repeated rows of such a camera
    are not new. A source without noise, such as a cartoon, is never reported."""

    def __init__(self) -> None:
        self._pictures = 0
        self._samples = 0

    def is_missing(self, rows: Image, pixels: bytes, previous: bytes) -> bool:
        """Whether nearly all rows repeat the previous picture.

        Args:
            rows: [rows, width, 3] uint8, the compared rows of this picture.
            pixels: the same as bytes.
            previous: the compared rows of the previous picture.
        """
        height, row = len(rows), len(pixels) // len(rows)
        starts = [(height - 1) * probe // (_PROBED_ROWS - 1) * row for probe in range(_PROBED_ROWS)]
        same = sum(pixels[start : start + row] == previous[start : start + row] for start in starts)
        if self._samples >= _LEARN_SAMPLES:
            return same >= _PROBED_ROWS - 1 and _stands_still(rows, previous)
        self._pictures += 1
        if self._pictures % _LEARN_EVERY == 0 and _is_at_rest(rows, previous):
            self._samples = 0 if same else self._samples + 1
        return False


def _as_rows(data: bytes, like: Image) -> Image:
    rows: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    return rows.reshape(like.shape)


def _is_at_rest(rows: Image, previous: bytes) -> bool:
    sampled, sampled_before = rows[::4].astype(np.int16), _as_rows(previous, rows)[::4]
    return bool(np.abs(sampled - sampled_before).mean() < _MAX_STATIC_DIFFERENCE)


def _stands_still(rows: Image, previous: bytes) -> bool:
    same = (rows == _as_rows(previous, rows)).all(axis=(1, 2))
    textured = np.ptp(rows, axis=(1, 2)) >= _MIN_TEXTURE
    return bool((same & textured).mean() >= _MIN_REPEATED)
