"""Synthetic training volumes: label maps drawn from noise and shapes, painted with random intensities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .crops import smooth_field


def noise_labels(rng: np.random.Generator, size: int) -> np.ndarray:
    """Touching blobs: argmax of smooth noise channels, as values 1..n: (size, size, size) int32.

    Source: Hoffmann et al., SynthMorph, 2021, section on label maps from noise.
    """
    num_labels = int(rng.integers(3, 10))
    cells = int(rng.integers(3, 9))
    return (smooth_field(rng, size, cells, num_labels).argmax(dim=0) + 1).numpy().astype(np.int32)


def _coordinates(size: int) -> Tensor:
    axis = torch.arange(size, dtype=torch.float32)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


def add_ellipsoids(labels: np.ndarray, rng: np.random.Generator, first_value: int) -> np.ndarray:
    """Writes a few rotated, slightly warped ellipsoids, some nested, over a label map."""
    size = labels.shape[0]
    coordinates = _coordinates(size)
    out = torch.from_numpy(labels)
    warp = smooth_field(rng, size, 5, 1)[0]
    for number in range(int(rng.integers(1, 6))):
        centre = torch.from_numpy(rng.uniform(0.1, 0.9, 3) * size).float()
        radii = np.exp(rng.uniform(np.log(2.0), np.log(size * 0.4))) * np.exp(rng.normal(0, 0.35, 3))
        rotation = torch.from_numpy(np.linalg.qr(rng.standard_normal((3, 3)))[0] / radii[:, None]).float()
        offset = coordinates - centre[:, None, None, None]
        distance = torch.einsum("ij,jdhw->idhw", rotation, offset).square().sum(0).sqrt()
        shape = distance + rng.uniform(0, 0.25) * warp
        out[shape < 1] = first_value + 2 * number
        if rng.random() < 0.3:
            out[shape < rng.uniform(0.4, 0.8)] = first_value + 2 * number + 1
    return out.numpy()


def add_tubes(labels: np.ndarray, rng: np.random.Generator, first_value: int) -> np.ndarray:
    """Writes curved, branching tubes over a label map; each tree is one label."""
    size = labels.shape[0]
    out = labels.copy()
    for number in range(int(rng.integers(1, 4))):
        radius = float(np.exp(rng.uniform(np.log(1.0), np.log(5.0))))
        branches = [(rng.uniform(0.1, 0.9, 3) * size, rng.standard_normal(3), radius)]
        points = []
        while branches and len(points) < 400:
            position, direction, radius = branches.pop()
            for _ in range(int(rng.integers(15, 50))):
                direction = direction / np.linalg.norm(direction) + 0.25 * rng.standard_normal(3)
                position = position + 1.2 * direction / np.linalg.norm(direction)
                points.append((position, radius))
                if rng.random() < 0.03 and radius > 1.2:
                    branches.append((position, rng.standard_normal(3), radius * 0.75))
        for position, radius in points:
            low = np.maximum(np.floor(position - radius).astype(int), 0)
            high = np.minimum(np.ceil(position + radius).astype(int) + 1, size)
            if (high <= low).any():
                continue
            axes = [np.arange(a, b) - c for a, b, c in zip(low, high, position, strict=True)]
            ball = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
            view = out[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            view[ball <= radius**2] = first_value + number
    return out


def shape_labels(rng: np.random.Generator, size: int) -> np.ndarray:
    """A label map of blobs with ellipsoids and tubes on it: (size, size, size) int32, values from 1."""
    labels = noise_labels(rng, size)
    if rng.random() < 0.3:
        labels[:] = 0
    if rng.random() < 0.7:
        labels = add_ellipsoids(labels, rng, 20)
    if rng.random() < 0.35:
        labels = add_tubes(labels, rng, 40)
    return labels


def split_background(labels: np.ndarray, rng: np.random.Generator, first_value: int = 1000) -> np.ndarray:
    """Divides the unlabelled part into a few blobs, so that painted tissue surrounds the labels."""
    if rng.random() < 0.25:
        return labels
    return np.where(labels == 0, noise_labels(rng, labels.shape[0]) % int(rng.integers(2, 6)) + first_value, labels)


def paint(labels: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Draws an image of a label map: random intensity, texture and gradient per label.

    Args:
        labels: (D, H, W) values.
        rng: source of randomness.

    Returns:
        (D, H, W) float32, about [-1, 1].

    Source: Billot et al., SynthSeg, 2023 (random Gaussian per label).
    """
    values, index = np.unique(labels, return_inverse=True)
    index = torch.from_numpy(index.reshape(labels.shape).astype(np.int64))
    size = labels.shape[0]
    means = torch.from_numpy(rng.uniform(-1, 1, len(values)).astype(np.float32))
    if rng.random() < 0.3:  # few distinct intensities: neighbours that cannot be told apart by intensity alone
        means = means[torch.from_numpy(rng.integers(0, max(2, len(values) // 2), len(values)))]
    deviations = torch.from_numpy((rng.uniform(0, 0.18, len(values)) * rng.uniform(0, 1)).astype(np.float32))
    texture = smooth_field(rng, size, int(rng.integers(8, 33)), 1)[0]
    grain = torch.from_numpy(rng.standard_normal(labels.shape, dtype=np.float32))
    mixed = rng.uniform(0, 1) * texture + rng.uniform(0, 1) * grain
    return means[index] + deviations[index] * mixed


def blur(image: Tensor, sigma_vox: tuple[float, float, float]) -> Tensor:
    """Separable Gaussian blur of (D, H, W), a standard deviation per axis in voxels."""
    out = image[None, None]
    for axis, sigma in enumerate(sigma_vox):
        if sigma < 0.2:
            continue
        radius = max(1, int(np.ceil(2.5 * sigma)))
        x = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        kernel = (kernel / kernel.sum()).reshape([-1 if a == axis else 1 for a in range(3)])
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        out = F.conv3d(F.pad(out, padding, mode="replicate"), kernel[None, None])
    return out[0, 0]
