"""Half-open boxes of voxels: ``low`` belongs to the box, ``high`` does not."""

from __future__ import annotations

import numpy as np

VoxelBox = tuple[np.ndarray, np.ndarray]


def bounding_box(mask: np.ndarray) -> VoxelBox | None:
    """Smallest box that holds a mask.

    Args:
        mask: (I, J, K) bool.

    Returns:
        ``low`` and ``high``, (3,) int; None for an empty mask. Cost: one pass, less where the mask is small.

    Example:
        >>> mask = np.zeros((5, 5, 5), bool)
        >>> mask[1:3, 2, 4] = True
        >>> [end.tolist() for end in bounding_box(mask)]
        [[1, 2, 4], [3, 3, 5]]
    """
    low, high = np.zeros(3, dtype=int), np.array(mask.shape, dtype=int)
    for axis in range(3):
        part = mask[slices(low, high)]
        used = np.flatnonzero(part.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            return None
        low[axis], high[axis] = used[0], used[-1] + 1
    return low, high


def slices(low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
    """The box as an index."""
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def grow(low: np.ndarray, high: np.ndarray, margin_vox: np.ndarray, shape: np.ndarray) -> VoxelBox:
    """The box with a margin on each side, inside an image of ``shape``; (3,) int each."""
    return np.maximum(low - margin_vox, 0).astype(int), np.minimum(high + margin_vox, shape).astype(int)
