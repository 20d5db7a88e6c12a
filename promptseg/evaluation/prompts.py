"""What a simulated user has said about one object so far, in a form that any segmenter can read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .boxes import VoxelBox


@dataclass(frozen=True)
class Stroke:
    """A scribble.

    Attributes:
        voxels: (V, 3) int, along the line.
        label: 1 on the object, 0 beside it.
    """

    voxels: np.ndarray
    label: int


@dataclass(frozen=True)
class ObjectPrompts:
    """All prompts of one object, in voxels of the case's array.

    Attributes:
        points: (N, 3) int, in the order they were made.
        labels: (N,) int, 1 to include, 0 to exclude.
        box: half-open ``(low, high)``, (3,) int each.
        strokes: scribbles, in the order they were made.
        mask: (I, J, K) bool to go on from.
        text: what the object is called.
        is_automatic: whether the name is no prompt, and says which of the objects found without one is meant.
    """

    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=int))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    box: VoxelBox | None = None
    strokes: tuple[Stroke, ...] = ()
    mask: np.ndarray | None = None
    text: str | None = None
    is_automatic: bool = False

    def with_point(self, voxel: tuple[int, int, int], label: int) -> ObjectPrompts:
        """These prompts and one click more."""
        points = np.concatenate([self.points, np.array([voxel], dtype=int)])
        return replace(self, points=points, labels=np.append(self.labels, label))

    def with_stroke(self, stroke: Stroke) -> ObjectPrompts:
        """These prompts and one scribble more."""
        return replace(self, strokes=(*self.strokes, stroke))

    @property
    def kinds(self) -> frozenset[str]:
        """Which kinds there are: ``points``, ``box``, ``scribbles``, ``mask``, ``text``, ``automatic``."""
        present = {
            "points": len(self.points) > 0,
            "box": self.box is not None,
            "scribbles": len(self.strokes) > 0,
            "mask": self.mask is not None,
            "text": self.text is not None and not self.is_automatic,
            "automatic": self.is_automatic,
        }
        return frozenset(kind for kind, is_there in present.items() if is_there)

    def marked_voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """Every voxel that was clicked or drawn on, (M, 3) int, and its label, (M,) int."""
        voxels = [self.points, *(s.voxels for s in self.strokes)]
        labels = [self.labels, *(np.full(len(s.voxels), s.label) for s in self.strokes)]
        return np.concatenate(voxels), np.concatenate(labels)
