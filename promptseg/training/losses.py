"""Losses of prompted training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

UNKNOWN_LOGIT = -1e4
"""Given to voxels of which nobody knows what they are, with a target of 0: right there, and without a gradient."""


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice loss per mask: logits and target (..., D, H, W) -> (...)."""
    probability = logits.sigmoid()
    dims = (-3, -2, -1)
    overlap = (probability * target).sum(dims)
    return 1 - (2 * overlap + 1) / (probability.sum(dims) + target.sum(dims) + 1)


def mask_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, focal_weight: float = 2.0) -> Tensor:
    """Soft Dice plus cross entropy and a focal term: logits and target (..., D, H, W) -> (...).

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, for the focal term.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = 1 - torch.exp(-cross_entropy)
    weighted = cross_entropy * (1 + focal_weight * missed**gamma)
    return dice_loss(logits, target) + weighted.mean((-3, -2, -1))


def score_masks(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and IoU of M masks of each object, the IoU without gradients.

    Args:
        logits: (N, M, D, H, W).
        target: (N, D, H, W) bool.

    Returns:
        (N, M) float32 each.
    """
    wanted = target[:, None].expand_as(logits)
    losses = mask_loss(logits.float(), wanted.float())
    with torch.no_grad():
        actual = iou(logits > 0, wanted)
    return losses, actual


def iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of bool masks (..., D, H, W) -> (...); 1 where both are empty."""
    dims = (-3, -2, -1)
    overlap = (predicted & target).sum(dims).float()
    union = (predicted | target).sum(dims).float()
    return torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))


def dice_score(predicted: Tensor, target: Tensor) -> Tensor:
    """Dice of bool masks (..., D, H, W) -> (...); 1 where both are empty."""
    dims = (-3, -2, -1)
    overlap = 2 * (predicted & target).sum(dims).float()
    total = predicted.sum(dims).float() + target.sum(dims).float()
    return torch.where(total > 0, overlap / total.clamp(min=1), torch.ones_like(total))
