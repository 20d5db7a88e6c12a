"""The forms in which prompts may be given: made or raw, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from .prompt_kinds import Box, Lasso, Points, Scribble, Text

Drawn = TypeVar("Drawn", Scribble, Lasso)


def as_points(points: Any, labels: Any) -> Points:
    """Clicks from coordinates and labels, or from Points; none from None.

    Raises:
        ValueError: for labels without points, or beside Points.
    """
    if isinstance(points, Points):
        if labels is not None:
            raise ValueError("labels= is given beside Points, which hold their own; give one of the two")
        return points
    if points is None:
        if labels is not None and np.size(labels):
            raise ValueError(f"labels={labels!r} without points: give points= as well")
        return Points(())
    return Points(points, labels)


def as_several(value: Any, kind: type[Drawn]) -> list[Drawn]:
    """Scribbles or lassos from one or several, made or as (N, 3) coordinates.

    Raises:
        ValueError: for anything else.

    Example:
        >>> len(as_several([(0, 0, 0), (5, 5, 0)], Scribble)), len(as_several([[(0, 0, 0)], [(5, 5, 0)]], Scribble))
        (1, 2)
    """
    if value is None:
        return []
    if isinstance(value, kind):
        return [value]
    depth = _depth(value)
    if depth == 0:
        raise ValueError(f"{value!r}: expected a {kind.__name__}, (N, 3) coordinates, or a list of these")
    if len(value) == 0:
        return []
    if depth <= 2 and not any(isinstance(v, kind) for v in value):
        return [kind(value)]
    return [v if isinstance(v, kind) else kind(v) for v in value]


def as_boxes(value: Any) -> list[Box]:
    """Boxes from one or several of Box, ``(low, high)`` and six numbers.

    Raises:
        ValueError: for anything else.

    Example:
        >>> len(as_boxes((0, 0, 0, 5, 5, 5))), len(as_boxes([[(0, 0, 0), (5, 5, 5)], (2, 2, 2, 9, 9, 9)]))
        (1, 2)
    """
    if value is None:
        return []
    if isinstance(value, Box):
        return [value]
    depth = _depth(value)
    if depth == 0:
        raise ValueError(f"box={value!r}: expected (low, high), six numbers, a Box, or several of these")
    if len(value) == 0:
        return []
    if not any(isinstance(v, Box) for v in value):
        is_pair = depth == 2 and len(value) == 2 and all(_depth(v) == 1 and len(v) == 3 for v in value)
        if depth == 1 or is_pair:
            return [_as_box(value)]
    return [v if isinstance(v, Box) else _as_box(v) for v in value]


def as_texts(value: Any) -> list[Text]:
    """Texts from one or several, made or as words.

    Raises:
        ValueError: for anything else, or an empty one.
    """
    if value is None:
        return []
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [v if isinstance(v, Text) else Text(v) for v in several]


def _as_box(value: Any) -> Box:
    try:
        corners = np.array([np.array(v, dtype=np.float64) for v in value])
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.shape not in ((6,), (2, 3)):
        raise ValueError(f"box={value!r}: expected (low, high), or six numbers i0, j0, k0, i1, j1, k1")
    low, high = corners.reshape(2, 3)
    return Box(low, high)


def _depth(value: Any) -> int:
    """Levels of nesting: 0 for a number, 1 for a triple, 2 for a list of triples."""
    if hasattr(value, "ndim"):
        return int(value.ndim)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return 0
    return 1 + max((_depth(v) for v in value), default=0)
