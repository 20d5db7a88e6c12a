"""The interface that anything to be measured implements, and three segmenters whose scores are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from .prompts import ObjectPrompts

ALL_PROMPTS = frozenset({"points", "box", "scribbles", "mask", "text", "automatic"})


@dataclass(frozen=True)
class SegmenterImage:
    """An image as a segmenter gets it.

    Attributes:
        array: (I, J, K) of the file's intensities, axes closest to RAS.
        affine: (4, 4) float64, voxel -> RAS millimetres.
        modality: such as ``CT``; empty if it is not known.
    """

    array: np.ndarray
    affine: np.ndarray
    modality: str = ""

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64 sides of a voxel."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True)
class SegmenterAnswer:
    """What a segmenter says.

    Attributes:
        mask: (I, J, K) bool, or of any number type with 0 outside the object.
        score: its own estimate of the IoU, 0 to 1; None if it makes none.
        encoder_calls: passes of its image encoder for this answer; None if it has none.
        presence: its own estimate of the probability that the object is in the image at all; None if it makes none.
        is_looked_up: it was computed together with an earlier answer, whose time is that of both.
    """

    mask: np.ndarray
    score: float | None = None
    encoder_calls: int | None = None
    presence: float | None = None
    is_looked_up: bool = False


@runtime_checkable
class InteractiveSegmenter(Protocol):
    """Anything that can be put in the table.

    The benchmark calls ``set_image`` once a case, ``start_object`` before each object, and then ``predict`` after every
    new prompt, with all prompts of that object so far.

    Example:
        >>> class Threshold:
        ...     accepts = frozenset({"points"})
        ...     def set_image(self, image): self.array = image.array
        ...     def start_object(self): pass
        ...     def predict(self, prompts):
        ...         return SegmenterAnswer(self.array > self.array[tuple(prompts.points[0])] * 0.9)
        >>> isinstance(Threshold(), InteractiveSegmenter)
        True
    """

    accepts: frozenset[str]
    """Kinds of prompts it understands: of ``points``, ``box``, ``scribbles``, ``mask``, ``text``, ``automatic``."""

    def set_image(self, image: SegmenterImage) -> None:
        """Takes the image of the prompts that follow."""
        ...

    def start_object(self) -> None:
        """Forgets the object before."""
        ...

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """Segments the object.

        Args:
            prompts: all of them, in the order they were made.
        """
        ...


@runtime_checkable
class SeesTruth(Protocol):
    """A segmenter for tests that is told the ground truth before each object."""

    def set_truth(self, mask: np.ndarray) -> None:
        """Takes the ground truth, (I, J, K) bool."""
        ...


class OracleSegmenter:
    """Answers with the ground truth: scores 1 after one prompt."""

    accepts = ALL_PROMPTS

    def set_image(self, image: SegmenterImage) -> None:
        """Needs none."""

    def start_object(self) -> None:
        """Nothing to forget."""

    def set_truth(self, mask: np.ndarray) -> None:
        """Takes the answer."""
        self._truth = mask

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """The ground truth, with a score of 1."""
        return SegmenterAnswer(self._truth, score=1.0, encoder_calls=0, presence=float(self._truth.any()))


class EmptySegmenter:
    """Answers with an empty mask: scores 0."""

    accepts = ALL_PROMPTS

    def set_image(self, image: SegmenterImage) -> None:
        """Takes the shape."""
        self._shape = image.array.shape

    def start_object(self) -> None:
        """Nothing to forget."""

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """No voxel, with a score of 0."""
        return SegmenterAnswer(np.zeros(self._shape, dtype=bool), score=0.0, encoder_calls=0)


class ClickedVoxelsSegmenter:
    """Answers with the voxels that were clicked, and a given mask if there is one: the least that respects clicks."""

    accepts = ALL_PROMPTS

    def set_image(self, image: SegmenterImage) -> None:
        """Takes the shape."""
        self._shape = image.array.shape

    def start_object(self) -> None:
        """Nothing to forget."""

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """The given mask with every marked voxel set as it was marked."""
        mask = np.zeros(self._shape, dtype=bool) if prompts.mask is None else prompts.mask.copy()
        voxels, labels = prompts.marked_voxels()
        mask[tuple(voxels.T)] = labels.astype(bool)
        return SegmenterAnswer(mask)
