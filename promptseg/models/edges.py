"""Logits that follow the edges of the image: smoothed where intensities are alike, and cut where they are not.

A network that is small, or has seen little, knows where an object is better than where it ends. This layer lets each
voxel hear its neighbours as far as no edge lies between, as in random-walk segmentation with the logits as prior.

Source: Grady, Random Walks for Image Segmentation, 2006, and Multilabel Random Walker Image Segmentation Using Prior
Models, 2005; Zheng et al., Conditional Random Fields as Recurrent Neural Networks, 2015, for training through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DATA_WEIGHT = 0.25
"""How much a voxel's own logit counts, where each of its six neighbours counts at most 1."""
EDGE_SHARPNESS = 300.0
"""A step of intensities, which lie from -1 to 1, is worth exp(-sharpness * step^2)."""
LEAST_EXPONENT = -60.0
"""Of that weight: any smaller is as good as none, and so small that a processor takes ten times as long for it."""
NUM_STEPS = 8
"""Voxels that a logit reaches."""
LARGEST_LOGIT = 6.0
"""What logits are bent to before, so that a sure voxel does not outvote all that it reaches."""


def follow_edges(logits: Tensor, image: Tensor) -> Tensor:
    """Solves ``(data + Laplacian) x = data * logits`` approximately, with a Laplacian weighted by the image's edges.

    Args:
        logits: (B, P, D, H, W) of P masks on each of B tiles.
        image: (B, 1, D, H, W) preprocessed intensities, -1 to 1.

    Returns:
        (B, P, D, H, W) float32, at most :data:`LARGEST_LOGIT` in size. Cost: ``NUM_STEPS`` passes over the masks; none
        of them is kept for the gradient, which is exact.
    """
    image = image.float()
    steps = (image.diff(dim=axis).square_() for axis in (2, 3, 4))
    weights = [step.mul_(-EDGE_SHARPNESS).clamp_(min=LEAST_EXPONENT).exp_() for step in steps]
    total = torch.full_like(image, DATA_WEIGHT)
    for axis, weight in enumerate(weights, start=2):
        for near, _ in _neighbours(total, axis):
            near.add_(weight)
    bent = LARGEST_LOGIT * torch.tanh(logits.float() / LARGEST_LOGIT)
    return _FollowEdges.apply(bent, total.reciprocal_(), *weights)  # type: ignore[return-value]


class _FollowEdges(torch.autograd.Function):
    """Jacobi iterations; the gradient is those of the transposed system."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, inverse: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, *weights)
        x = logits
        for _ in range(NUM_STEPS):
            x = gather_neighbours(x, weights, DATA_WEIGHT * logits).mul_(inverse)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inverse, *weights = ctx.saved_tensors
        grad = grads[0].float()
        own = torch.zeros_like(grad)
        for _ in range(NUM_STEPS):
            scaled = grad * inverse
            own.add_(scaled, alpha=DATA_WEIGHT)
            grad = gather_neighbours(scaled, weights, torch.zeros_like(grad))
        return own.add_(grad), None, *(None for _ in weights)


def gather_neighbours(x: Tensor, weights: Sequence[Tensor], out: Tensor) -> Tensor:
    """Adds to ``out`` what the six neighbours of each voxel say, weighted along each axis: (B, P, D, H, W)."""
    for axis, weight in enumerate(weights, start=2):
        for (near, _), (_, far) in zip(_neighbours(out, axis), _neighbours(x, axis), strict=True):
            near.addcmul_(weight.expand_as(far), far)
    return out


def _neighbours(x: Tensor, axis: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Views of all voxels but the last and all but the first, and the other way round."""
    size = x.shape[axis] - 1
    first, second = x.narrow(axis, 0, size), x.narrow(axis, 1, size)
    return (first, second), (second, first)
