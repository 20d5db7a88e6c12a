"""All prompts of one object, checked against an image and turned to its canonical voxels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .boxes import Box as Box3D
from .boxes import box_slices, filled_box
from .prompt_arguments import as_boxes, as_points, as_several, as_texts
from .prompt_kinds import Box, Lasso, Mask, Points, Scribble, Text
from .strokes import Stroke, key_points_along, key_points_among, rasterise_lasso, rasterise_scribble
from .volume import SPACES, Volume

__all__ = ["Box", "Lasso", "Mask", "Points", "PromptSet", "Scribble", "Stroke", "Text"]

if TYPE_CHECKING:
    from .structures import Structure

logger = logging.getLogger(__name__)

COORDINATE_DECIMALS = 6
"""Voxel coordinates are rounded to so many decimals, so that a place in mm and in voxels is one and the same prompt."""


@dataclass(frozen=True, eq=False)
class PromptSet:
    """All prompts of one object, in canonical voxels.

    Attributes:
        points: (N, 3) float64, in the order given, inside the volume.
        labels: (N,) int64, 1 to include, 0 to exclude.
        boxes: half-open ``(low, high)``, (3,) float64 each, inside the volume.
        strokes: scribbles, then lassos, each in the order given.
        mask: the user's mask with canonical axes; None for none. A binary one is a bool copy cut to the box that
            holds all of it; logits, positive inside, are a view of the whole.
        mask_low: (3,) int, canonical voxel of the mask's first voxel.
        mask_box: half-open box around the voxels inside; None for logits that are positive nowhere, or no mask.
        mask_is_logits: whether it holds logits.
        text: words for the object.
        structure: what these words name, as the model knows it; None without words, and before they are understood.
    """

    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    strokes: tuple[Stroke, ...] = ()
    mask: np.ndarray | None = None
    mask_low: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=int))
    mask_box: Box3D | None = None
    mask_is_logits: bool = False
    text: tuple[str, ...] = ()
    structure: Structure | None = None

    @classmethod
    def from_arguments(
        cls,
        volume: Volume,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        scribbles: Any = None,
        lassos: Any = None,
        mask: Any = None,
        text: Any = None,
        space: str = "voxel",
    ) -> PromptSet:
        """Checks the arguments of :meth:`promptseg.Predictor.predict` and converts them.

        Args:
            volume: the image.
            points: (N, 3) coordinates in ``space``, or Points.
            labels: (N,) 1 or 0; None for all 1.
            box: ``(low, high)``, six numbers, a Box, or several of one of these.
            scribbles: Scribble, (N, 3) corners of a line on the object, or several.
            lassos: Lasso, (N, 3) contour around the object, or several.
            mask: (I, J, K) binary array, or Mask.
            text: words, Text, or several.
            space: one of :data:`promptseg.volume.SPACES`; a mask has none.

        Raises:
            ValueError: for a prompt that is malformed, does not fit the image, or contradicts another; or for none.
        """
        if space not in SPACES:
            raise ValueError(f"space={space!r}: expected one of {', '.join(map(repr, SPACES))}")
        clicks = as_points(points, labels)
        scribble_list = as_several(scribbles, Scribble)
        lasso_list = as_several(lassos, Lasso)
        boxes = as_boxes(box)
        words = tuple(t.text.strip() for t in as_texts(text))
        drawn = _convert_mask(volume, mask)
        if not (len(clicks.coordinates) or boxes or scribble_list or lasso_list or words or drawn is not None):
            empty = "the mask is 0 everywhere, and there is no other prompt" if mask is not None else "no prompt"
            raise ValueError(f"{empty}: give at least one of points=, box=, scribbles=, lassos=, mask= or text=")
        return cls(
            points=_convert_points(volume, clicks, space),
            labels=clicks.labels,
            boxes=tuple(_convert_box(volume, b, space) for b in boxes),
            strokes=tuple(
                [_convert_scribble(volume, s, n, space) for n, s in enumerate(scribble_list)]
                + [_convert_lasso(volume, s, n, space) for n, s in enumerate(lasso_list)]
            ),
            text=words,
            **({} if drawn is None else _place_mask(volume, drawn)),
        )


def _convert_points(volume: Volume, points: Points, space: str) -> np.ndarray:
    converted = _to_canonical(volume, points.coordinates, space)
    _check_inside(volume, converted, points.coordinates, space, "point")
    voxels = np.rint(converted)
    for n in np.flatnonzero(points.labels == 0):
        same = np.flatnonzero((voxels == voxels[n]).all(axis=1) & (points.labels == 1))
        if len(same):
            raise ValueError(
                f"points {same[0]} and {n}, {_numbers(points.coordinates[same[0]])} and "
                f"{_numbers(points.coordinates[n])}, name one voxel with labels 1 and 0; remove one of them"
            )
    return converted


def _convert_box(volume: Volume, box: Box, space: str) -> tuple[np.ndarray, np.ndarray]:
    shape = np.array(volume.canonical_shape, dtype=np.float64)
    shown = f"box {_numbers(box.low)} to {_numbers(box.high)}"
    high_given = box.high.copy()
    if box.axis is not None and space == "voxel":
        if box.high[box.axis] > box.low[box.axis] + 1:
            raise ValueError(f"{shown}: axis={box.axis} says that it lies on one slice; leave axis out for a box in 3D")
        high_given[box.axis] = box.low[box.axis] + 1
    low, high = (np.round(c, COORDINATE_DECIMALS) + 0.0 for c in volume.to_canonical_box(box.low, high_given, space))
    if box.axis is not None:
        axis = _canonical_axis(volume, box.axis, space)
        low[axis] = np.rint((low[axis] + high[axis] - 1) / 2)
        high[axis] = low[axis] + 1
    clipped_low, clipped_high = np.clip(low, 0, shape), np.clip(high, 0, shape)
    if (clipped_low >= clipped_high).any():
        raise ValueError(f"{shown}: wholly outside the image{_other_spaces(volume, (box.low + box.high) / 2, space)}")
    if (np.maximum(clipped_low - low, high - clipped_high) > 0.5).any():
        logger.warning(
            "%s reaches out of the image of shape %s (space=%r); it is cut off there", shown, volume.shape, space
        )
    return clipped_low, clipped_high


def _convert_scribble(volume: Volume, scribble: Scribble, number: int, space: str) -> Stroke:
    points = _to_canonical(volume, scribble.coordinates, space)
    _check_inside(volume, points, scribble.coordinates, space, f"scribble {number}: point")
    spacing_mm, shape = volume.canonical_spacing_mm, volume.canonical_shape
    longest_mm = float((spacing_mm * shape).max())
    if scribble.radius_mm is not None and scribble.radius_mm > longest_mm / 2:
        raise ValueError(
            f"scribble {number}: radius_mm={scribble.radius_mm:g} covers the whole image, whose longest side is "
            f"{longest_mm:.4g} mm; give a smaller radius, in mm"
        )
    voxels = rasterise_scribble(points, shape, spacing_mm, scribble.radius_mm, scribble.connected)
    keys = key_points_along(points, spacing_mm) if scribble.connected else key_points_among(voxels, spacing_mm)
    return Stroke(voxels, scribble.label, "scribble", keys)


def _convert_lasso(volume: Volume, lasso: Lasso, number: int, space: str) -> Stroke:
    shape = np.array(volume.canonical_shape)
    contour = _to_canonical(volume, lasso.contour, space)
    voxels = np.rint(contour)
    spans = voxels.max(axis=0) - voxels.min(axis=0)
    if lasso.axis is None:
        if spans.min() > 0:
            native_spans = spans[np.argsort(volume.permutation)].astype(int) + 1
            raise ValueError(
                f"lasso {number}: its points do not lie on one slice (they span {' x '.join(map(str, native_spans))} "
                "voxels); give axis=, the axis that the slice lies across"
            )
        axis = int(np.argmin(spans))
    else:
        axis = _canonical_axis(volume, lasso.axis, space)
        if spans[axis] > 1:
            logger.warning(
                "lasso %d: its points lie on %d slices; they are moved onto one", number, int(spans[axis]) + 1
            )
    contour[:, axis] = np.rint(np.median(contour[:, axis]))
    outside = np.maximum(-contour, contour - (shape - 1)).max()
    # Beyond a volume's length it cannot be meant, and walking along it would take for ever.
    filled = rasterise_lasso(contour, axis, volume.canonical_shape) if outside <= shape.max() else np.zeros((0, 3))
    if not len(filled):
        hint = _other_spaces(volume, lasso.contour[0], space)
        raise ValueError(f"lasso {number} at {_numbers(lasso.contour[0])}: outside the image{hint}")
    if outside > 0.5:
        logger.warning("lasso %d reaches out of the image of shape %s; it is cut off there", number, volume.shape)
    return Stroke(filled, lasso.label, "lasso", key_points_among(filled, volume.canonical_spacing_mm))


def _convert_mask(volume: Volume, mask: Any) -> Mask | None:
    """The mask on the image's grid; None for one without a voxel, which says nothing."""
    if mask is None:
        return None
    given = mask if isinstance(mask, Mask) else Mask(mask)
    if given.array.shape != volume.shape:
        raise ValueError(
            f"mask: shape {given.array.shape} is not the image's {volume.shape}; give it on the image's grid, as the "
            "array is indexed (resample or transpose it)"
        )
    if not given.is_logits and not given.array.any():
        logger.warning("mask: 0 everywhere, so it is taken as no mask")
        return None
    return given


