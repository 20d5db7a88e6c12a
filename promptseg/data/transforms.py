"""Intensity augmentation: what scanners, protocols and reconstructions do to the same anatomy.

Batched torch on any device. Which volumes an effect takes, and how strong it is, is drawn on the host.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..preprocessing import PreprocessingConfig
from .fields import blur, coarsen, smooth_fields, take_along
from .randomness import Randomness, RandomSource, hand_over


def _pick(randomness: Randomness, probability: np.ndarray, device: torch.device) -> Tensor | None:
    """Rows that an effect takes, or None."""
    rows = (randomness.host.random(len(probability)) < probability).nonzero()[0]
    return hand_over(rows, device) if len(rows) else None


def _draw(randomness: Randomness, low: float, high: float, rows: Tensor) -> Tensor:
    """A number for each row, from low to high: (n, 1, 1, 1)."""
    values = randomness.host.uniform(low, high, len(rows)).astype(np.float32)
    return hand_over(values, rows.device)[:, None, None, None]


def acquire(images: Tensor, source: RandomSource, strength: float | np.ndarray = 1.0) -> Tensor:
    """Acquisition effects: blur, thick slices, low resolution, motion, bias field, noise.

    Args:
        images: (n, D, H, W) float32, cubic, about [-1, 1]; or (D, H, W).
        source: of randomness.
        strength: scale of the probabilities, 0 to 1; for all, or (n,).

    Returns:
        The same shape, float32.
    """
    if images.ndim == 3:
        return acquire(images[None], source, strength)[0]
    randomness = Randomness.of(source, images.device)
    images, strength = images.clone(), np.broadcast_to(strength, len(images))
    device, size = images.device, images.shape[1]
    if (rows := _pick(randomness, 0.35 * strength, device)) is not None:
        sigma = torch.from_numpy(randomness.host.uniform(0, 1.2, (len(rows), 3)).astype(np.float32))
        images[rows] = blur(images[rows], sigma)
    if (rows := _pick(randomness, 0.25 * strength, device)) is not None:
        images[rows] = _thicken(images[rows], randomness, 1.5, 5.0, axes=1)
    if (rows := _pick(randomness, 0.1 * strength, device)) is not None:
        images[rows] = _thicken(images[rows], randomness, 1.2, 3.0, axes=3)
    if (rows := _pick(randomness, 0.08 * strength, device)) is not None:
        images[rows] = _ghost(images[rows], randomness)
    if (rows := _pick(randomness, 0.3 * strength, device)) is not None:
        field = smooth_fields(randomness, len(rows), 1, size, int(randomness.host.integers(2, 5)))[:, 0]
        images[rows] = (images[rows] + 1) * torch.exp(_draw(randomness, 0.05, 0.35, rows) * field) - 1
    if (rows := _pick(randomness, 0.4 * strength, device)) is not None:
        noise = randomness.normal(len(rows), *images.shape[1:])
        images[rows] = images[rows] + _draw(randomness, 0.01, 0.12, rows) * noise
    return images


def _thicken(images: Tensor, randomness: Randomness, low: float, high: float, axes: int) -> Tensor:
    """Coarser resolution along ``axes`` of the three axes, by one factor for each volume."""
    factor = hand_over(randomness.host.uniform(low, high, len(images)).astype(np.float32), images.device)
    is_linear = hand_over(randomness.host.random(len(images)) < 0.7, images.device)
    for axis in randomness.host.permutation(3)[:axes]:
        images = coarsen(images, int(axis), factor, is_linear)
    return images


def _ghost(images: Tensor, randomness: Randomness) -> Tensor:
    """Motion: a shifted copy shines through, and the edges along that axis smear."""
    axis, size = int(randomness.host.integers(3)), images.shape[1]
    voxel = torch.arange(size, device=images.device)
    rows = torch.arange(len(images), device=images.device)
    for low, high, weakest, strongest in ((0.25, 0.5, 0.05, 0.25), (0.01, 0.04, 0.2, 0.5)):
        shift = (_draw(randomness, low, high, rows)[:, 0, 0] * size).ceil().long()
        weight = _draw(randomness, weakest, strongest, rows)
        images = (1 - weight) * images + weight * take_along(images, (voxel + shift) % size, axis)
    return images


def remap(
    images: Tensor, source: RandomSource, config: PreprocessingConfig, strength: float | np.ndarray = 1.0
) -> Tensor:
    """Contrast changes: equalisation within the crop, gamma, inversion, scale and shift.

    Args:
        images: (n, D, H, W) float32, about [-1, 1]; or (D, H, W).
        source: of randomness.
        config: the model's preprocessing, for the equalisation.
        strength: scale of the probabilities, 0 to 1; for all, or (n,).

    Returns:
        The same shape, float32 in [-1, 1].
    """
    if images.ndim == 3:
        return remap(images[None], source, config, strength)[0]
    randomness = Randomness.of(source, images.device)
    images, strength = images.clone(), np.broadcast_to(strength, len(images))
    device = images.device
    if (rows := _pick(randomness, 0.15 * strength, device)) is not None:
        images[rows] = equalise(images[rows], config)
    if (rows := _pick(randomness, 0.4 * strength, device)) is not None:
        unit = ((images[rows] + 1) / 2).clamp(0, 1)
        images[rows] = 2 * unit ** torch.exp(_draw(randomness, -0.6, 0.6, rows)) - 1
    if (rows := _pick(randomness, 0.1 * strength, device)) is not None:
        images[rows] = -images[rows]
    if (rows := _pick(randomness, 0.4 * strength, device)) is not None:
        images[rows] = images[rows] * _draw(randomness, 0.7, 1.25, rows) + _draw(randomness, -0.2, 0.2, rows)
    return images.clamp(-1.0, 1.0)


def equalise(images: Tensor, config: PreprocessingConfig, step: int = 4) -> Tensor:
    """What :class:`~promptseg.preprocessing.IntensityMapping` does to an image, for a batch on the device.

    Args:
        images: (n, D, H, W) float32.
        config: parameters.
        step: every so many voxels are measured.

    Returns:
        (n, D, H, W) float32 in [-1, 1]; constant images become zeros.
    """
    values = images.flatten(1)[:, ::step].sort(dim=1).values.contiguous()
    count, bins = values.shape[1], config.num_bins
    first, last = (round(p / 100 * (count - 1)) for p in (config.low_percentile, config.high_percentile))
    low, high = values[:, first, None], values[:, last, None]
    is_flat = high - low < 1e-6
    width = torch.where(is_flat, torch.ones_like(low), high - low)
    edges = low + width * torch.linspace(0, 1, bins + 1, device=images.device)
    below = torch.searchsorted(values, edges.contiguous(), right=True).float()
    share = below.diff(dim=1)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    limit = config.clip_limit / bins
    excess = (share - limit).clamp(min=0).sum(dim=1, keepdim=True)
    share = share.clamp(max=limit) + excess / bins
    equalised = torch.cat([torch.zeros_like(low), (share / share.sum(1, keepdim=True)).cumsum(1)], dim=1)
    linear = torch.linspace(0, 1, bins + 1, device=images.device)
    table = 2 * (config.equalization * equalised + (1 - config.equalization) * linear) - 1
    position = ((images.flatten(1) - low) / width * bins).clamp(0, bins)
    index = position.long().clamp(max=bins - 1)
    left, right = table.gather(1, index), table.gather(1, index + 1)
    mapped = left + (right - left) * (position - index)
    return torch.where(is_flat, torch.zeros_like(mapped), mapped).reshape(images.shape)
