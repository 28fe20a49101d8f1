"""Polygons in fractions of a picture's width and height: validation."""

from collections.abc import Sequence
from itertools import combinations

Point = tuple[float, float]
"""(x, y), each 0 to 1."""

MIN_SIDE = 0.001
"""Smallest width and height of a polygon: one pixel of a picture of 1,000 pixels."""
MIN_AREA = MIN_SIDE**2


def check_polygon(corners: Sequence[Point]) -> None:
    """Raises ValueError for a polygon without area, and for one that crosses itself, whose inside
    is ambiguous."""
    ring = _without_repeats(corners)
    xs, ys = [x for x, _ in ring], [y for _, y in ring]
    crossing = _crossing(ring)
    if min(max(xs) - min(xs), max(ys) - min(ys)) < MIN_SIDE or (
        crossing is None and _area(ring) < MIN_AREA
    ):
        raise ValueError(
            f"this polygon has no area; give corners around a part of the picture, at least "
            f"{MIN_SIDE:g} of its width and height"
        )
    if crossing is not None:
        (x, y), _ = crossing
        raise ValueError(
            f"this polygon crosses itself at the side that begins at ({x:g}, {y:g}); give its "
            "corners in order, all the way around"
        )


def _without_repeats(corners: Sequence[Point]) -> list[Point]:
    """Removes consecutive duplicates, such as the last corner of a closed ring."""
    previous_corners = [corners[-1], *corners[:-1]]
    distinct = [
        corner
        for corner, previous in zip(corners, previous_corners, strict=True)
        if corner != previous
    ]
    return distinct or [corners[0]]


def _area(ring: Sequence[Point]) -> float:
    """Area by the shoelace formula, as a fraction of the picture."""
    return abs(sum(_cross(a, b) for a, b in _sides(ring))) / 2


def _sides(ring: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(ring, [*ring[1:], ring[0]], strict=True))


def _cross(a: Point, b: Point) -> float:
    return a[0] * b[1] - a[1] * b[0]


def _crossing(ring: Sequence[Point]) -> tuple[Point, Point] | None:
    """Returns the first side that another side crosses, not only touches; None for none."""
    for side, other in combinations(_sides(ring), 2):
        if _apart(side, other) and _apart(other, side):
            return side
    return None


def _apart(side: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether the ends of `other` lie on different sides of the line through `side`."""
    (x, y), (end_x, end_y) = side
    along = (end_x - x, end_y - y)
    first, second = (_cross(along, (px - x, py - y)) for px, py in other)
    return first * second < 0
