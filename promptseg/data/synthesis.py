"""Synthetic training volumes: label maps drawn from noise and shapes, painted with random intensities.

Batched torch on any device. How many shapes there are, and where, is drawn on the host; what costs voxels is done where
the randomness says. Label values are below :data:`NUM_VALUES`, so that tables can stand for labels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .fields import smooth_fields
from .randomness import Randomness, hand_over

NUM_VALUES = 256
FIRST_ELLIPSOID, FIRST_TUBE, FIRST_BACKGROUND = 20, 40, 240
"""Label values from which shapes and unlabelled tissue are numbered; blobs come first, from 1."""
MAX_TUBE_RADIUS = 5


def noise_labels(randomness: Randomness, count: int, size: int) -> Tensor:
    """Touching blobs, 3 to 9 of them, as values from 1: (count, size, size, size) int64.

    Source: Hoffmann et al., SynthMorph, 2021, section on label maps from noise.
    """
    num_labels = int(randomness.host.integers(3, 10))
    cells = int(randomness.host.integers(3, 9))
    return smooth_fields(randomness, count, num_labels, size, cells).argmax(dim=1) + 1


def add_ellipsoids(labels: Tensor, randomness: Randomness, most: np.ndarray) -> Tensor:
    """Writes rotated, slightly warped ellipsoids, some nested, over label maps.

    Args:
        labels: (n, size, size, size) int64.
        randomness: source.
        most: (n,) how many at most on each; 1 or more draws at least one, 0 none.
    """
    count, size = labels.shape[:2]
    host, device = randomness.host, labels.device
    numbers = np.where(most > 0, host.integers(1, np.maximum(most, 1) + 1), 0)
    axis = torch.arange(size, dtype=torch.float32, device=device)
    coordinates = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    warp = smooth_fields(randomness, count, 1, size, 5)[:, 0]
    for number in range(int(numbers.max(initial=0))):
        centre = host.uniform(0.1, 0.9, (count, 3)) * size
        radii = np.exp(host.uniform(np.log(2.0), np.log(size * 0.4), (count, 1)) + host.normal(0, 0.35, (count, 3)))
        turn = np.linalg.qr(host.standard_normal((count, 3, 3)))[0] / radii[:, :, None]
        turn_there = hand_over(turn.astype(np.float32), device)
        middle = hand_over((turn @ centre[:, :, None]).astype(np.float32), device)[..., None, None]
        distance = (torch.einsum("nij,jdhw->nidhw", turn_there, coordinates) - middle).square().sum(1).sqrt()
        shape = distance + _numbers(host.uniform(0, 0.25, count), device) * warp
        exists = _numbers(numbers > number, device)
        labels = torch.where((shape < 1) & exists, FIRST_ELLIPSOID + 2 * number, labels)
        core = np.where(host.random(count) < 0.3, host.uniform(0.4, 0.8, count), -np.inf)
        labels = torch.where((shape < _numbers(core, device)) & exists, FIRST_ELLIPSOID + 2 * number + 1, labels)
    return labels


def _numbers(values: np.ndarray, device: torch.device) -> Tensor:
    """One value for each volume: (n, 1, 1, 1)."""
    kind = np.float32 if values.dtype.kind == "f" else values.dtype
    return hand_over(values.astype(kind), device)[:, None, None, None]


def draw_tree(rng: np.random.Generator, size: int, max_branches: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A curved tube that branches: centre points (N, 3) in voxels and radii (N,), at most 5."""
    radius = float(np.exp(rng.uniform(np.log(1.0), np.log(MAX_TUBE_RADIUS))))
    waiting = [(rng.uniform(0.1, 0.9, 3) * size, radius)]
    points, radii = [], []
    while waiting and len(points) < max_branches:
        start, radius = waiting.pop(0)
        length = int(rng.integers(15, 50))
        direction = rng.standard_normal(3)
        course = direction / np.linalg.norm(direction) + 0.25 * rng.standard_normal((length, 3)).cumsum(axis=0)
        line = start + 1.2 * (course / np.linalg.norm(course, axis=1, keepdims=True)).cumsum(axis=0)
        points.append(line)
        radii.append(np.full(length, radius))
        if radius > 1.2:
            forks = rng.random(length) < 0.03
            waiting += [(place, 0.75 * radius) for place in line[forks]]
    return np.concatenate(points), np.concatenate(radii)


