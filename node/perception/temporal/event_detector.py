"""EventDetector: what came, changed and went between one frame of a camera and the next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from node.config.schema import Anchor, RegionConfig
from node.perception.tasks.region import contains
from perception_client.messages.kinds import Box, Detection, Label, SceneEvent


@dataclass(slots=True)
class _Open:
    """Something that is there: its newest happening, and when it was last seen."""

    newest: SceneEvent
    last_ns: int


class EventDetector:
    """Finds the happenings of one camera."""

    def __init__(self, regions: Sequence[RegionConfig] = (), anchor: Anchor = "bottom") -> None:
        self._regions = regions
        self._anchor = anchor
        self._open: dict[str, _Open] = {}

    def of_labels(self, labels: Sequence[Label], stamp_ns: int) -> list[SceneEvent]:
        """What the stable labels of a frame tell."""
        present = {
            f"label {label.id}": SceneEvent(
                "appeared", f"label {label.id}", label.id, label.name, label.score, stamp_ns
            )
            for label in labels
            if label.stable
        }
        gone = [key for key in self._open if key not in present]
        return [*self._ended(gone), *self._seen(present, stamp_ns)]

    def of_tracks(
        self,
        detections: Sequence[Detection],
        alive: frozenset[int],
        size: tuple[int, int],
        stamp_ns: int,
    ) -> list[SceneEvent]:
        """What the tracks of a frame of `size` (height, width) in px tell. alive: tracks that are
        remembered: one that hides for a moment has not left."""
        present: dict[str, SceneEvent] = {}
        outside: list[str] = []
        for one in detections:
            if one.track is None:
                continue
            thing = SceneEvent(
                "appeared", f"track {one.track}", one.id, one.name, one.score, stamp_ns,
                track=one.track, box=one.box,
            )  # fmt: skip
            present[thing.key] = thing
            for region in self._regions:
                key = f"{thing.key} in {region.name}"
                if contains(region.polygon, *self._point(one.box, size)):
                    present[key] = replace(
                        thing, kind="region_entered", key=key, region=region.name
                    )
                else:
                    outside.append(key)
        gone = [
            key for key, thing in self._open.items()
            if thing.newest.track not in alive or key in outside
        ]  # fmt: skip
        return [*self._ended(sorted(gone, key=_regions_first)), *self._seen(present, stamp_ns)]

    def reset(self) -> list[SceneEvent]:
        """Ends all that is open."""
        keys = sorted(self._open, key=_regions_first)
        return [replace(ended, reset=True) for ended in self._ended(keys)]

    def _seen(self, present: Mapping[str, SceneEvent], stamp_ns: int) -> Iterator[SceneEvent]:
        for key, thing in present.items():
            known = self._open.get(key)
            if known is None:
                self._open[key] = _Open(thing, stamp_ns)
                yield thing
                continue
            known.last_ns = stamp_ns
            before = known.newest
            known.newest = replace(
                before, id=thing.id, name=thing.name, score=thing.score, box=thing.box
            )
            if before.name != thing.name and thing.region is None:
                yield replace(known.newest, kind="changed", previous=before.name)

    def _ended(self, keys: Sequence[str]) -> list[SceneEvent]:
        return [_end(self._open.pop(key)) for key in keys if key in self._open]

    def _point(self, box: Box, size: tuple[int, int]) -> tuple[float, float]:
        y = box.cy + box.h / 2 if self._anchor == "bottom" else box.cy
        return box.cx / size[1], min(y / size[0], 1 - 1e-9)


def _end(thing: _Open) -> SceneEvent:
    newest = thing.newest
    return replace(
        newest,
        kind="left" if newest.region is None else "region_left",
        duration_ns=thing.last_ns - newest.since_ns,
    )


def _regions_first(key: str) -> bool:
    """A thing leaves its regions before it leaves."""
    return " in " not in key
