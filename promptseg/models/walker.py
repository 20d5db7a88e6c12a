"""What the clicks on an object say together of the rest of a tile, by the image's edges alone: a random walker.

A network knows the anatomy that it was trained on; of other things clicks tell more than it does. A walker that starts
at a voxel, steps easily where intensities are alike, and meets an included click before an excluded one votes for the
object. At the tile's border it is met by what the network drew there, so that an object may go on beyond the tile.

Source: Grady, Random Walks for Image Segmentation, 2006. The linear system is solved by conjugate gradients from the
network's answer, on cells of 2 x 2 x 2 voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .edges import gather_neighbours
from .layers import enlarge, max_of_cells, mean_of_cells

SHARPNESS = 150.0
"""A step of intensities is worth exp(-sharpness * step^2 / deviation), with the standard deviation of a tile's."""
LEAST_WEIGHT = 1e-5
"""What a step is worth across any edge."""
SEED = 0.5
"""Part of a click's ball, 1 at its middle, in which it is certain."""
NUM_STEPS = 40
"""Of conjugate gradients."""
LARGEST_VOTE = 3.0
"""In logits."""
DOUBT_WEIGHT = 2.0
"""Of a vote beside the network's logit, for each 1 that the network's estimate of its own IoU lacks to 1: the less it
thinks of what it drew, the more the edges tell. Chosen on training cases, with weights that had seen their anatomy and
with such that had not."""


@torch.no_grad()
def vote(logits: Tensor, image: Tensor, marks: Tensor, doubt: Tensor) -> Tensor:
    """Votes of random walkers for P objects on each of B tiles, without gradients.

    Args:
        logits: (B, P, D, H, W) as the network drew them; D, H, W even.
        image: (B, 1, D, H, W) preprocessed intensities, -1 to 1.
        marks: (B, P, 2, D, H, W) balls around clicks to include and to exclude, 0 to 1.
        doubt: (B, P) 1 less the estimated IoU of what the network drew, 0 to 1.

    Returns:
        (B, P, D, H, W) float32 to add to the logits. Cost: ``NUM_STEPS`` passes over an eighth of the voxels.
    """
    cells = mean_of_cells(image.float())
    spread = cells.flatten(2).std(dim=2).clamp(min=1e-3)[..., None, None, None]
    steps = (-SHARPNESS * cells.diff(dim=axis).square() / spread for axis in (2, 3, 4))
    weights = [step.clamp_(min=math.log(LEAST_WEIGHT)).exp_() for step in steps]
    drawn = mean_of_cells(logits.float().sigmoid())
    include, exclude = max_of_cells(marks.float()).unbind(2)
    is_fixed = (include > SEED) | (exclude > SEED) | _border(cells)
    start = torch.where(include > SEED, 1.0, torch.where(exclude > SEED, 0.0, drawn))
    met = _solve(start, weights, ~is_fixed).clamp_(1e-3, 1 - 1e-3)
    votes = met.logit().clamp_(-LARGEST_VOTE, LARGEST_VOTE)
    return DOUBT_WEIGHT * doubt.float()[..., None, None, None] * enlarge(votes, 2)


def _border(cells: Tensor) -> Tensor:
    """(1, 1, D, H, W) bool: the outermost cells."""
    border = torch.ones(cells.shape[2:], dtype=torch.bool, device=cells.device)
    border[1:-1, 1:-1, 1:-1] = False
    return border[None, None]


def _solve(x: Tensor, weights: list[Tensor], is_free: Tensor) -> Tensor:
    """Makes each free cell the weighted mean of its neighbours; the others stay.

    Args:
        x: (B, P, D, H, W) to begin with.
        weights: (B, 1, ...) between neighbours along each axis.
        is_free: (B, P, D, H, W) bool.
    """
    free = is_free.float()
    ones = torch.ones_like(x[:, :1])
    degree = gather_neighbours(ones, weights, torch.zeros_like(ones))
    residual = gather_neighbours(x, weights, -degree * x) * free
    z = residual / degree
    step, size = z, (residual * z).sum((2, 3, 4), keepdim=True)
    for _ in range(NUM_STEPS):
        pulled = gather_neighbours(step, weights, -degree * step) * free  # minus the Laplacian of the step
        length = size / -(step * pulled).sum((2, 3, 4), keepdim=True).clamp(max=-1e-20)
        x = x + length * step
        residual = residual + length * pulled
        z = residual / degree
        before, size = size, (residual * z).sum((2, 3, 4), keepdim=True)
        step = z + size / before.clamp(min=1e-20) * step
    return x
