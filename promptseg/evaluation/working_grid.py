"""The window around the prompts that the classical baselines work in, which bounds their time on any image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import bounding_box, grow, slices
from .prompts import ObjectPrompts
from .segmenters import SegmenterImage


@dataclass(frozen=True)
class WorkingGrid:
    """A crop of an image, coarsened by whole factors.

    Attributes:
        low: (3,) first voxel of the crop in the image.
        high: (3,) one past its last.
        factors: (3,) voxels of the image per voxel of the grid.
        image: (n0, n1, n2) float32, mean intensities.
        spacing_mm: (3,) sides of the grid's voxels.
    """

    low: np.ndarray
    high: np.ndarray
    factors: np.ndarray
    image: np.ndarray
    spacing_mm: np.ndarray

    @classmethod
    def around(cls, image: SegmenterImage, prompts: ObjectPrompts, margin_mm: float, max_voxels: int) -> WorkingGrid:
        """Cuts out what lies around the prompts.

        Args:
            image: where from.
            prompts: the window holds all of them, or the box alone with a tenth of it on each side.
            margin_mm: around them, without a box.
            max_voxels: of the grid; the finest axes are coarsened first until it has at most so many.
        """
        shape, spacing = np.array(image.array.shape), image.spacing_mm
        voxels, _ = prompts.marked_voxels()
        extent = None if prompts.mask is None else bounding_box(prompts.mask)
        boxes = [(v, v + 1) for v in voxels] + ([extent] if extent is not None else [])
        if prompts.box is not None:
            length = prompts.box[1] - prompts.box[0]
            boxes.append((prompts.box[0] - length // 10 - 1, prompts.box[1] + length // 10 + 1))
        low = np.min([b[0] for b in boxes], axis=0)
        high = np.max([b[1] for b in boxes], axis=0)
        margin = 0.0 if prompts.box is not None else margin_mm
        low, high = grow(low, high, np.ceil(margin / spacing).astype(int), shape)
        factors = np.ones(3, dtype=int)
        while np.prod(np.ceil((high - low) / factors)) > max_voxels:
            factors[int(np.argmin(factors * spacing))] += 1
        return cls(low, high, factors, _block_mean(image.array[slices(low, high)], factors), spacing * factors)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the grid."""
        return self.image.shape  # pyright: ignore[reportReturnType]

    def to_grid(self, voxels: np.ndarray) -> np.ndarray:
        """(M, 3) voxels of the image -> (M, 3) voxels of the grid."""
        return np.clip((voxels - self.low) // self.factors, 0, np.array(self.shape) - 1)

    def mask_to_grid(self, mask: np.ndarray) -> np.ndarray:
        """(I, J, K) bool of the image -> share of each of the grid's voxels inside, (n0, n1, n2) float32."""
        return _block_mean(mask[slices(self.low, self.high)], self.factors)

    def box_on_grid(self, box: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Half-open box of the image -> that of the grid which holds it."""
        low = self.to_grid(box[0])
        return low, np.maximum(self.to_grid(box[1] - 1) + 1, low + 1)

    def to_image(self, values: np.ndarray, shape: tuple[int, ...], threshold: float = 0.5) -> np.ndarray:
        """Thresholds values of the grid, interpolated linearly, on the image's voxels.

        Args:
            values: (n0, n1, n2) of the grid.
            shape: of the image.
            threshold: voxels above it are inside.

        Returns:
            (I, J, K) bool.
        """
        fine = values.astype(np.float32)
        for axis in range(3):
            fine = _interpolate(fine, axis, int(self.factors[axis]), int(self.high[axis] - self.low[axis]))
        whole = np.zeros(shape, dtype=bool)
        whole[slices(self.low, self.high)] = fine > threshold
        return whole


def _block_mean(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Means of blocks; blocks at the far ends may be smaller."""
    out = array.astype(np.float32)
    for axis, factor in enumerate(factors):
        if factor > 1:
            starts = np.arange(0, out.shape[axis], factor)
            sizes = np.diff(np.append(starts, out.shape[axis]))
            out = np.add.reduceat(out, starts, axis=axis) / sizes.reshape([-1 if a == axis else 1 for a in range(3)])
    return out


def _interpolate(values: np.ndarray, axis: int, factor: int, length: int) -> np.ndarray:
    """Linear interpolation along one axis from centres of blocks to voxels."""
    if factor == 1:
        return values
    places = np.clip((np.arange(length) + 0.5) / factor - 0.5, 0, values.shape[axis] - 1)
    before = np.floor(places).astype(int)
    after = np.minimum(before + 1, values.shape[axis] - 1)
    weight = (places - before).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    return values.take(before, axis=axis) * (1 - weight) + values.take(after, axis=axis) * weight
