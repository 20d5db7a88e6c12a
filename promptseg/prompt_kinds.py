"""What a user can point with: points, boxes, scribbles, lassos, masks and text.

Each is checked by itself when it is made; :class:`promptseg.prompts.PromptSet` then checks it against an image and
turns it to the image's canonical voxels. Coordinates mean native voxel indices, or millimetres, as the ``space``
argument of :meth:`promptseg.Predictor.predict` says. Fields are given as anything numpy takes, and are read back as
the arrays that the attributes describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Points:
    """Clicks.

    Attributes:
        coordinates: (N, 3) float64; one triple is a single point.
        labels: (N,) int64, 1 to include, 0 to exclude; all 1 if not given.

    Raises:
        ValueError: for coordinates that are not finite triples, labels other than 0 and 1, or counts that differ.

    Example:
        >>> Points([(120, 88, 45), (90, 80, 45)], [1, 0]).labels.tolist()
        [1, 0]
    """

    coordinates: Any
    labels: Any = None

    def __post_init__(self) -> None:
        coordinates = as_coordinates(self.coordinates, "points", at_least=0)
        labels = np.ones(len(coordinates), dtype=np.int64) if self.labels is None else _as_labels(self.labels)
        if len(labels) != len(coordinates):
            raise ValueError(
                f"{len(coordinates)} points but {len(labels)} labels: give one label, 1 or 0, for each point"
            )
        _set(self, coordinates=coordinates, labels=labels)


@dataclass(frozen=True, eq=False)
class Box:
    """A box around the object.

    Attributes:
        low: (3,) float64, smaller corner. In voxels the box is half-open: ``low`` is its first voxel.
        high: (3,) float64, larger corner. In voxels it is the one after its last voxel.
        axis: for a box on one slice, the axis of the coordinates that the slice lies across: low and high may then
            be equal along it, and the box is one voxel thick there. In millimetres, the slice across the array's axis
            that runs closest to the world's.

    Raises:
        ValueError: for corners that are not finite triples, or a box that is empty or inverted.

    Example:
        >>> Box((60, 50, 45), (90, 80, 45), axis=2).high.tolist()
        [90.0, 80.0, 45.0]
    """

    low: Any
    high: Any
    axis: int | None = None

    def __post_init__(self) -> None:
        low, high = (as_coordinates(c, "box corner")[0] for c in (self.low, self.high))
        check_axis(self.axis, "box")
        on_slice = np.arange(3) == (-1 if self.axis is None else self.axis)
        if (low > high).any():
            axis = int(np.argmax(low > high))
            raise ValueError(
                f"box {low.tolist()} to {high.tolist()}: inverted along axis {axis}; give the smaller corner first"
            )
        if ((low == high) & ~on_slice).any():
            axis = int(np.argmax((low == high) & ~on_slice))
            raise ValueError(
                f"box {low.tolist()} to {high.tolist()}: empty along axis {axis}; boxes are half-open, so give high = "
                f"low + 1 for one voxel, or axis={axis} for a box on a slice"
            )
        _set(self, low=low, high=high)


@dataclass(frozen=True, eq=False)
class Scribble:
    """A stroke drawn on the object, or beside it.

    Attributes:
        coordinates: (N, 3) float64: corners of a polyline, or the voxels that were drawn on.
        label: 1 to include, 0 to exclude.
        radius_mm: of the brush, the same in mm along every axis; None for a line one voxel wide.
        connected: True for a polyline, False for a list of voxels without lines between them.

    Raises:
        ValueError: for no points, coordinates that are not finite, another label, or a radius that is not positive.
    """

    coordinates: Any
    label: int = 1
    radius_mm: float | None = None
    connected: bool = True

    def __post_init__(self) -> None:
        coordinates = as_coordinates(self.coordinates, "scribble")
        radius = None if self.radius_mm is None else float(self.radius_mm)
        if radius is not None and not 0 < radius < np.inf:
            raise ValueError(f"radius_mm={self.radius_mm}: expected a positive number of mm, or None for one voxel")
        _set(self, coordinates=coordinates, label=_as_label(self.label, "scribble"), radius_mm=radius)


@dataclass(frozen=True, eq=False)
class Lasso:
    """A closed contour on one slice, in any of the array's three planes; what it encloses belongs to the object.

    Attributes:
        contour: (N, 3) float64, three points or more; the last is joined to the first.
        label: 1 to include what it encloses, 0 to exclude it.
        axis: axis of the coordinates that the slice lies across; None for the one along which all points share a
            voxel. With it, points are moved onto one slice.

    Raises:
        ValueError: for fewer than three points, coordinates that are not finite, or another label or axis.
    """

    contour: Any
    label: int = 1
    axis: int | None = None

    def __post_init__(self) -> None:
        check_axis(self.axis, "lasso")
        contour = as_coordinates(self.contour, "lasso contour", at_least=3)
        _set(self, contour=contour, label=_as_label(self.label, "lasso"))


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask to go on from, on the image's own grid.

    Attributes:
        array: (I, J, K). Binary: bool, or 0 and one other positive value; 0 everywhere means no mask. Logits: real
            numbers, positive inside.
        is_logits: which of the two.

    Raises:
        ValueError: for another number of axes, several label values, or values that are negative or NaN.
    """

    array: Any
    is_logits: bool = False

    def __post_init__(self) -> None:
        array = self.array.detach().cpu() if hasattr(self.array, "detach") else self.array
        array = np.asarray(array)
        if array.ndim != 3 or array.dtype.kind not in "buif":
            raise ValueError(
                f"mask: shape {array.shape} of {array.dtype}, expected an (I, J, K) array of numbers, as the image"
            )
        if self.is_logits:
            if np.isnan(array.min()):
                raise ValueError("mask: its logits contain NaN; set those to a negative number")
        elif array.dtype.kind != "b":
            _check_binary(array)
        _set(self, array=array)


