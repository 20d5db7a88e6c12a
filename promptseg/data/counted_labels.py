"""How many voxels of a crop each label has, counted once for all who ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MANY_VALUES = 100_000
"""Labels of this value or more are sorted to be counted."""


@dataclass(frozen=True)
class CountedLabels:
    """The labels of a crop, with how many voxels each value has.

    Attributes:
        values: (V,) ascending.
        voxels: (V,) of each value.
        numbers: (D, H, W) index into ``values`` of each voxel.
    """

    values: np.ndarray
    voxels: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> CountedLabels:
        """Counts labels of any shape; without sorting them where all values are small."""
        if labels.size and labels.min() >= 0 and labels.max() < MANY_VALUES:
            indices = labels.astype(np.intp)
            voxels = np.bincount(indices.reshape(-1))
            values = np.flatnonzero(voxels)
            table = np.zeros(len(voxels), dtype=np.intp)
            table[values] = np.arange(len(values))
            return cls(values, voxels[values], table[indices])
        values, numbers, voxels = np.unique(labels, return_inverse=True, return_counts=True)
        return cls(values, voxels, numbers.reshape(labels.shape))

    def mask(self, values: Sequence[int]) -> np.ndarray:
        """Voxels that have one of some values: (D, H, W) bool."""
        return np.isin(self.values, values)[self.numbers]

    def in_cells(self, size: int) -> np.ndarray:
        """Voxels of each value in cells of ``size`` voxels along each axis: (D / size, H / size, W / size, V)."""
        grid = tuple(n // size for n in self.numbers.shape)
        cells = np.arange(np.prod(grid)).reshape(grid) * len(self.values)
        for axis in range(3):
            cells = cells.repeat(size, axis)
        cells += self.numbers[tuple(slice(side) for side in cells.shape)]
        return np.bincount(cells.reshape(-1), minlength=int(np.prod(grid)) * len(self.values)).reshape(*grid, -1)