def _place_mask(volume: Volume, mask: Mask) -> dict[str, Any]:
    """Fields of :class:`PromptSet` for a mask on the image's grid."""
    canonical = volume.to_canonical_array(mask.array)
    if mask.is_logits:
        return {"mask": canonical, "mask_box": filled_box(canonical > 0), "mask_is_logits": True}
    box = filled_box(canonical)
    assert box is not None  # _convert_mask took it for no mask
    return {"mask": canonical[box_slices(*box)] != 0, "mask_low": box[0], "mask_box": box}


def _to_canonical(volume: Volume, coordinates: np.ndarray, space: str) -> np.ndarray:
    return np.round(volume.to_canonical_points(coordinates, space), COORDINATE_DECIMALS) + 0.0


def _canonical_axis(volume: Volume, axis: int, space: str) -> int:
    return volume.permutation.index(axis) if space == "voxel" else axis


def _check_inside(volume: Volume, canonical: np.ndarray, given: np.ndarray, space: str, name: str) -> None:
    inside = _is_inside(volume, canonical)
    if not inside.all():
        n = int(np.argmin(inside))
        raise ValueError(
            f"{name} {n}, {_numbers(given[n])}, lies outside the image{_other_spaces(volume, given[n], space)}"
        )
    # A point on the outermost face rounds to the voxel beyond it.
    np.clip(canonical, -0.5, np.array(volume.canonical_shape) - 0.5 - 10.0**-COORDINATE_DECIMALS, out=canonical)


