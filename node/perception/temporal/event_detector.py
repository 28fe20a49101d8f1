"""EventDetector: detects what appears, changes and disappears between the frames of a camera."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from node.config.schema import Anchor, RegionConfig
from node.perception.tasks.region import contains
from perception_client.messages.kinds import Box, Detection, Label, SceneEvent


@dataclass(slots=True)
class _Open:
    """A label or object that is present.

    Attributes:
        newest: its newest event.
        first_ns, last_ns: time of the first and of the last frame that showed it, on a clock that
            nobody sets.
    """

    newest: SceneEvent
    first_ns: int
    last_ns: int


class EventDetector:
    """Detects the events of one camera. Not thread-safe.

    Args:
        regions: parts of the picture; an object that enters or leaves one is an event.
        anchor: point of a box that decides whether the object is in a region.
    """

    def __init__(self, regions: Sequence[RegionConfig] = (), anchor: Anchor = "bottom") -> None:
        self._regions = regions
        self._anchor = anchor
        self._open: dict[str, _Open] = {}

    def of_labels(self, labels: Sequence[Label], stamp_ns: int, time_ns: int) -> list[SceneEvent]:
        """Returns the events of a frame by its stable labels.

        Args:
            labels: of the frame.
            stamp_ns: stamp of the frame.
            time_ns: its time on a monotonic clock.
        """
        present = {
            f"label {label.id}": SceneEvent(
                "appeared", f"label {label.id}", label.id, label.name, label.score, stamp_ns
            )
            for label in labels
            if label.stable
        }
        gone = [key for key in self._open if key not in present]
        return [*self._ended(gone), *self._update(present, time_ns)]

    def of_tracks(
        self,
        detections: Sequence[Detection],
        alive: frozenset[int],
        size: tuple[int, int],
        stamp_ns: int,
        time_ns: int,
    ) -> list[SceneEvent]:
        """Returns the events of a frame by its tracked objects.

        Args:
            detections: of the frame.
            alive: ids of all tracks in memory: an object that is hidden for a moment has not left.
            size: (height, width) of the frame in pixels.
            stamp_ns: stamp of the frame.
            time_ns: its time on a monotonic clock.
        """
        present: dict[str, SceneEvent] = {}
        outside: list[str] = []
        for detection in detections:
            if detection.track is None:
                continue
            item = SceneEvent(
                "appeared",
                f"track {detection.track}",
                detection.id,
                detection.name,
                detection.score,
                stamp_ns,
                track=detection.track,
                box=detection.box,
            )
            present[item.key] = item
            for region in self._regions:
                key = f"{item.key} in {region.name}"
                if contains(region.polygon, *self._point(detection.box, size)):
                    present[key] = replace(item, kind="region_entered", key=key, region=region.name)
                else:
                    outside.append(key)
        gone = [
            key for key, item in self._open.items()
            if item.newest.track not in alive or key in outside
        ]  # fmt: skip
        return [*self._ended(sorted(gone, key=_regions_first)), *self._update(present, time_ns)]

    def reset(self) -> list[SceneEvent]:
        """Returns the final event of everything that is present, and clears it."""
        keys = sorted(self._open, key=_regions_first)
        return [replace(ended, reset=True) for ended in self._ended(keys)]

    def _update(self, present: Mapping[str, SceneEvent], time_ns: int) -> Iterator[SceneEvent]:
        for key, item in present.items():
            entry = self._open.get(key)
            if entry is None:
                self._open[key] = _Open(item, time_ns, time_ns)
                yield item
                continue
            entry.last_ns = time_ns
            previous_event = entry.newest
            entry.newest = replace(
                previous_event, id=item.id, name=item.name, score=item.score, box=item.box
            )
            if previous_event.name != item.name and item.region is None:
                yield replace(entry.newest, kind="changed", previous=previous_event.name)

    def _ended(self, keys: Sequence[str]) -> list[SceneEvent]:
        return [_end(self._open.pop(key)) for key in keys if key in self._open]

    def _point(self, box: Box, size: tuple[int, int]) -> tuple[float, float]:
        y = box.cy + box.h / 2 if self._anchor == "bottom" else box.cy
        return box.cx / size[1], min(y / size[0], 1 - 1e-9)


def _end(entry: _Open) -> SceneEvent:
    newest = entry.newest
    return replace(
        newest,
        kind="left" if newest.region is None else "region_left",
        duration_ns=entry.last_ns - entry.first_ns,
    )


def _regions_first(key: str) -> bool:
    """Sort key: an object leaves its regions before it leaves the picture."""
    return " in " not in key
