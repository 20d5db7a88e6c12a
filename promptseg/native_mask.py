"""The mask of an object on the image's canonical voxels: what a canvas's logits become, with every click respected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import Box, box_slices, filled_box, intersect_box, union_box
from .canvas import Canvas
from .prompts import PromptSet

SLAB_VOXELS = 2**22
"""Voxels whose logits are interpolated at once, so that only the mask itself, in bytes, is as large as the object."""


@dataclass(frozen=True, eq=False)
class NativeMask:
    """A mask in the box that holds all of it; empty masks have no voxels.

    Attributes:
        low: (3,) int, canonical voxel of the first voxel.
        part: (n0, n1, n2) uint8.
    """

    low: np.ndarray
    part: np.ndarray

    @classmethod
    def empty(cls) -> NativeMask:
        """The mask of nothing."""
        return cls(np.zeros(3, dtype=int), np.zeros((0, 0, 0), dtype=np.uint8))

    @classmethod
    def of_canvas(cls, canvas: Canvas, shape: np.ndarray, region: Box | None = None) -> NativeMask:
        """Where a canvas's logits, interpolated, are positive.

        Args:
            canvas: logits.
            shape: (3,) of the canonical volume.
            region: half-open box of whole canonical voxels to which to keep; None for everywhere.
        """
        own = canvas.box_vox()
        if own is None:
            return cls.empty()
        margin = canvas.lattice.step_vox(canvas.level)  # interpolation reaches to the next level voxel
        box = (np.floor(own[0] - margin).astype(int), np.ceil(own[1] + margin).astype(int))
        inside = intersect_box(box, region if region is not None else (np.zeros(3, dtype=int), shape))
        inside = intersect_box(inside, (np.zeros(3, dtype=int), shape)) if inside is not None else None
        if inside is None:
            return cls.empty()
        low, high = inside
        part = np.empty(high - low, dtype=np.uint8)
        thickness = max(1, SLAB_VOXELS // int(np.prod(part.shape[1:])))
        for first in range(0, part.shape[0], thickness):
            slab_low = low + (first, 0, 0)
            slab_high = np.array([min(slab_low[0] + thickness, high[0]), high[1], high[2]])
            part[first : first + thickness] = (canvas.sample(slab_low, slab_high) > 0).numpy()
        return cls(low, part)

    @classmethod
    def of_prompt(cls, prompts: PromptSet) -> NativeMask:
        """The user's own mask, of prompts that have one."""
        if prompts.mask is None or prompts.mask_box is None:
            return cls.empty()
        low, high = (np.asarray(end, dtype=int) for end in prompts.mask_box)
        part = prompts.mask[box_slices(low - prompts.mask_low, high - prompts.mask_low)]
        return cls(low, (part > 0).astype(np.uint8)).trimmed()

    @property
    def box(self) -> Box:
        """Half-open box of ``part``."""
        return self.low, self.low + np.array(self.part.shape)

    @property
    def is_empty(self) -> bool:
        """Whether no voxel is in it."""
        return not self.part.any()

    def cut(self, box: Box) -> np.ndarray:
        """The mask in a box of whole canonical voxels, as an array of its own."""
        out = np.zeros(box[1] - box[0], dtype=np.uint8)
        shared = intersect_box(self.box, box)
        if shared is not None:
            low, high = shared
            out[box_slices(low - box[0], high - box[0])] = self.part[box_slices(low - self.low, high - self.low)]
        return out

    def replaced(self, region: Box, new: NativeMask) -> NativeMask:
        """This mask outside a region, and ``new``, which keeps to it, inside."""
        boxes = [m.box for m in (self, new) if m.part.size]
        if not boxes:
            return NativeMask.empty()
        box = union_box(boxes[0], boxes[-1])
        part = self.cut(box)
        cleared = intersect_box(box, region)
        if cleared is not None:
            part[box_slices(cleared[0] - box[0], cleared[1] - box[0])] = 0
        if new.part.size:
            part[box_slices(new.low - box[0], new.box[1] - box[0])] = new.part
        return NativeMask(box[0], part).trimmed()

    def changed_as(self, before: NativeMask, after: NativeMask) -> NativeMask:
        """This mask, but where two others differ: there it is as the second."""
        difference = before.difference_box(after)
        if difference is None:
            return self
        part = self.cut(difference)
        new = after.cut(difference)
        is_changed = before.cut(difference) != new
        part[is_changed] = new[is_changed]
        return self.replaced(difference, NativeMask(difference[0], part))

    def trimmed(self) -> NativeMask:
        """The same mask in the smallest box."""
        filled = filled_box(self.part.view(bool)) if self.part.size else None
        if filled is None:
            return NativeMask.empty()
        return NativeMask(self.low + filled[0], self.part[box_slices(*filled)])

    def with_clicks(self, points_vox: np.ndarray, labels: np.ndarray, shape: np.ndarray) -> NativeMask:
        """The mask in which the voxel of every click is as its label says.

        Args:
            points_vox: (N, 3) canonical voxels.
            labels: (N,) 1 or 0.
            shape: (3,) of the canonical volume.
        """
        voxels = np.clip(np.rint(points_vox), 0, shape - 1).astype(int)
        wrong = [n for n, voxel in enumerate(voxels) if self.value(voxel) != labels[n]]
        if not wrong:
            return self
        included = voxels[[n for n in wrong if labels[n] == 1]]
        box = self.box if self.part.size else None
        if len(included):
            added = (included.min(axis=0), included.max(axis=0) + 1)
            box = added if box is None else union_box(box, added)
        assert box is not None  # an empty mask is wrong at no excluded voxel
        part = self.cut(box)
        for n in wrong:
            part[tuple(voxels[n] - box[0])] = labels[n]
        return NativeMask(box[0], part).trimmed()

    def value(self, voxel: np.ndarray) -> int:
        """0 or 1 at a canonical voxel."""
        local = voxel - self.low
        is_inside = bool((local >= 0).all() and (local < self.part.shape).all())
        return int(self.part[tuple(local)]) if is_inside else 0

    def difference_box(self, other: NativeMask, region: Box | None = None) -> Box | None:
        """The smallest box around where two masks differ, in a region of whole voxels; None where they do not."""
        boxes = [m.box for m in (self, other) if m.part.size]
        if not boxes:
            return None
        box = union_box(boxes[0], boxes[-1])
        box = intersect_box(box, region) if region is not None else box
        if box is None:
            return None
        found = filled_box(self.cut(box) != other.cut(box))
        return None if found is None else (box[0] + found[0], box[0] + found[1])
