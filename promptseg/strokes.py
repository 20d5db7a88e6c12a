"""Scribbles and lassos as voxels: lines with a radius in mm, and filled contours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

NUM_KEY_POINTS = 4
"""Points that stand for a stroke among the clicks; as many as in training."""

_SLAB_VOXELS = 2**21
"""Most voxels whose distance to a line is computed at once."""

_ROUNDING = 1e-9
"""Share by which a radius is exceeded, so that a voxel at exactly this distance is in whatever its rounding."""


@dataclass(frozen=True, eq=False)
class Stroke:
    """A scribble or lasso on an image's canonical voxels.

    Attributes:
        voxels: (V, 3) int64, unique, inside the volume.
        label: 1 to include, 0 to exclude.
        kind: what was drawn.
        key_points: (K, 3) float64 canonical voxels in the stroke, K <= :data:`NUM_KEY_POINTS`.
    """

    voxels: np.ndarray
    label: int
    kind: Literal["scribble", "lasso"]
    key_points: np.ndarray


def rasterise_scribble(
    points_vox: np.ndarray,
    shape: tuple[int, int, int],
    spacing_mm: np.ndarray,
    radius_mm: float | None = None,
    connected: bool = True,
) -> np.ndarray:
    """Voxels of a brush stroke.

    Args:
        points_vox: (N, 3) inside the volume.
        shape: of the volume.
        spacing_mm: (3,) voxel sides.
        radius_mm: voxels with their centre this near to the line belong to it; None for only those it runs through.
        connected: join the points by lines.

    Returns:
        (V, 3) int64, unique. Without a radius a connected stroke is 26-connected. The cost grows with the brushed
        volume, not with the image.
    """
    points = points_vox.astype(np.float64)
    line = walk_polyline(points) if connected else np.rint(points).astype(np.int64)
    line = np.clip(line, 0, np.subtract(shape, 1))
    if radius_mm is None:
        return np.unique(line, axis=0)
    reach = radius_mm / spacing_mm
    low = np.clip(np.floor(points.min(axis=0) - reach), 0, line.min(axis=0)).astype(np.int64)
    high = np.minimum(np.maximum(np.ceil(points.max(axis=0) + reach), line.max(axis=0)) + 1, shape).astype(np.int64)
    drawn = np.zeros(high - low, dtype=bool)
    drawn[tuple((line - low).T)] = True
    ends = _cut_line(points, spacing_mm, radius_mm) if connected else np.stack([points, points], axis=1)
    for start, end in ends - low:
        _brush(drawn, start, end, spacing_mm, radius_mm)
    return np.argwhere(drawn) + low


def rasterise_lasso(contour_vox: np.ndarray, axis: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Voxels on and inside a closed contour on one slice.

    Args:
        contour_vox: (N, 3); may leave the volume, where it is cut off.
        axis: that the slice lies across; its place is that of the first point.
        shape: of the volume.

    Returns:
        (V, 3) int64, unique; empty if all of it is outside.
    """
    plane = [a for a in range(3) if a != axis]
    place = int(np.rint(contour_vox[0, axis]))
    height, width = shape[plane[0]], shape[plane[1]]
    filled = fill_polygon(contour_vox[:, plane], (height, width))
    outline = walk_polyline(np.concatenate([contour_vox, contour_vox[:1]]))[:, plane]
    outline = outline[((outline >= 0) & (outline < (height, width))).all(axis=1)]
    filled[outline[:, 0], outline[:, 1]] = True
    pixels = np.argwhere(filled)
    return np.insert(pixels, axis, place, axis=1) if 0 <= place < shape[axis] else np.zeros((0, 3), dtype=np.int64)


def walk_polyline(points_vox: np.ndarray) -> np.ndarray:
    """Voxels a polyline runs through, in order: (M, 3) int64, each a 26-neighbour of the one before, or the same."""
    steps = np.abs(np.diff(points_vox, axis=0)).max(axis=1)
    at = np.concatenate([[0.0], np.cumsum(steps)])
    places = np.union1d(np.arange(0.0, at[-1], 0.5), at)  # half a voxel at most: no voxel is jumped over
    return np.rint(_along(points_vox, at, places)).astype(np.int64)