def _is_inside(volume: Volume, canonical: np.ndarray) -> np.ndarray:
    """Whether each of (N, 3) positions is in a voxel: (N,) bool."""
    return np.asarray(((canonical >= -0.5) & (canonical <= np.array(volume.canonical_shape) - 0.5)).all(axis=-1))


def _other_spaces(volume: Volume, place: np.ndarray, space: str) -> str:
    """What a message about a place outside adds: the image's extent, and where the place would be inside."""
    if space == "voxel":
        extent = f"; its shape is {volume.shape} (space='voxel')"
    else:
        corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.shape], indexing="ij"), axis=-1).reshape(-1, 3)
        world_mm = volume.voxel_to_world(corners, space)
        low, high = world_mm.min(axis=0), world_mm.max(axis=0)
        extent = f", which reaches from {_numbers(low)} to {_numbers(high)} mm (space={space!r})"
    fitting = [
        repr(o) for o in SPACES if o != space and _is_inside(volume, _to_canonical(volume, place[None], o)).all()
    ]
    if fitting:
        return f"{extent}; with space={' or '.join(fitting)} it would be inside"
    if space == "voxel" and _is_inside(volume, _to_canonical(volume, place[None, ::-1], space)).all():
        return f"{extent}; in the order k, j, i it would be inside: give it as the array is indexed"
    return extent


def _numbers(values: np.ndarray) -> str:
    return f"({', '.join(f'{v:.6g}' for v in values)})"
