"""Simulated scribbles and lassos, batched and on the device.

A scribble is a line through the region, or lies on a slice of it: along its centreline or along its contour. A lasso is
a smoothed slice of the region.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..models.layers import dilate
from .prompt_simulator import box_mean, draw_indices, planes_at, sample_several, unravel, values_at
from .randomness import Randomness, hand_over

NUM_STROKE_KEY_POINTS = 4
"""Points that stand for a stroke among the clicks."""
NUM_LINE_STEPS = 48


def draw_lines(region: Tensor, start: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor]:
    """A straight or bent line inside each region from a point on.

    Args:
        region: (N, D, H, W) bool.
        start: (N, 3) voxels in them.
        randomness: source.

    Returns:
        strokes (N, D, H, W) float maps, and key points (N, 4, 3) along them; the start alone where a region is empty.
    """
    count, *grid = region.shape
    ends, _ = sample_several(region, randomness, 0.0, 4)
    farthest = (ends - start[:, None]).abs().sum(dim=2).argmax(dim=1)
    end = ends[torch.arange(count, device=region.device), farthest]
    steps = torch.linspace(0, 1, NUM_LINE_STEPS, device=region.device)[:, None]
    is_bent = (randomness.uniform(count, 1, 1) < 0.5).float()
    wiggle = is_bent * randomness.normal(count, 1, 3) * 2 * torch.sin(torch.pi * steps)
    line = (start[:, None] + (end - start)[:, None] * steps + wiggle).round().long()
    line = torch.minimum(line.clamp(min=0), hand_over(np.array(grid), region.device) - 1)
    inside = values_at(region, line)  # (N, steps)
    empty = ~inside.any(dim=1)
    line = torch.where(empty[:, None, None], start[:, None], line)
    inside = inside | empty[:, None]
    flat = (line[..., 0] * grid[1] + line[..., 1]) * grid[2] + line[..., 2]
    strokes = torch.zeros(count, region[0].numel(), device=region.device)
    strokes.scatter_reduce_(1, flat, inside.float(), "amax")
    # The first, the last and two of those between, among the steps that lie inside.
    rank = inside.cumsum(dim=1)
    shares = torch.linspace(0, 1, NUM_STROKE_KEY_POINTS, device=region.device)
    wanted = (shares * (rank[:, -1:] - 1)).round().long() + 1
    place = torch.searchsorted(rank, wanted)
    keys = line.gather(1, place[..., None].expand(-1, -1, 3))
    return dilate(strokes.reshape(count, *grid)) * region, keys


def draw_plane_strokes(
    region: Tensor, points: Tensor, kinds: list[str], randomness: Randomness
) -> tuple[Tensor, Tensor]:
    """A stroke on the slice of each region through a point.

    Args:
        region: (N, D, H, W) bool.
        points: (N, 3) voxels in them.
        kinds: N of ``lasso`` (the slice, smoothed), ``centreline`` (its ridge) and ``contour`` (a part of its rim).
        randomness: source.

    Returns:
        strokes (N, D, H, W) float maps, and key points (N, 4, 3) on them; the point alone where a region is empty.
    """
    count = len(region)
    strokes = torch.zeros(region.shape, device=region.device)
    keys = points[:, None].expand(-1, NUM_STROKE_KEY_POINTS, -1).clone()
    axes = randomness.host.integers(3, size=count)
    for axis in range(3):
        members = (axes == axis).nonzero()[0]
        if not len(members):
            continue
        rows = hand_over(members, region.device)
        places = points[rows, axis]
        planes = planes_at(region[rows], axis, places)
        drawn = torch.zeros_like(planes)
        for kind in sorted({kinds[n] for n in members}):
            of_kind = hand_over(np.array([i for i, n in enumerate(members) if kinds[n] == kind]), region.device)
            drawn[of_kind] = _DRAW[kind](planes[of_kind], randomness)
        exists = drawn.flatten(1).any(dim=1)[:, None, None]
        drawn = torch.where(exists, drawn, planes)
        moved = strokes.movedim(axis + 1, 1)
        moved[rows, places] = drawn.float()
        marked = drawn & planes  # a lasso may reach a little beyond the region, its key points may not
        place = unravel(draw_indices(marked.flatten(1).float(), randomness, NUM_STROKE_KEY_POINTS), marked.shape[1:])
        others = [a for a in range(3) if a != axis]
        on_plane = keys[rows]
        has_key = marked.flatten(1).any(dim=1)[:, None]
        for number, other in enumerate(others):  # a list as an index would make a GPU wait
            on_plane[..., other] = torch.where(has_key, place[..., number], on_plane[..., other])
        keys[rows] = on_plane
    return strokes, keys


def _lasso(planes: Tensor, randomness: Randomness) -> Tensor:
    """Slices with rounded corners, somewhat too small or too large: (n, A, B) bool -> bool."""
    return box_mean(planes.float(), 5, axes=(-2, -1)) > randomness.host.uniform(0.35, 0.55)


def _centreline(planes: Tensor, randomness: Randomness) -> Tensor:
    """Voxels deeper than nearly all of their neighbours."""
    depth = box_mean(box_mean(planes.float(), 3, axes=(-2, -1)), 7, axes=(-2, -1)) * planes
    return (depth >= randomness.host.uniform(0.96, 1.0) * dilate(depth, axes=(-2, -1))) & planes


def _contour(planes: Tensor, randomness: Randomness) -> Tensor:
    """The rim of slices on one side of a line through their middle."""
    rim = planes & (dilate((~planes).to(torch.uint8), axes=(-2, -1)) > 0)
    angle = float(randomness.host.uniform(0, 2 * math.pi))
    rows, columns = (torch.arange(n, device=planes.device, dtype=torch.float32) for n in planes.shape[1:])
    along = rows[:, None] * math.cos(angle) + columns * math.sin(angle)
    mass = planes.float()
    middle = (mass * along).sum((1, 2)) / mass.sum((1, 2)).clamp(min=1)
    return rim & (along > middle[:, None, None])


_DRAW = {"lasso": _lasso, "centreline": _centreline, "contour": _contour}


def draw_strokes(region: Tensor, points: Tensor, kinds: list[str], randomness: Randomness) -> tuple[Tensor, Tensor]:
    """A scribble or a lasso through each object's point, inside its region.

    Args:
        region: (N, D, H, W) bool.
        points: (N, 3) voxels in them.
        kinds: N of ``scribble`` and ``lasso``; a scribble is a line, a centreline or a contour.
        randomness: source.

    Returns:
        strokes (N, D, H, W) float maps, and key points (N, 4, 3).
    """
    drawn = [
        ("line", "line", "centreline", "contour")[int(randomness.host.integers(4))] if kind == "scribble" else kind
        for kind in kinds
    ]
    lines = torch.tensor([n for n, kind in enumerate(drawn) if kind == "line"], dtype=torch.long)
    planes = torch.tensor([n for n, kind in enumerate(drawn) if kind != "line"], dtype=torch.long)
    strokes = torch.zeros(region.shape, device=region.device)
    keys = points[:, None].expand(-1, NUM_STROKE_KEY_POINTS, -1).clone()
    if len(lines):
        rows = hand_over(lines, region.device)
        strokes[rows], keys[rows] = draw_lines(region[rows], points[rows], randomness)
    if len(planes):
        rows = hand_over(planes, region.device)
        plane_kinds = [drawn[n] for n in planes.tolist()]
        strokes[rows], keys[rows] = draw_plane_strokes(region[rows], points[rows], plane_kinds, randomness)
    return strokes, keys
