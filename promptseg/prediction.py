"""What a prediction holds: the mask on the image's own grid and all that is needed to go on from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .canvas import Canvas
from .volume import Volume


@dataclass(frozen=True)
class LowresLogits:
    """Logits at the zoom level an object was drawn at; pass them back as ``mask=`` to go on from them.

    Attributes:
        canvas: the logits and where they lie.
        signature: of the image they belong to.
    """

    canvas: Canvas
    signature: str

    @property
    def array(self) -> np.ndarray:
        """(n0, n1, n2) float32, canonical orientation; NaN where nothing was drawn."""
        return self.canvas.logits.numpy()


@dataclass(frozen=True)
class Prediction:
    """A segmented object on the grid of the image that was set.

    Attributes:
        volume: the image.
        score: estimated IoU, 0 to 1.
        presence: estimated probability that the object is there at all, 0 to 1.
        scores: estimated IoU of each alternative of an ambiguous prompt, best first.
        changed_box: half-open native voxel box ``(low, high)`` outside which the mask equals the previous one.
        seconds: time the prediction took.
        encoder_calls: tiles it had to encode; 0 when all were cached.
        level_spacing_mm: voxel size the object was drawn at.
        logits_lowres: to feed back as ``mask=``.
    """

    volume: Volume
    score: float
    presence: float
    scores: tuple[float, ...]
    changed_box: tuple[tuple[int, int, int], tuple[int, int, int]]
    seconds: float
    encoder_calls: int
    level_spacing_mm: float
    logits_lowres: LowresLogits
    _low: np.ndarray = field(repr=False)
    _part: np.ndarray = field(repr=False)
    _alternatives: tuple[Canvas, ...] = field(default=(), repr=False)

    @property
    def mask(self) -> np.ndarray:
        """(I, J, K) uint8, 1 in the object, on the grid the image came in. Made anew at each access."""
        canonical = np.zeros(self.volume.canonical_shape, dtype=np.uint8)
        canonical[_slices(self._low, self._low + self._part.shape)] = self._part
        return self.volume.from_canonical_array(canonical)

    @property
    def mask_box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Half-open native box that holds the whole mask."""
        return _native_box(self.volume, self._low, self._low + np.array(self._part.shape))

    @property
    def volume_ml(self) -> float:
        """Volume of the object in millilitres."""
        return float(self._part.sum()) * abs(float(np.linalg.det(self.volume.affine[:3, :3]))) / 1000

    def probability(self, box: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None) -> np.ndarray:
        """Probability of each voxel.

        Args:
            box: half-open native voxel box ``(low, high)``; None for the box of the mask.

        Returns:
            float32 of the box's shape; 0 where nothing was drawn.

        Raises:
            ValueError: for a box that is empty or not inside the image.
        """
        low, high = (np.array(b) for b in (box or self.mask_box))
        if (low >= high).any() or (low < 0).any() or (high > self.volume.shape).any():
            raise ValueError(
                f"box {low.tolist()} to {high.tolist()}: expected a box inside the image, 0 to {self.volume.shape}"
            )
        a, b = self.volume.to_canonical_box(low, high, space="voxel")
        low_vox, high_vox = np.rint(a).astype(int), np.rint(b).astype(int)
        probability = torch.sigmoid(self.logits_lowres.canvas.sample(low_vox, high_vox)).numpy()
        return self.volume.from_canonical_array(probability)

    def alternative(self, number: int) -> np.ndarray:
        """Mask of alternative ``number`` (see ``scores``) of an ambiguous prompt: (I, J, K) uint8."""
        if not 0 <= number < len(self._alternatives):
            raise ValueError(f"alternative {number}: this prediction has {len(self._alternatives)}, numbered from 0")
        low, part = render(self._alternatives[number], np.array(self.volume.canonical_shape))
        canonical = np.zeros(self.volume.canonical_shape, dtype=np.uint8)
        canonical[_slices(low, low + part.shape)] = part
        return self.volume.from_canonical_array(canonical)

    def save(self, path: str | Path) -> Path:
        """Writes the mask as uint8 with the image's own affine.

        Args:
            path: ``.nii``, ``.nii.gz``, or another format that SimpleITK writes.

        Returns:
            The path written; the file appears there only when it is complete.
        """
        from .io import write_volume

        return write_volume(path, self.mask, self.volume.affine, reference=self.volume.source)


def render(
    canvas: Canvas, shape: np.ndarray, box: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The mask of a canvas on canonical voxels.

    Args:
        canvas: logits.
        shape: (3,) of the canonical volume.
        box: half-open box of canonical voxels (float) to draw; None for the mask's own.

    Returns:
        first voxel (3,) int and (n0, n1, n2) uint8; one empty voxel for an empty mask.
    """
    own = canvas.box_vox()
    if own is None and box is None:
        return np.zeros(3, dtype=int), np.zeros((1, 1, 1), dtype=np.uint8)
    low, high = box if box is not None else own  # type: ignore[misc]
    margin = np.ceil(canvas.lattice.step_vox(canvas.level))
    margin = margin if box is None else np.zeros(3)
    low_vox = np.clip(np.floor(low - margin), 0, shape - 1).astype(int)
    high_vox = np.clip(np.ceil(high + margin), low_vox + 1, shape).astype(int)
    return low_vox, (canvas.sample(low_vox, high_vox) > 0).numpy().astype(np.uint8)


def _slices(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _native_box(
    volume: Volume, low_vox: np.ndarray, high_vox: np.ndarray
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    low, high = volume.from_canonical_box(low_vox, high_vox)
    return tuple(int(v) for v in low), tuple(int(v) for v in high)  # type: ignore[return-value]
