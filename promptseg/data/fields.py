"""Smooth random fields, and resampling along one axis by a table for each volume: batched torch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .randomness import Randomness, hand_over


def smooth_fields(randomness: Randomness, count: int, channels: int, size: int, cells: int) -> Tensor:
    """Trilinear random fields: (count, channels, size, size, size), standard normal at ``cells``^3 control points."""
    control = randomness.normal(count, channels, cells, cells, cells)
    return F.interpolate(control, size=(size,) * 3, mode="trilinear", align_corners=True)


def take_along(volumes: Tensor, index: Tensor, axis: int) -> Tensor:
    """Slices of each volume by its own list: (n, D, H, W), (n, L) and an axis 0 to 2 -> L slices along that axis."""
    shape = [len(index), 1, 1, 1]
    shape[axis + 1] = index.shape[1]
    sides = [-1, *volumes.shape[1:]]
    sides[axis + 1] = -1
    return volumes.gather(axis + 1, index.reshape(shape).expand(sides))


def along(values: Tensor, axis: int) -> Tensor:
    """(n, L) as a factor of volumes (n, D, H, W) whose axis 0 to 2 has length L."""
    shape = [len(values), 1, 1, 1]
    shape[axis + 1] = values.shape[1]
    return values.reshape(shape)


def blur(volumes: Tensor, sigma_vox: Tensor) -> Tensor:
    """Separable Gaussian blur, replicating the border.

    Args:
        volumes: (n, D, H, W) float32.
        sigma_vox: (n, 3) standard deviation along each axis on the CPU; below 0.2 nothing happens.

    Returns:
        (n, D, H, W). Summed by slices, as many as the widest kernel has.
    """
    for axis in range(3):
        sigma = sigma_vox[:, axis]
        radius = int(torch.ceil(2.5 * sigma.max()))
        if float(sigma.max()) < 0.2:
            continue
        x = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (x / sigma[:, None].clamp(min=1e-3)) ** 2)
        kernel = torch.where(sigma[:, None] < 0.2, (x == 0).float(), kernel)
        kernel = hand_over(kernel / kernel.sum(dim=1, keepdim=True), volumes.device)
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        padded = F.pad(volumes[:, None], padding, mode="replicate")[:, 0]
        size = volumes.shape[axis + 1]
        total = torch.zeros_like(volumes)
        for place in range(2 * radius + 1):
            total.addcmul_(padded.narrow(axis + 1, place, size), kernel[:, place, None, None, None])
        volumes = total
    return volumes


def coarsen(volumes: Tensor, axis: int, factor: Tensor, is_linear: Tensor) -> Tensor:
    """Averages over blocks along one axis and draws the blocks on the old grid, as thick slices are.

    Args:
        volumes: (n, D, H, W) float32.
        axis: 0 to 2.
        factor: (n,) voxels in a block, more than 1; need not be whole.
        is_linear: (n,) bool: interpolate between blocks; else repeat them.

    Returns:
        (n, D, H, W).
    """
    size = volumes.shape[axis + 1]
    voxel = torch.arange(size, device=volumes.device)
    block = (voxel / factor[:, None]).long()  # (n, L), the block each voxel lies in
    first = torch.searchsorted(block, torch.arange(size + 1, device=volumes.device).repeat(len(block), 1))
    start, end = first[:, :-1], first[:, 1:]  # voxels of block 0, 1, ...; beyond the last both are the length
    total = F.pad(volumes.movedim(axis + 1, -1).cumsum(-1), (1, 0)).movedim(-1, axis + 1)
    sums = take_along(total, end, axis) - take_along(total, start, axis)
    means = sums / along((end - start).clamp(min=1).float(), axis)
    centre = (start + end - 1) / 2
    last = block[:, -1:]
    own = centre.gather(1, block)
    step = torch.where(voxel >= own, 1, -1)
    other = torch.minimum((block + step).clamp(min=0), last)
    distance = (centre.gather(1, other) - own).abs().clamp(min=1e-6)
    weight = ((voxel - own).abs() / distance).clamp(max=1.0) * (other != block) * is_linear[:, None]
    weight = along(weight, axis)
    return take_along(means, block, axis) * (1 - weight) + take_along(means, other, axis) * weight
