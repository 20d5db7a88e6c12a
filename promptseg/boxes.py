"""Half-open boxes of voxels: ``low`` is the first voxel, ``high`` the one after the last."""

from __future__ import annotations

import numpy as np

Box = tuple[np.ndarray, np.ndarray]
"""(3,) low and (3,) high."""


def box_slices(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    """Indices of a box of whole voxels in an array that starts at voxel 0."""
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def union_box(first: Box, second: Box) -> Box:
    """The smallest box around two."""
    return np.minimum(first[0], second[0]), np.maximum(first[1], second[1])


def intersect_box(first: Box, second: Box) -> Box | None:
    """What two boxes share; None for nothing."""
    low, high = np.maximum(first[0], second[0]), np.minimum(first[1], second[1])
    return (low, high) if (low < high).all() else None


def contains_box(outer: Box, inner: Box) -> bool:
    """Whether a box lies in another, sides included."""
    return bool((inner[0] >= outer[0]).all() and (inner[1] <= outer[1]).all())


def filled_box(filled: np.ndarray) -> Box | None:
    """The smallest box around what is not 0 in (n0, n1, n2); None if all is.

    The array is cut to what it holds along one axis before the next is looked at, from the one that memory runs
    slowest over, so that a small object in a large image costs one pass.

    Example:
        >>> array = np.zeros((9, 9, 9), dtype=bool)
        >>> array[2:4, 5, 6] = True
        >>> low, high = filled_box(array)
        >>> low.tolist(), high.tolist()
        ([2, 5, 6], [4, 6, 7])
    """
    low, high = np.zeros(3, dtype=int), np.array(filled.shape)
    for axis in np.argsort(np.abs(filled.strides))[::-1]:
        part = filled[box_slices(low, high)]
        places = np.flatnonzero(part.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(places):
            return None
        low[axis], high[axis] = low[axis] + places[0], low[axis] + places[-1] + 1
    return low, high