@dataclass(frozen=True)
class Text:
    """What the object is called.

    Attributes:
        text: a word or a few, such as ``liver`` or ``left kidney``.

    Raises:
        ValueError: if it is empty.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"text={self.text!r}: expected a word, such as 'liver'")


def as_coordinates(values: Any, name: str, at_least: int = 1) -> np.ndarray:
    """Finite coordinates as (N, 3) float64; one triple becomes (1, 3), nothing becomes (0, 3).

    Raises:
        ValueError: for anything else, or fewer than ``at_least``.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {_short(values)}: expected coordinates, (N, 3) numbers") from None
    if array.size == 0:
        array = array.reshape(0, 3)
    elif array.shape == (3,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name}: {_short(values)} has shape {array.shape}, expected (N, 3): three numbers per point")
    if not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array).all(axis=1)))
        raise ValueError(f"{name}: coordinate {bad} is {array[bad].tolist()}; expected finite numbers")
    if len(array) < at_least:
        raise ValueError(f"{name}: has {len(array)} points, expected at least {at_least}")
    return array


def check_axis(axis: Any, name: str) -> None:
    """Refuses an axis other than None, 0, 1 and 2.

    Raises:
        ValueError: naming it.
    """
    if axis is not None and axis not in (0, 1, 2):
        raise ValueError(f"{name}: axis={axis!r}: expected 0, 1 or 2, or None")


def _as_labels(labels: Any) -> np.ndarray:
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
    try:
        given = np.array(labels, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        given = np.array([np.nan])
    if not np.isin(given, (0, 1)).all():
        raise ValueError(f"labels={_short(labels)}: expected 1 (include) or 0 (exclude) for each point")
    return given.astype(np.int64)


def _as_label(label: Any, name: str) -> int:
    if label not in (0, 1):
        raise ValueError(f"{name}: label={label!r}: expected 1 (include) or 0 (exclude)")
    return int(label)


def _check_binary(array: np.ndarray) -> None:
    """Refuses masks in which it is not plain what belongs to the object."""
    if not array.size:
        return
    highest = array.max()
    if array.dtype.kind != "u" and not array.min() >= 0:
        raise ValueError(
            f"mask: has values down to {array.min().item()}; give 0 and 1, or Mask(array, is_logits=True) for logits"
        )
    if array.dtype.kind in "ui" and highest <= 1:
        return
    if highest > 0 and np.count_nonzero(array) != np.count_nonzero(array == highest):
        raise ValueError(
            f"mask: has several values up to {highest.item()}; choose one object, such as mask=labels == 1, or give "
            "Mask(array, is_logits=True) for logits"
        )


def _short(values: Any) -> str:
    text = repr(values.tolist() if isinstance(values, np.ndarray) else values)
    return text if len(text) <= 80 else text[:77] + "..."


def _set(prompt: Any, **fields: Any) -> None:
    """Puts checked values into a frozen dataclass; arrays of coordinates become read-only."""
    for name, value in fields.items():
        if isinstance(value, np.ndarray) and name != "array":
            value.flags.writeable = False
        object.__setattr__(prompt, name, value)
