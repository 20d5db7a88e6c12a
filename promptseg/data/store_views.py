"""Arrays of a store that look like numpy arrays to the sampler, and read only what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..preprocessing import IntensityMapping
from .store_reader import StoreCase


@dataclass(frozen=True)
class CaseArray:
    """An array of a case, looked up in the source where it is read: it holds no open file and can be pickled.

    Attributes:
        case: of a store.
        name: ``image``, ``label`` or a coarser ``level1``.
    """

    case: StoreCase
    name: str

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """The stored values of a box within the array."""
        start = [side.start for side in box]
        return self.case.read_array(self.name, start, [side.stop - side.start for side in box])


@dataclass(frozen=True)
class StoredImage:
    """A preprocessed image that is read where it is sliced.

    Attributes:
        array: intensities.
        shape: voxels along each axis.
        mapping: from the stored intensities to the model's; None for an array that holds the model's.
    """

    array: CaseArray
    shape: tuple[int, ...]
    mapping: IntensityMapping | None = None

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """Preprocessed intensities of a box within the image, float16."""
        sides = [side.indices(n) for side, n in zip(box, self.shape, strict=True)]
        part = self.array[tuple(slice(start, stop) for start, stop, _ in sides)]
        return part if self.mapping is None else self.mapping.map_array(part).numpy().astype(np.float16)


@dataclass(frozen=True)
class StoredLabels:
    """A label map of which the box around the wanted voxels is read.

    Attributes:
        array: values as stored.
        low: first stored voxel of this map.
        step: stored voxels from one voxel of this map to the next.
        shape: voxels along each axis.
        renumbering: pairs of a stored value and the value here; others stay.
    """

    array: CaseArray
    low: tuple[int, ...]
    step: tuple[int, ...]
    shape: tuple[int, ...]
    renumbering: tuple[tuple[int, int], ...] = ()

    def __getitem__(self, voxels: tuple[Any, ...]) -> np.ndarray:
        """Values, of three slices or of three arrays of voxels that broadcast, as numpy would."""
        if all(isinstance(axis, slice) for axis in voxels):
            return self[np.ix_(*(np.arange(n)[axis] for n, axis in zip(self.shape, voxels, strict=True)))]
        stored = [np.asarray(v) * s + a for v, s, a in zip(voxels, self.step, self.low, strict=True)]
        first = [int(axis.min()) for axis in stored]
        part = self.array[tuple(slice(a, int(axis.max()) + 1) for a, axis in zip(first, stored, strict=True))]
        return renumber(part[tuple(axis - a for a, axis in zip(first, stored, strict=True))], self.renumbering)


def renumber(labels: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Replaces label values, all at once.

    Args:
        labels: whole numbers, any shape.
        pairs: (value, new value); a value that is not among them stays.

    Example:
        >>> renumber(np.array([0, 1, 2, 255], dtype=np.uint8), [(255, 1000), (2, 1)]).tolist()
        [0, 1, 1, 1000]
    """
    if not pairs:
        return labels
    changed = labels.astype(np.int32)
    for value, new in pairs:
        changed[labels == value] = new
    return changed
