"""Edges of tags: the corners of a tag as intersections of lines that are fitted to its edges."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SAMPLES = 24
"""Places along an edge near each of its corners."""
_STEPS = 25
"""Grey levels across the edge at each place."""
_STEP_APART = 3
"""Distance of the two grey levels of a difference, in steps: of 24 steps on two cells at most, an
eighth of them."""
_CLEAR = (0.06, 0.94)
"""Part of the edge that is sampled: a blurred corner belongs to neither edge."""
_LONGEST_PX = 32.0
"""Longest part of an edge that is fitted: a lens bends longer ones by more than the noise of the
fit, and each corner has a part of its own."""
_REACH_CELLS = 0.75
"""How far the samples reach to both sides, in cells: within a cell of the edge lie no other
edges."""
_REACH_PX = (1.0, 8.0)
"""Limits of that reach: the rough corners are wrong by 1 px, and where blur by motion is longer
than the reach to both sides, the refined ones are wrong by pixels."""
_PASSES = 2
"""Fits, each around the edges of the one before."""
_SEEN = 0.25
"""Least step at a place that counts as edge, as a share of the median step of the tag."""
_CHUNK = 256
"""Tags in one call of OpenCV's remap, whose maps have at most 32767 rows."""


def refined(grey: NDArray[np.uint8], quads: Floats, cells: int) -> tuple[Floats, Floats]:
    """Returns corners with the accuracy of the whole edges, hundredths of a pixel, and scores.

    As the AprilTag library does (Wang and Olson, AprilTag 2, IROS 2016; refine_edges in
    apriltag.c): at places along each edge, find the step from black to white across it, as the mean
    of the positions weighted by the squared differences; fit a line to the places by weighted least
    squares; intersect the lines. A corner's lines are those of the parts of the edges beside it.
    `cornerSubPix` alone is ten times less exact on tags of 30 pixels.

    Args:
        grey: [height, width] uint8.
        quads: [n, 4, 2] rough corners in pixels, clockwise.
        cells: on each side of the tag, with its border.

    Returns:
        The corners [n, 4, 2], and the scores [n]: the share of the outline, 0 to 1, on which a step
        from black to white is seen on the fitted lines. A tag whose lines do not meet near its
        rough corners keeps those.
    """
    parts = [
        _refined_few(grey, quads[start : start + _CHUNK], cells)
        for start in range(0, len(quads), _CHUNK)
    ]
    if not parts:
        return quads, np.zeros(0)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _refined_few(grey: NDArray[np.uint8], quads: Floats, cells: int) -> tuple[Floats, Floats]:
    corners = quads
    scores = np.zeros(len(quads))
    cell_px = np.linalg.norm(np.roll(quads, -1, 1) - quads, axis=2).min(1) / cells
    for _ in range(_PASSES):
        with np.errstate(all="ignore"):  # parallel lines meet nowhere
            fitted, scores = _fitted(grey, corners, cells)
        moved = np.linalg.norm(fitted - quads, axis=2).max(1)
        near = moved <= np.maximum(2 * cell_px, 2.0)  # also False for nan
        corners = np.where(near[:, None, None], fitted, quads)
        scores = np.where(near, scores, 0.0)
    return corners, scores


def _fitted(grey: NDArray[np.uint8], quads: Floats, cells: int) -> tuple[Floats, Floats]:
    """Returns the corners and scores of one fit. Its arrays are [tag, edge, part, place, step]."""
    edges = np.roll(quads, -1, 1) - quads
    lengths = np.linalg.norm(edges, axis=2)
    along = edges / lengths[..., None]
    outward = np.stack((along[..., 1], -along[..., 0]), -1)  # of a quad that runs clockwise
    spans = np.minimum(lengths, _LONGEST_PX)[..., None] * np.linspace(*_CLEAR, _SAMPLES)
    places = np.stack((spans, lengths[..., None] - spans), 2)  # beside the first, second corner
    reach = np.clip(_REACH_CELLS * lengths / cells, *_REACH_PX)
    offsets = reach[..., None] * np.linspace(-1, 1, _STEPS)
    where, steps = _steps(grey, quads, along, outward, places, offsets)
    middle, position, slope = _lines(places, where, steps)
    # Each part's line: a point of it, and its direction.
    points = (
        quads[:, :, None] + middle[..., None] * along[:, :, None]
        + position[..., None] * outward[:, :, None]
    )  # fmt: skip
    directions = along[:, :, None] + slope[..., None] * outward[:, :, None]
    corners = _met(
        points[:, :, 0], directions[:, :, 0],
        np.roll(points[:, :, 1], 1, 1), np.roll(directions[:, :, 1], 1, 1),
    )  # fmt: skip
    on_line = position[..., None] + slope[..., None] * (places - middle[..., None])
    straight = np.abs(where - on_line) <= 0.5 * reach[:, :, None, None]
    typical = np.median(steps.reshape(len(quads), -1), axis=1)
    clear = steps >= _SEEN * typical[:, None, None, None]
    return corners, (straight & clear).reshape(len(quads), -1).mean(1)


def _steps(
    grey: NDArray[np.uint8],
    quads: Floats,
    along: Floats,
    outward: Floats,
    places: Floats,
    offsets: Floats,
) -> tuple[Floats, Floats]:
    """Returns at each place the position of the step from black to white, in pixels outwards, and
    its size."""
    # In single precision from here on: grey levels, and distances of a few pixels.
    rays = offsets[..., None] * outward[:, :, None]
    starts = quads[:, :, None, None] + places[..., None] * along[:, :, None, None]
    samples = starts.astype(np.float32)[..., None, :] + rays.astype(np.float32)[:, :, None, None]
    rows = samples.reshape(len(quads) * 8, -1, 2)
    levels = cv2.remap(
        grey, rows[..., 0], rows[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).reshape(samples.shape[:-1]).astype(np.float32)  # fmt: skip
    rises = np.maximum(levels[..., 2 * _STEP_APART :] - levels[..., : -2 * _STEP_APART], 0.0)
    weights = rises * rises
    total = weights.sum(-1)
    inner = offsets[:, :, None, None, _STEP_APART:-_STEP_APART].astype(np.float32)
    where = (weights * inner).sum(-1) / np.maximum(total, 1e-9)
    return where.astype(np.float64), np.sqrt(total).astype(np.float64)


def _lines(places: Floats, where: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Fits where = position + slope * (place - middle) by weighted least squares. Returns middle,
    position and slope of each part."""
    total = np.maximum(weights.sum(-1), 1e-9)
    middle = (weights * places).sum(-1) / total
    position = (weights * where).sum(-1) / total
    away = places - middle[..., None]
    slope = (weights * away * (where - position[..., None])).sum(-1) / np.maximum(
        (weights * away * away).sum(-1), 1e-9
    )
    return middle, position, slope


def _met(points: Floats, directions: Floats, others: Floats, their_directions: Floats) -> Floats:
    """Returns where two lines meet, each given by a point and a direction."""
    apart = others - points
    share = _cross(apart, their_directions) / _cross(directions, their_directions)
    met: Floats = points + share[..., None] * directions
    return met


def _cross(first: Floats, second: Floats) -> Floats:
    product: Floats = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return product