def draw_balls(points: Tensor, radii: Tensor, volume: Tensor, count: int, size: int) -> Tensor:
    """Voxels within balls, by a parabola's separable dilation: the cost does not depend on how many there are.

    Args:
        points: (N, 3) int64 voxels.
        radii: (N,) float32, at most :data:`MAX_TUBE_RADIUS`.
        volume: (N,) int64 which of the volumes each lies in.
        count: volumes.
        size: side of a volume.

    Returns:
        (count, size, size, size) bool.
    """
    reach = torch.full((count * size**3,), -1e4, device=points.device)
    flat = ((volume * size + points[:, 0]) * size + points[:, 1]) * size + points[:, 2]
    reach = reach.scatter_reduce(0, flat, radii.square(), "amax").reshape(count, size, size, size)
    for axis in (1, 2, 3):
        best = reach.clone()
        for shift in range(1, min(MAX_TUBE_RADIUS, size - 1) + 1):
            length = size - shift
            left, right = best.narrow(axis, 0, length), best.narrow(axis, shift, length)
            torch.maximum(left, reach.narrow(axis, shift, length) - shift**2, out=left)
            torch.maximum(right, reach.narrow(axis, 0, length) - shift**2, out=right)
        reach = best
    return reach >= 0


def add_tubes(labels: Tensor, randomness: Randomness, numbers: np.ndarray) -> Tensor:
    """Writes branching tubes over label maps (n, size, size, size); ``numbers`` (n,) trees on each, a label a tree."""
    count, size = labels.shape[:2]
    for number in range(int(numbers.max(initial=0))):
        points, radii, rows = [], [], []
        for row in (numbers > number).nonzero()[0]:
            line, thick = draw_tree(randomness.host, size)
            line = np.rint(line).astype(np.int64)
            inside = ((line >= 0) & (line < size)).all(axis=1)
            points.append(line[inside])
            radii.append(thick[inside].astype(np.float32))
            rows.append(np.full(int(inside.sum()), row))
        there = [hand_over(np.concatenate(part), labels.device) for part in (points, radii, rows)]
        labels = torch.where(draw_balls(*there, count, size), FIRST_TUBE + number, labels)
    return labels


def shape_labels(randomness: Randomness, count: int, size: int) -> Tensor:
    """Label maps of blobs with ellipsoids and tubes on them: (count, size, size, size) int64; each has an object."""
    host = randomness.host
    labels = noise_labels(randomness, count, size)
    is_bare = host.random(count) < 0.3
    labels = torch.where(_numbers(is_bare, labels.device), 0, labels)
    has_tubes = host.random(count) < 0.35
    has_ellipsoids = (host.random(count) < 0.7) | is_bare
    labels = add_ellipsoids(labels, randomness, np.where(has_ellipsoids, 5, 0))
    return add_tubes(labels, randomness, np.where(has_tubes, host.integers(1, 4, count), 0))


def split_background(labels: Tensor, randomness: Randomness) -> Tensor:
    """Divides the unlabelled part (value 0) of most maps into a few blobs: painted tissue around the labels."""
    count, size = labels.shape[:2]
    parts = int(randomness.host.integers(2, 6))
    blobs = noise_labels(randomness, count, size) % parts + FIRST_BACKGROUND
    is_split = _numbers(randomness.host.random(count) >= 0.25, labels.device)
    return torch.where((labels == 0) & is_split, blobs, labels)


def paint(labels: Tensor, randomness: Randomness) -> Tensor:
    """Draws images of label maps: random intensity, texture and grain per label.

    Args:
        labels: (n, size, size, size) int64 below :data:`NUM_VALUES`.
        randomness: source.

    Returns:
        (n, size, size, size) float32, about [-1, 1].

    Source: Billot et al., SynthSeg, 2023 (random Gaussian per label).
    """
    count, size = labels.shape[:2]
    host = randomness.host
    means = host.uniform(-1, 1, (count, NUM_VALUES))
    for row in (host.random(count) < 0.3).nonzero()[0]:  # few intensities: neighbours that intensity cannot tell apart
        means[row] = means[row, host.integers(0, int(host.integers(2, 6)), NUM_VALUES)]
    deviations = host.uniform(0, 0.18, (count, NUM_VALUES)) * host.uniform(0, 1, (count, 1))
    tables = hand_over(np.stack([means, deviations]).astype(np.float32), labels.device)
    index = labels.flatten(1)
    texture = smooth_fields(randomness, count, 1, size, int(host.integers(8, 33)))[:, 0]
    mixed = _numbers(host.uniform(0, 1, count), labels.device) * texture
    mixed += _numbers(host.uniform(0, 1, count), labels.device) * randomness.normal(*labels.shape)
    return tables[0].gather(1, index).reshape(labels.shape) + tables[1].gather(1, index).reshape(labels.shape) * mixed
