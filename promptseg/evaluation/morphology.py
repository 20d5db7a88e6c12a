"""Morphology of masks as the classical baselines need it: scipy's, with one return type."""

from __future__ import annotations

import numpy as np


def distance_mm(places: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Distance of each voxel to the nearest of some places.

    Args:
        places: (I, J, K) bool, not empty.
        spacing_mm: (3,) voxel sides.

    Returns:
        (I, J, K) float64; 0 at the places.
    """
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~places, sampling=spacing_mm))


def dilated(mask: np.ndarray, iterations: int = 1, shape: np.ndarray | None = None) -> np.ndarray:
    """A mask grown by a structuring element, the six neighbours if none is given; (I, J, K) bool."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, shape, iterations), dtype=bool)


def eroded(mask: np.ndarray, iterations: int) -> np.ndarray:
    """A mask without what is within so many steps of its outside; (I, J, K) bool."""
    from scipy.ndimage import binary_erosion

    return np.asarray(binary_erosion(mask, iterations=iterations), dtype=bool)


def closed(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask with gaps of up to twice ``radius`` voxels filled, at the array's border too; (I, J, K) bool."""
    from scipy.ndimage import binary_closing

    inner = slice(radius, -radius)
    return np.asarray(binary_closing(np.pad(mask, radius), ball(radius)))[inner, inner, inner] | mask


def ball(radius: int) -> np.ndarray:
    """A ball of voxels, (2 radius + 1,) * 3 bool.

    Example:
        >>> int(ball(1).sum()), int(ball(0).sum())
        (7, 1)
    """
    grid = np.indices((2 * radius + 1,) * 3) - radius
    return (grid**2).sum(axis=0) <= radius**2 + 0.5
