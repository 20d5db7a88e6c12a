"""Separable resampling between a volume's voxels and a tile's, both aligned with the volume's axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .preprocessing import OUTSIDE


def axis_weights(positions: np.ndarray, num_inputs: int, support: float) -> tuple[np.ndarray, int]:
    """Triangle-filter weights along one axis.

    Args:
        positions: (M,) where to sample, in input voxels.
        num_inputs: voxels along the axis.
        support: half-width of the filter in input voxels; 1 is linear interpolation, more averages (anti-aliasing).

    Returns:
        weights (M, n) float32 over inputs ``first`` to ``first + n``, and ``first``. Rows sum to 1 inside the volume
        and to less where the filter reaches outside.
    """
    first = int(np.clip(np.floor(positions.min() - support), 0, num_inputs - 1))
    last = int(np.clip(np.ceil(positions.max() + support) + 1, first + 1, num_inputs))
    distance = np.abs(np.arange(first, last)[None, :] - positions[:, None])
    weights = np.maximum(0.0, 1.0 - distance / support)
    full = support if support > 1 else 1.0  # sum of the triangle's samples
    if support > 1:
        reach = int(np.ceil(support)) + 1
        offsets = np.arange(-reach, reach + 1)[None, :] - (positions - np.round(positions))[:, None]
        full = np.maximum(0.0, 1.0 - np.abs(offsets) / support).sum(axis=1, keepdims=True)
    return (weights / full).astype(np.float32), first


def apply_weights(values: Tensor, weights: list[Tensor]) -> Tensor:
    """Applies one (M_a, n_a) matrix along each axis of (n_0, n_1, n_2): (M_0, M_1, M_2)."""
    n0, n1, n2 = values.shape
    out = (weights[0] @ values.reshape(n0, n1 * n2)).reshape(-1, n1, n2)
    out = torch.matmul(weights[1], out)
    return torch.matmul(out, weights[2].T)


def sample_tile(
    array: np.ndarray,
    start_vox: np.ndarray,
    step_vox: np.ndarray,
    size: int,
    convert: Callable[[np.ndarray], Tensor],
    outside: float = OUTSIDE,
) -> Tensor:
    """Interpolates a cubic tile from an array, on demand.

    Args:
        array: (I, J, K) canonical view of the native array; only the tile's part is read.
        start_vox: (3,) position of the tile's voxel 0, in canonical voxels.
        step_vox: (3,) distance of the tile's voxels, in canonical voxels.
        size: side of the tile in voxels.
        convert: native values to float32, such as an image's intensity mapping.
        outside: value beyond the array.

    Returns:
        (size, size, size) float32. Cost is bounded for any step: where the step is four or more, voxels are skipped
        first and the rest averaged.
    """
    slices, weights = [], []
    for axis in range(3):
        skip = max(1, int(step_vox[axis] // 2))
        positions = (start_vox[axis] + step_vox[axis] * np.arange(size)) / skip
        num_inputs = -(-array.shape[axis] // skip)
        matrix, first = axis_weights(positions, num_inputs, max(1.0, step_vox[axis] / skip))
        weights.append(torch.from_numpy(matrix))
        slices.append(slice(first * skip, (first + matrix.shape[1] - 1) * skip + 1, skip))
    part = convert(np.ascontiguousarray(array[tuple(slices)]))
    return apply_weights(part.sub_(outside), weights).add_(outside)


def sample_grid(values: Tensor, start: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> Tensor:
    """Linear interpolation of a grid at the voxels of a box of another grid; clamped at the first grid's ends.

    Args:
        values: (n_0, n_1, n_2) float32 on the source grid.
        start: (3,) position of source voxel 0, in target voxels.
        step: (3,) distance of source voxels, in target voxels.
        low: (3,) first target voxel.
        high: (3,) one past the last.

    Returns:
        (high - low) float32. Cost linear in the box.
    """
    parts, weights = [], []
    for axis in range(3):
        positions = (np.arange(int(low[axis]), int(high[axis])) - start[axis]) / step[axis]
        positions = np.clip(positions, 0, values.shape[axis] - 1)
        matrix, first = axis_weights(positions, values.shape[axis], 1.0)
        weights.append(torch.from_numpy(matrix))
        parts.append(slice(first, first + matrix.shape[1]))
    return apply_weights(values[tuple(parts)].float(), weights)
