"""FrozenDetector: whether a camera's picture is a new one.

`read` may go on succeeding after an unplug or a freeze: with the same picture or the same stamp for
ever; with the few pictures that lie in its buffers, in turn; or with a clock that is burnt into a
picture that stands still."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from node.capture.cadence import Cadence
from node.capture.sources.base import Picture, SourceFacts
from node.image.frame import Image

_EVERY_ROW = 8
"""Rows apart that are compared: a sensor's noise shows in each."""
_KEPT = 3
"""Pictures that are recognised when they come again: double and triple buffering freeze like that.
More would call a short animation frozen that is shown in a loop."""
_PROBES = 8
_LEARN_EVERY = 15
_LEARN_SAMPLES = 20
"""Pairs of pictures, spread over 300 pictures at least, that teach what a camera's noise is."""
_AT_REST = 4.0
"""Mean difference of two pictures of a scene at rest, in grey levels: more is motion."""
_MOST_OF_IT = 0.9
_TEXTURE = 8
"""Grey levels between the darkest and brightest of a row: what is clipped has no noise."""


_MOST_CLAIMED_S = 60.0
"""A source that says it is slower than this is not believed."""


def period_s(cadence: Cadence, facts: SourceFacts, max_fps: float | None) -> float:
    """Seconds between two pictures: as learnt, and before that by what the source says and the rate
    at which its pictures are wanted; 0 where nothing is known."""
    learnt_s = cadence.period_s(max_fps)
    if learnt_s is not None:
        return learnt_s
    claimed_s = min(1 / facts.fps, _MOST_CLAIMED_S) if facts.fps else 0.0
    return max(claimed_s, 1 / max_fps if max_fps else 0.0)


class FrozenDetector:
    """Compares each picture with the ones before. Owned by one thread."""

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._kept: deque[bytes] = deque(maxlen=_KEPT)
        self._noise = _Noise()

    def repeats(self, picture: Picture) -> str | None:
        """What of the picture is the same as in one before: `stamp`, `picture`, `few pictures` in
        turn, `most of its picture`, or nothing."""
        stamp = picture.stamp
        stamp_ns = stamp.mono_ns if stamp is not None and stamp.clock == "driver" else None
        same_stamp = stamp_ns is not None and stamp_ns == self._stamp_ns
        self._stamp_ns = stamp_ns
        same = self._same(picture)
        return "stamp" if same_stamp else same

    def _same(self, picture: Picture) -> str | None:
        rows = picture.image[::_EVERY_ROW]
        now = rows.tobytes()
        before = self._kept[-1] if self._kept else b""
        if now == before:
            return "picture"
        if now in self._kept:
            self._kept.remove(now)
            self._kept.append(now)
            return "few pictures"
        self._kept.append(now)
        if len(now) != len(before):
            self._noise = _Noise()
        elif _shows_noise(picture) and self._noise.is_missing(rows, now, before):
            return "most of its picture"
        return None


def _shows_noise(picture: Picture) -> bool:
    """Whether each picture is coded by itself. H.264 and H.265 leave out what hardly changed, so
    there a scene at rest is the same to the last bit."""
    driver = picture.stamp is not None and picture.stamp.clock == "driver"
    return picture.jpeg is not None or driver


class _Noise:
    """Learns whether a camera's pictures have noise in every row. Rows of such a camera that stay
    the same are not new. A camera without noise, such as a cartoon, is not judged."""

    def __init__(self) -> None:
        self._pictures = 0
        self._samples = 0

    def is_missing(self, rows: Image, now: bytes, before: bytes) -> bool:
        """Whether nearly all rows are those of the picture before. rows: of now, as an array."""
        height, row = len(rows), len(now) // len(rows)
        starts = [(height - 1) * probe // (_PROBES - 1) * row for probe in range(_PROBES)]
        same = sum(now[start : start + row] == before[start : start + row] for start in starts)
        if self._samples >= _LEARN_SAMPLES:
            return same >= _PROBES - 1 and _stands_still(rows, before)
        self._pictures += 1
        if self._pictures % _LEARN_EVERY == 0 and _is_at_rest(rows, before):
            self._samples = 0 if same else self._samples + 1
        return False


def _as_rows(data: bytes, like: Image) -> Image:
    rows: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    return rows.reshape(like.shape)


def _is_at_rest(rows: Image, before: bytes) -> bool:
    some, were = rows[::4].astype(np.int16), _as_rows(before, rows)[::4]
    return bool(np.abs(some - were).mean() < _AT_REST)


def _stands_still(rows: Image, before: bytes) -> bool:
    same = (rows == _as_rows(before, rows)).all(axis=(1, 2))
    textured = np.ptp(rows, axis=(1, 2)) >= _TEXTURE
    return bool((same & textured).mean() >= _MOST_OF_IT)
