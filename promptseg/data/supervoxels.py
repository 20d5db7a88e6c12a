"""Supervoxels of real images as pseudo-objects, where nobody has labelled anything."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .fields import blur
from .prompt_simulator import halve
from .randomness import Randomness

BASIN_WINDOW = 5
"""Side of the neighbourhood, in cells of two voxels, in which the calmest cell starts a basin."""
NUM_FLOODS = 12
"""Sweeps over the cells until every basin is full: most are narrower."""
NUM_BORDER_FLOODS = 4
"""Sweeps over the voxels beside a border, which place it."""
FLATNESS = 0.02
"""Cost of a step where nothing changes, in standard deviations of the image."""
MAX_CUT = 0.25
"""Share of a region's surface that the crop may cut off."""
CUT_SHARE = 0.3
"""Share of the draws in which regions may be cut off all the same, as whole tiles of a large organ are."""


def supervoxels(images: Tensor, randomness: Randomness) -> Tensor:
    """Divides images into connected regions that end at edges: basins of a watershed, merged with their likes.

    Few large regions or many small ones, by one draw for all. Regions are found on cells of 2 x 2 x 2 voxels; their
    borders are placed on voxels.

    Args:
        images: (n, D, H, W) float32, about [-1, 1], even sides.
        randomness: source.

    Returns:
        (n, D, H, W) int64, values 1 to the number of regions (5 to 60); most often 0 where a region goes on far beyond
        the crop. Cost linear in voxels, plus the square of the number of basins (some hundreds).

    Source: Vincent and Soille, Watersheds in Digital Spaces, 1991; Ward, Hierarchical Grouping to Optimize an
    Objective Function, 1963, among neighbours.
    """
    count = len(images)
    wanted = round(float(5 * 12 ** randomness.host.random()))
    keeps_cut = randomness.host.random() < CUT_SHARE
    sigma = torch.full((count, 3), float(randomness.host.uniform(0.5, 1.5)))
    smooth = blur(images, sigma)
    smooth = smooth / smooth.flatten(1).std(dim=1).clamp(min=1e-3)[:, None, None, None]
    cells = halve(smooth)
    steepness = relief(cells)
    basins = flood(steepness, start_basins(steepness, randomness), NUM_FLOODS)
    merged = torch.stack([merge_regions(b, c, wanted) for b, c in zip(basins, cells, strict=True)])
    labels = place_borders(smooth, merged)
    return labels if keeps_cut else drop_cut(labels)


def relief(images: Tensor) -> Tensor:
    """Largest difference of each voxel to its six neighbours: (n, D, H, W) -> the same."""
    steep = torch.zeros_like(images)
    for axis in (1, 2, 3):
        size = images.shape[axis] - 1
        step = (images.narrow(axis, 1, size) - images.narrow(axis, 0, size)).abs()
        for start in (0, 1):
            part = steep.narrow(axis, start, size)
            torch.maximum(part, step, out=part)
    return steep