def fill_polygon(contour: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres a closed contour winds around.

    A loop drawn by hand often crosses itself where its ends meet; by the winding number such a crossing leaves no hole.

    Args:
        contour: (N, 2) row and column; the last point is joined to the first.
        shape: height and width.

    Returns:
        Bool of ``shape``; pixels outside it are left out. Cost: the contour's length plus the area.
    """
    height, width = shape
    start, end = contour, np.roll(contour, -1, axis=0)
    first = np.ceil(np.minimum(start[:, 0], end[:, 0])).clip(0, height).astype(np.int64)
    last = np.ceil(np.maximum(start[:, 0], end[:, 0])).clip(0, height).astype(np.int64)  # half-open, as boxes are
    counts = last - first
    edge = np.repeat(np.arange(len(contour)), counts)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (r0, c0), (r1, c1) = start[edge].T, end[edge].T
    columns = np.ceil(c0 + (rows - r0) / (r1 - r0) * (c1 - c0)).clip(0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(turns, (rows, columns), np.where(r1 > r0, 1, -1))
    return turns[:, :-1].cumsum(axis=1) != 0


def key_points_along(points_vox: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Points at even distances in mm along a polyline, its ends among them: (K, 3) float64."""
    at = _lengths_mm(points_vox, spacing_mm)
    count = NUM_KEY_POINTS if at[-1] > 0 else 1
    return _along(points_vox, at, np.linspace(0, at[-1], count))


def key_points_among(voxels: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Voxels that stand for a region: it is cut across its longest direction into parts of one size, and each gives the
    voxel nearest to its middle; (K, 3) float64."""
    positions_mm = (voxels - voxels.mean(axis=0)) * spacing_mm
    _, directions = np.linalg.eigh(positions_mm.T @ positions_mm)
    order = np.argsort(positions_mm @ directions[:, -1], kind="stable")
    parts = np.array_split(order, min(NUM_KEY_POINTS, len(order)))
    offsets = [np.linalg.norm(positions_mm[p] - positions_mm[p].mean(axis=0), axis=1) for p in parts]
    return np.stack([voxels[p[np.argmin(o)]] for p, o in zip(parts, offsets, strict=True)]).astype(np.float64)


def _lengths_mm(points_vox: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """(N,) distance of each corner from the first along the line."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_vox, axis=0) * spacing_mm, axis=1))])


def _along(points: np.ndarray, at: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolates (N, 3) corners, which lie at ``at``, at ``places``."""
    return np.stack([np.interp(places, at, points[:, axis]) for axis in range(3)], axis=1)


def _cut_line(points_vox: np.ndarray, spacing_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    """Pieces of a polyline, about a radius long, so that the boxes around them stay small: (P, 2, 3)."""
    at = _lengths_mm(points_vox, spacing_mm)
    step_mm = max(radius_mm, float(spacing_mm.min()))
    places = np.union1d(np.arange(0.0, at[-1], step_mm), at)
    corners = _along(points_vox, at, places)
    return np.stack([corners[:-1], corners[1:]], axis=1) if len(corners) > 1 else np.stack([corners, corners], axis=1)


def _brush(drawn: np.ndarray, start: np.ndarray, end: np.ndarray, spacing_mm: np.ndarray, radius_mm: float) -> None:
    """Sets the voxels of ``drawn`` within a radius of a straight line between two of its voxel positions."""
    reach = radius_mm * (1 + _ROUNDING) / spacing_mm
    low = np.maximum(np.ceil(np.minimum(start, end) - reach), 0).astype(int)
    high = np.minimum(np.floor(np.maximum(start, end) + reach) + 1, drawn.shape).astype(int)
    if (low >= high).any():
        return
    thickness = max(1, _SLAB_VOXELS // int(np.prod((high - low)[1:])))
    line_mm = (end - start) * spacing_mm
    squared_length = float(line_mm @ line_mm)
    for first in range(low[0], high[0], thickness):
        box = (slice(first, min(first + thickness, high[0])), slice(low[1], high[1]), slice(low[2], high[2]))
        offsets = np.meshgrid(
            *[(np.arange(s.start, s.stop) - start[a]) * spacing_mm[a] for a, s in enumerate(box)],
            indexing="ij",
            sparse=True,
        )
        along = sum(o * line_mm[a] for a, o in enumerate(offsets))
        share = np.clip(along / squared_length, 0, 1) if squared_length else 0.0
        distance = sum((o - share * line_mm[a]) ** 2 for a, o in enumerate(offsets))
        drawn[box] |= distance <= (radius_mm * (1 + _ROUNDING)) ** 2
