"""What a prediction holds: the mask on the image's own grid and all that is needed to go on from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .boxes import box_slices
from .canvas import Canvas
from .native_mask import NativeMask
from .quality import calibrated_score
from .volume import Volume

if TYPE_CHECKING:
    from .object_state import ObjectState

VoxelBox = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class LowresLogits:
    """Logits at the zoom level an object was drawn at; pass them back as ``mask=`` to go on from them.

    Attributes:
        state: the object they are of.
        signature: of the image they belong to.
    """

    state: ObjectState = field(repr=False)
    signature: str

    @property
    def canvas(self) -> Canvas:
        """The logits and where they lie."""
        return self.state.drawing.canvas

    @property
    def array(self) -> np.ndarray:
        """(n0, n1, n2) float32, canonical orientation; NaN where nothing was drawn."""
        return self.canvas.logits.numpy()


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """A segmented object on the grid of the image that was set; two are equal only where they are the same one.

    Attributes:
        volume: the image.
        score: estimated IoU, 0 to 1.
        presence: estimated probability that the object is there at all, 0 to 1.
        scores: estimated IoU of each alternative of an ambiguous prompt, in the order in which they are offered.
        changed_box: half-open native voxel box ``(low, high)`` outside which the mask equals the one before: that of
            the logits that were passed back, else that of the last prediction on this image. For a new object the box
            holds both its mask and the last one's. Empty, low = high, where nothing changed.
        seconds: time the prediction took.
        encoder_calls: tiles it had to encode; 0 when all were cached.
        level_spacing_mm: voxel size the object was drawn at.
        logits_lowres: to feed back as ``mask=``.
    """

    volume: Volume
    score: float
    presence: float
    scores: tuple[float, ...]
    changed_box: VoxelBox
    seconds: float
    encoder_calls: int
    level_spacing_mm: float
    logits_lowres: LowresLogits
    _alternatives: tuple[Canvas, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}, "
        shape = " x ".join(map(str, self.volume.shape))
        return f"Prediction({name}{self.volume_ml:.4g} ml, score {self.score:.2f}, of {shape} voxels)"

    @property
    def _native(self) -> NativeMask:
        return self.logits_lowres.state.mask

    @property
    def name(self) -> str | None:
        """What the text that was given names, in full, with side and level; None without text."""
        structure = self.logits_lowres.state.prompts.structure
        return None if structure is None else structure.name

    @property
    def mask(self) -> np.ndarray:
        """(I, J, K) uint8, 1 in the object, on the grid the image came in. Made anew at each access."""
        return self._on_grid(self._native)

    def _on_grid(self, mask: NativeMask) -> np.ndarray:
        canonical = np.zeros(self.volume.canonical_shape, dtype=np.uint8)
        canonical[box_slices(*mask.box)] = mask.part
        return self.volume.from_canonical_array(canonical)

    @property
    def mask_box(self) -> VoxelBox:
        """Half-open native box around the mask; low = high for an empty one."""
        return native_box(self.volume, *self._native.box)

    @property
    def volume_ml(self) -> float:
        """Volume of the object in millilitres."""
        return float(self._native.part.sum()) * self.volume.voxel_ml

    def probability(self, box: VoxelBox | None = None) -> np.ndarray:
        """Probability of each voxel.

        Args:
            box: half-open native voxel box ``(low, high)``; None for the box of the mask.

        Returns:
            float32 of the box's shape: above 0.5 in the mask, 0 where nothing was drawn.

        Raises:
            ValueError: for a box that is empty or not inside the image.
        """
        if box is None and self._native.is_empty:
            return np.zeros((0, 0, 0), dtype=np.float32)
        low, high = (np.array(b) for b in (self.mask_box if box is None else box))
        is_box = low.shape == high.shape == (3,) and bool((low < high).all())
        if not is_box or (low < 0).any() or (high > self.volume.shape).any():
            raise ValueError(
                f"box {low.tolist()} to {high.tolist()}: expected low < high, three voxels each, inside the image of "
                f"shape {self.volume.shape}"
            )
        a, b = self.volume.to_canonical_box(low, high, space="voxel")
        low_vox, high_vox = np.rint(a).astype(int), np.rint(b).astype(int)
        probability = torch.sigmoid(self.logits_lowres.canvas.sample(low_vox, high_vox)).numpy()
        inside = self._native.cut((low_vox, high_vox)) > 0  # the voxels of clicks may differ from the logits
        least = np.nextafter(np.float32(0.5), np.float32(1))
        probability = np.where(inside, np.maximum(probability, least), np.minimum(probability, np.float32(0.5)))
        return self.volume.from_canonical_array(probability)

    def alternative(self, number: int) -> np.ndarray:
        """Mask of an alternative of an ambiguous prompt, with every click respected: (I, J, K) uint8.

        Args:
            number: place in ``scores``, from 0.

        Raises:
            ValueError: for a number that this prediction does not have.
        """
        if not 0 <= number < len(self._alternatives):
            raise ValueError(f"alternative {number}: this prediction has {len(self._alternatives)}, numbered from 0")
        prompts, shape = self.logits_lowres.state.prompts, np.array(self.volume.canonical_shape)
        drawn = NativeMask.of_canvas(self._alternatives[number], shape)
        return self._on_grid(drawn.with_clicks(prompts.points, prompts.labels, shape))

    def save(self, path: str | Path) -> Path:
        """Writes the mask as uint8 with the image's own affine, or as DICOM segmentation.

        Args:
            path: ``.nii``, ``.nii.gz``, or another format that SimpleITK writes; ``.dcm``, of an image that was read
                from a DICOM series, for a segmentation that refers to it.

        Returns:
            The path written; the file appears there only when it is complete.

        Raises:
            ValueError: for a name that cannot be written; see :func:`promptseg.io.write_labels`.
        """
        from .io import write_labels

        prompts = self.logits_lowres.state.prompts
        is_pointed = bool(len(prompts.points) or prompts.boxes or prompts.strokes or prompts.mask is not None)
        names = {} if self.name is None else {1: self.name}
        return write_labels(path, self.mask, self.volume, names, is_automatic=not is_pointed)


def prediction_of(
    volume: Volume,
    signature: str,
    state: ObjectState,
    seconds: float = 0.0,
    encoder_calls: int = 0,
    calibration: Sequence[float] = (),
) -> Prediction:
    """The prediction that an object's state is.

    Args:
        volume: the image.
        signature: of image and model; see :class:`LowresLogits`.
        state: of the object.
        seconds: it took.
        encoder_calls: tiles that had to be encoded.
        calibration: of the weights' quality estimate; see :mod:`promptseg.quality`.
    """
    drawing, prompts = state.drawing, state.prompts
    count = len(prompts.points) + len(prompts.boxes) + len(prompts.strokes)

    def score_of(canvas: Canvas, estimate: float) -> float:
        return calibrated_score(calibration, canvas, estimate, count, len(prompts.boxes))

    score = score_of(drawing.canvas, drawing.score)
    return Prediction(
        volume=volume,
        score=score,
        presence=drawing.presence,
        scores=tuple(score_of(canvas, estimate) for estimate, canvas in drawing.candidates) or (score,),
        changed_box=native_box(volume, *state.changed),
        seconds=seconds,
        encoder_calls=encoder_calls,
        level_spacing_mm=drawing.canvas.lattice.level_spacing_mm(drawing.canvas.level),
        logits_lowres=LowresLogits(state, signature),
        _alternatives=tuple(c for _, c in drawing.candidates) or (drawing.canvas,),
    )


def check_handed_over(logits: LowresLogits, signature: str, prompts: tuple[object, ...]) -> None:
    """Refuses logits that do not belong to the image, or that come alone.

    Raises:
        ValueError: with the cure.
    """
    if logits.signature != signature:
        raise ValueError("mask: these logits belong to another image or model; pass a mask on this image's grid")
    if all(p is None for p in prompts):
        raise ValueError("mask: low-resolution logits alone change nothing; add a point, box, scribble or lasso")


def explain_empty(state: ObjectState) -> str:
    """Why a mask is empty, and what to do."""
    structure = state.prompts.structure
    if structure is None:
        return "the mask is empty: the model found nothing at these prompts; add a point on the object or a box"
    return (
        f"the mask is empty: {structure.name!r} was not found (presence {state.drawing.presence:.2f}); "
        "if it is in the image, add a point on it or a box"
    )


def native_box(volume: Volume, low_vox: np.ndarray, high_vox: np.ndarray) -> VoxelBox:
    """Half-open native box, as plain integers, of one of canonical voxels."""
    low, high = volume.from_canonical_box(low_vox, high_vox)
    return tuple(int(v) for v in low), tuple(int(v) for v in high)  # type: ignore[return-value]
