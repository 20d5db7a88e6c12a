"""What the intensities under a prompt say of the rest of the tile: where else they occur, and what they connect to.

Classical region growing follows an edge it has never seen; a network has to learn to. These maps hand it the former's
answer, for what was marked to include and to exclude, and it learns when to believe it.

Source: Swain and Ballard, Color Indexing, 1991 (histogram back-projection); Udupa and Samarasinghe, Fuzzy Connectedness
and Object Definition, 1996.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .layers import dilate, max_of_cells, mean_of_cells

NUM_BINS = 64
"""Bins of intensities from -1 to 1."""
SMOOTHING = 2.0
"""Standard deviation of an intensity's neighbourhood, in bins."""
CHUNK = 2**16
"""Voxels that are counted at a time where that takes memory."""
NUM_STEPS = 24
"""Cells of two voxels that connectedness reaches along each axis."""
NUM_SIDES = 2
"""Include and exclude."""


def similarity(image: Tensor, marks: Tensor) -> Tensor:
    """How usual each intensity is under the marks of an object: 1 for the most usual, 0 for one that never occurs.

    Args:
        image: (B, N) float32 in [-1, 1].
        marks: (B, K, N) float32 weights of K sets of marks; none set for zeros.

    Returns:
        (B, K, N) float32 in [0, 1]; zeros for a set without marks. Cost linear in K * N.
    """
    index = ((image + 1) * ((NUM_BINS - 1) / 2)).round_().clamp_(0, NUM_BINS - 1).long()
    histogram = (_histogram_by_products if marks.is_cuda else _histogram)(index, marks)
    index = index.unsqueeze(1).expand(marks.shape)
    bins = torch.arange(NUM_BINS, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * ((bins[:, None] - bins) / SMOOTHING) ** 2)
    histogram = histogram @ kernel
    histogram = histogram / histogram.amax(dim=2, keepdim=True).clamp(min=1e-6)
    return histogram.gather(2, index)


def _histogram(index: Tensor, marks: Tensor) -> Tensor:
    """Weight of the marks (B, K, N) in each bin, by the bin (B, N) of each voxel: (B, K, NUM_BINS)."""
    bins = marks.new_zeros(*marks.shape[:2], NUM_BINS)
    return bins.scatter_add_(2, index.unsqueeze(1).expand(marks.shape), marks)


def _histogram_by_products(index: Tensor, marks: Tensor) -> Tensor:
    """The same as a product of matrices: a GPU adds to one bin what many voxels hold only one voxel at a time.

    In bfloat16: what tells which bin a voxel belongs to is exact in it, and takes 64 numbers a voxel.
    """
    of_bins = torch.eye(NUM_BINS, device=index.device, dtype=torch.bfloat16)
    total = marks.new_zeros(*marks.shape[:2], NUM_BINS)
    for voxels, weights in zip(index.split(CHUNK, dim=1), marks.to(torch.bfloat16).split(CHUNK, dim=2), strict=True):
        total = total + weights @ F.embedding(voxels, of_bins)
    return total


def spread(reached: Tensor, affinity: Tensor) -> Tensor:
    """One step of :func:`connectedness`."""
    return torch.maximum(reached, torch.minimum(dilate(reached), affinity))


def connectedness(
    affinity: Tensor, seeds: Tensor, num_steps: int = NUM_STEPS, step: Callable[[Tensor, Tensor], Tensor] = spread
) -> Tensor:
    """The best path from a seed to each cell, as strong as its weakest cell: (N, D, H, W) each -> (N, D, H, W)."""
    reached = seeds
    for _ in range(num_steps):
        reached = step(reached, affinity)
    return reached


@torch.no_grad()
def gather_evidence(
    image: Tensor, dense: Tensor, step: Callable[[Tensor, Tensor], Tensor] = spread
) -> tuple[Tensor, Tensor]:
    """Evidence of the marks of P objects on each of B tiles.

    Args:
        image: (B, 1, D, H, W) preprocessed intensities, D, H, W even.
        dense: (B, P, K, D, H, W) maps whose first two mark what to include and what to exclude.
        step: :func:`spread`, or the same compiled.

    Returns:
        Similarity (B * P, 2, D, H, W) and, for cells of 2 x 2 x 2 voxels, connectedness (B * P, 2, D/2, H/2, W/2);
        float32 in [0, 1], first for include. Without gradients.
    """
    batch, num_objects = dense.shape[:2]
    grid = image.shape[2:]
    marks = dense[:, :, :NUM_SIDES].float().square().square()  # half as wide: a thin structure is not mixed up
    flat = marks.flatten(3).flatten(1, 2)  # (B, P * 2, D H W)
    alike = similarity(image.float().flatten(1), flat).reshape(batch * num_objects, NUM_SIDES, *grid)
    cells = mean_of_cells(image.float())  # noise that is finer than a cell would cut paths
    cell_marks = max_of_cells(marks).reshape(batch, num_objects * NUM_SIDES, -1)
    affinity = similarity(cells.flatten(1), cell_marks).reshape(-1, *cells.shape[2:])
    seeds = cell_marks.reshape(affinity.shape)
    joined = connectedness(affinity, torch.minimum(seeds, affinity), step=step)
    return alike, joined.reshape(batch * num_objects, NUM_SIDES, *cells.shape[2:])
