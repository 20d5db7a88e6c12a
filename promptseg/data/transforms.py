"""Intensity augmentation: what scanners, protocols and reconstructions do to the same anatomy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..preprocessing import IntensityMapping, PreprocessingConfig
from .crops import smooth_field
from .synthesis import blur


def acquire(image: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Acquisition effects: blur, anisotropic resolution, bias field, noise.

    Args:
        image: (D, H, W) float32, about [-1, 1].
        rng: source of randomness.
        strength: scales probabilities, 0 to 1.

    Returns:
        (D, H, W) float32.
    """
    size = image.shape[0]
    if rng.random() < 0.35 * strength:
        sigma = rng.uniform(0, 1.2, 3)
        image = blur(image, (float(sigma[0]), float(sigma[1]), float(sigma[2])))
    if rng.random() < 0.25 * strength:
        low = [size] * 3
        low[int(rng.integers(3))] = max(4, int(size / rng.uniform(1.5, 5)))
        mode = "trilinear" if rng.random() < 0.7 else "nearest"
        coarse = F.interpolate(image[None, None], size=tuple(low), mode="area")
        image = F.interpolate(coarse, size=tuple(image.shape), mode=mode)[0, 0]
    if rng.random() < 0.3 * strength:
        bias = smooth_field(rng, size, int(rng.integers(2, 5)), 1)[0]
        image = (image + 1) * torch.exp(float(rng.uniform(0.05, 0.35)) * bias) - 1
    if rng.random() < 0.4 * strength:
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        image = image + float(rng.uniform(0.01, 0.12)) * noise
    return image


def remap(image: Tensor, rng: np.random.Generator, config: PreprocessingConfig, strength: float = 1.0) -> Tensor:
    """Contrast changes: gamma, scale and shift, inversion, and equalisation within the crop."""
    if rng.random() < 0.15 * strength and float(image.std()) > 1e-3:
        image = IntensityMapping.from_array(image.numpy(), config)(image)
    if rng.random() < 0.4 * strength:
        unit = ((image + 1) / 2).clamp(0, 1)
        image = 2 * unit ** float(np.exp(rng.uniform(-0.6, 0.6))) - 1
    if rng.random() < 0.1 * strength:
        image = -image
    if rng.random() < 0.4 * strength:
        image = image * float(rng.uniform(0.7, 1.25)) + float(rng.uniform(-0.2, 0.2))
    return image.clamp(-1.0, 1.0)
