"""How the label map of a case becomes the sampler's: which values are objects, which tissue, and which nobody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .crops import IGNORED, TISSUE

MIN_VOXELS = 8
"""Smaller labels of a case are not drawn as objects."""
MAX_LABEL_VOXELS = 1.2e7
"""A label map without an image is thinned until it has no more voxels than this."""
MARGIN = 16
"""Voxels that such a map keeps around its labels."""


def wild_values(
    values: Sequence[int], names: Mapping[int, str], ignore: Sequence[int], unnamed_are_objects: bool
) -> tuple[int, ...]:
    """Label values of a case that are no object: the ignored ones, and tissue that is only there to be painted."""
    return tuple(v for v in values if v in ignore or not (unnamed_are_objects or v in names))


def object_rows(rows: np.ndarray, wild: Sequence[int]) -> np.ndarray:
    """Those of the rows (L, 10) of a case's labels, see LABEL_COLUMNS, that are objects to draw."""
    return rows[(rows[:, 1] >= MIN_VOXELS) & ~np.isin(rows[:, 0], list(wild))]


@dataclass(frozen=True)
class LabelPlan:
    """How a case's label map becomes the sampler's.

    Attributes:
        rows: (L, 10) its objects, see LABEL_COLUMNS; values as in the case.
        low: first voxel of the case that the sampler's map has.
        step: voxels of the case from one voxel of the sampler's map to the next.
        shape: of the sampler's map.
        renumbering: (value in the case, value for the sampler) pairs; others stay.
    """

    rows: np.ndarray
    low: tuple[int, ...]
    step: tuple[int, ...]
    shape: tuple[int, ...]
    renumbering: tuple[tuple[int, int], ...]

    @classmethod
    def make(
        cls,
        rows: np.ndarray,
        shape: Sequence[int],
        spacing_mm: np.ndarray,
        has_image: bool,
        wild: Sequence[int],
        ignore: Sequence[int] = (),
    ) -> LabelPlan:
        """Plans it: all of a map beside an image; of a map alone the part with labels, thinned while it is very large.

        Args:
            rows: (L, 10) of all values.
            shape: of the case.
            spacing_mm: (3,) of the case.
            has_image: whether it has one.
            wild: values that are no object.
            ignore: those of them of which nobody says what they are.
        """
        low, high, step = np.zeros(3, int), np.array(shape), np.ones(3, int)
        if not has_image and len(rows):
            low = np.maximum(rows[:, 2:5].min(0) - MARGIN, 0)
            high = np.minimum(rows[:, 5:8].max(0) + MARGIN, high)
            while np.prod(-(-(high - low) // step)) > MAX_LABEL_VOXELS:
                spacing = spacing_mm * step
                step = step * np.where(spacing <= 1.5 * spacing.min(), 2, 1)
        values = rows[:, 0].tolist()
        taken = set(values)
        unused = (value for value in range(1, TISSUE) if value not in taken)
        spare = IGNORED - TISSUE - 1  # values beyond these share a number: to be painted alike
        renumbering = [(v, (IGNORED if v in ignore else TISSUE) + min(n, spare)) for n, v in enumerate(wild)]
        beyond = [v for v in values if v not in wild and not 0 < v < TISSUE]
        renumbering += [(v, next(unused, TISSUE + spare)) for v in beyond]
        rows = object_rows(rows, [v for v, new in renumbering if new >= TISSUE])
        return cls(
            rows=rows,
            low=tuple(low.tolist()),
            step=tuple(step.tolist()),
            shape=tuple((-(-(high - low) // step)).tolist()),
            renumbering=tuple(renumbering),
        )

    def objects(self, foreground: np.ndarray) -> dict[int, np.ndarray]:
        """Sampled voxels of each object in the sampler's map, by the sampler's values.

        Args:
            foreground: (V, 3) sampled voxels of the case, in the order of its rows.
        """
        voxels = ((foreground - np.array(self.low)) // np.array(self.step)).astype(np.int16)
        return {value: voxels[row[8] : row[9]] for value, row in zip(self.values, self.rows.tolist(), strict=True)}

    def boxes_mm(self, spacing_mm: np.ndarray) -> dict[int, np.ndarray]:
        """Ends (2, 3) of the box of each object, by the sampler's values, in mm from the case's first voxel.

        Args:
            spacing_mm: (3,) of the case.
        """
        ends = self.rows[:, 2:8].reshape(-1, 2, 3) * spacing_mm
        return dict(zip(self.values, ends, strict=True))

    @property
    def values(self) -> tuple[int, ...]:
        """The sampler's values of the objects, in the order of their rows."""
        new_values = dict(self.renumbering)
        values: list[int] = self.rows[:, 0].tolist()
        return tuple(new_values.get(value, value) for value in values)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The voxels of the case that the sampler's map has."""
        return tuple(slice(a, a + n * s, s) for a, n, s in zip(self.low, self.shape, self.step, strict=True))
