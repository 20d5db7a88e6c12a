"""Supervoxels of real images as pseudo-objects, where nobody has labelled anything."""

from __future__ import annotations

import torch
from torch import Tensor

from .fields import blur
from .prompt_simulator import halve
from .randomness import Randomness

NUM_ROUNDS = 4


def supervoxels(images: Tensor, randomness: Randomness) -> Tensor:
    """Divides images into compact regions of like intensity, by k-means over intensity and place.

    Few large regions or many small ones, compact or ragged, by one draw for all. Means are found at half resolution;
    the borders are drawn at full resolution.

    Args:
        images: (n, D, H, W) float32, about [-1, 1], even sides.
        randomness: source.

    Returns:
        (n, D, H, W) int64, values 1 to the number of regions (6 to 64). Cost linear in voxels times regions.

    Source: Achanta et al., SLIC, 2012; here each voxel looks at every mean.
    """
    count = len(images)
    regions = round(float(6 * (64 / 6) ** randomness.host.random()))
    compactness = float(0.2 * 5 ** randomness.host.random())
    sigma = torch.full((count, 3), float(randomness.host.uniform(0.3, 1.2)))
    smooth = blur(images, sigma)
    coarse = _features(halve(smooth), compactness, regions)  # (n, voxels, 4)
    start = (randomness.uniform(count, regions) * coarse.shape[1]).long()
    means = coarse.gather(1, start[..., None].expand(-1, -1, 4))
    for _ in range(NUM_ROUNDS):
        nearest = _nearest(coarse, means)
        sums = torch.zeros_like(means).scatter_add_(1, nearest[..., None].expand(-1, -1, 4), coarse)
        sizes = torch.zeros_like(means[..., 0]).scatter_add_(1, nearest, torch.ones_like(coarse[..., 0]))
        means = torch.where(sizes[..., None] > 0, sums / sizes[..., None].clamp(min=1), means)
    return (_nearest(_features(smooth, compactness, regions), means) + 1).reshape(images.shape)


def _features(images: Tensor, compactness: float, regions: int) -> Tensor:
    """Intensity in standard deviations and weighted place: (n, voxels, 4)."""
    flat = images.flatten(1)
    scale = flat.std(dim=1, keepdim=True).clamp(min=1e-3)
    axes = [torch.linspace(0, 1, n, device=images.device) for n in images.shape[1:]]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3) * regions ** (1 / 3)
    return torch.cat([(flat / scale)[..., None], (compactness * place).expand(len(flat), -1, -1)], dim=-1)


def _nearest(features: Tensor, means: Tensor) -> Tensor:
    """Index of the nearest mean: (n, voxels, 4), (n, k, 4) -> (n, voxels)."""
    scores = torch.baddbmm(means.square().sum(-1)[:, None], features, means.mT, alpha=-2)
    return scores.argmin(dim=-1)