def start_basins(steepness: Tensor, randomness: Randomness) -> Tensor:
    """Numbers the calmest cells of their neighbourhoods, 1, 2, ... in each image; 0 elsewhere: (n, D, H, W) int64."""
    noise = randomness.uniform(*steepness.shape, high=0.02)
    height = steepness + noise
    lowest = -F.max_pool3d(-height[:, None], BASIN_WINDOW, 1, BASIN_WINDOW // 2)[:, 0]
    is_start = height == lowest
    return is_start.flatten(1).cumsum(dim=1).reshape(is_start.shape) * is_start


def flood(steepness: Tensor, labels: Tensor, num_sweeps: int) -> Tensor:
    """Gives each unlabelled voxel the label from which it is reached with the least climbing.

    Args:
        steepness: (n, D, H, W) cost of entering each voxel.
        labels: (n, D, H, W) int64, 0 where there is none yet.
        num_sweeps: over the image; each takes a label a voxel further at least.

    Returns:
        (n, D, H, W) int64; 0 for what was not reached.
    """
    cost = steepness + FLATNESS
    labels = labels.clone()
    climbed = torch.where(labels > 0, 0.0, torch.inf)
    for _ in range(num_sweeps):
        for axis in (1, 2, 3):
            size = labels.shape[axis] - 1
            for to, source in ((1, 0), (0, 1)):
                offer = climbed.narrow(axis, source, size) + cost.narrow(axis, to, size)
                here, label = climbed.narrow(axis, to, size), labels.narrow(axis, to, size)
                nearer = offer < here
                label.copy_(torch.where(nearer, labels.narrow(axis, source, size), label))
                torch.minimum(here, offer, out=here)
    return labels


def merge_regions(labels: Tensor, image: Tensor, wanted: int) -> Tensor:
    """Merges neighbouring regions, those first whose union varies least more than they do, until few are left.

    Args:
        labels: (D, H, W) int64; 0 belongs to no region.
        image: (D, H, W) float32.
        wanted: number of regions.

    Returns:
        (D, H, W) int64, 0 and 1 to ``wanted`` or less.
    """
    number = int(labels.max()) + 1
    flat = labels.flatten()
    sizes = torch.bincount(flat, minlength=number).cpu().numpy().astype(np.float64)
    sums = torch.bincount(flat, image.flatten(), minlength=number).cpu().numpy().astype(np.float64)
    touches = np.zeros((number, number), dtype=bool)
    for axis in range(3):
        size = labels.shape[axis] - 1
        pairs = labels.narrow(axis, 0, size) * number + labels.narrow(axis, 1, size)
        touches.reshape(-1)[pairs.unique().cpu().numpy()] = True
    touches |= touches.T
    touches[0] = touches[:, 0] = False
    np.fill_diagonal(touches, False)
    parent = np.arange(number)
    means = sums / np.maximum(sizes, 1)
    costs = np.where(touches, _growth(sizes[:, None], means[:, None], sizes, means), np.inf)
    for _ in range(int((sizes[1:] > 0).sum()) - wanted):
        kept, gone = divmod(int(costs.argmin()), number)
        if not np.isfinite(costs[kept, gone]):
            break
        parent[parent == gone] = kept
        means[kept] = (sizes[kept] * means[kept] + sizes[gone] * means[gone]) / (sizes[kept] + sizes[gone])
        sizes[kept] += sizes[gone]
        neighbours = np.isfinite(costs[kept]) | np.isfinite(costs[gone])
        neighbours[[kept, gone]] = False
        costs[gone] = costs[:, gone] = np.inf
        row = np.where(neighbours, _growth(sizes[kept], means[kept], sizes, means), np.inf)
        costs[kept], costs[:, kept] = row, row
    _, renumbered = np.unique(parent, return_inverse=True)  # 0 is its own parent and stays 0
    return torch.from_numpy(renumbered.astype(np.int64)).to(labels.device)[labels]


def _growth(
    size: np.ndarray | float, mean: np.ndarray | float, others: np.ndarray, other_means: np.ndarray
) -> np.ndarray:
    """By how much the sum of squared differences from the mean grows when two regions become one."""
    return size * others / np.maximum(size + others, 1) * (mean - other_means) ** 2


def place_borders(images: Tensor, cell_labels: Tensor) -> Tensor:
    """Regions of cells on voxels (n, D, H, W), their borders moved to the edges there."""
    labels = cell_labels
    for axis in (1, 2, 3):
        labels = labels.repeat_interleave(2, dim=axis)
    inside = labels.clone()
    for axis in (1, 2, 3):
        size = labels.shape[axis] - 1
        differs = labels.narrow(axis, 0, size) != labels.narrow(axis, 1, size)
        for start in (0, 1):
            inside.narrow(axis, start, size).masked_fill_(differs, 0)
    flooded = flood(relief(images), inside, NUM_BORDER_FLOODS)
    return torch.where(flooded > 0, flooded, labels)


def drop_cut(labels: Tensor) -> Tensor:
    """Sets regions to 0 of whose surface the crop cuts off more than ``MAX_CUT``, unless none is left."""
    count, number = len(labels), int(labels.max()) + 1
    index = labels + number * torch.arange(count, device=labels.device)[:, None, None, None]
    sizes = torch.bincount(index.flatten(), minlength=count * number).float()
    ends = [index.select(axis, place).flatten() for axis in (1, 2, 3) for place in (0, -1)]
    cut = torch.bincount(torch.cat(ends), minlength=count * number).float()
    is_cut = (cut > MAX_CUT * 6 * sizes ** (2 / 3)).reshape(count, number)
    is_cut &= ((~is_cut) & (sizes.reshape(count, number) > 0))[:, 1:].any(dim=1, keepdim=True)
    return torch.where(is_cut.flatten()[index], 0, labels)
