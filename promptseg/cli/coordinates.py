"""Coordinates as they are typed in a shell: ``I,J,K``, six numbers of a box, lists of points of a stroke."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Coordinates = tuple[float, ...]


def parse_coordinates(value: Any, count: int, name: str, form: str) -> Coordinates:
    """Reads numbers between commas.

    Args:
        value: text, or numbers already (from a YAML file).
        count: how many are expected.
        name: of the option, for the error.
        form: how it is written, for the error.

    Raises:
        ValueError: for another count, or words that are not finite numbers.

    Example:
        >>> parse_coordinates("-12.5,3,4", 3, "--point", "I,J,K")
        (-12.5, 3.0, 4.0)
    """
    parts: list[Any] = (
        value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    )
    try:
        numbers = tuple(float(p) for p in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(abs(n) < float("inf") for n in numbers):
        written = value if isinstance(value, str) else ",".join(map(str, parts))
        raise ValueError(f"{name} {written}: expected {count} numbers with commas and no spaces between, {form}")
    return numbers


def parse_stroke(value: Any, name: str) -> tuple[Coordinates, ...]:
    """Reads points between semicolons or spaces: ``"I,J,K; I,J,K; ..."``.

    Raises:
        ValueError: for fewer than one point, or one that is not three numbers.

    Example:
        >>> parse_stroke("1,2,3; 4,5,6", "--scribble")
        ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    """
    form = '"I,J,K;I,J,K;..."'
    points = value.replace(";", " ").split() if isinstance(value, str) else list(value)
    if not points:
        raise ValueError(f"{name}: it has no points; expected {form}")
    return tuple(parse_coordinates(p, 3, name, form) for p in points)


def parse_strokes(values: Sequence[Any], name: str) -> tuple[tuple[Coordinates, ...], ...]:
    """Reads the strokes of an option; one alone may be a list of its points, as of a YAML file.

    Raises:
        ValueError: as :func:`parse_stroke` does.

    Example:
        >>> parse_strokes([[1, 2, 3], [4, 5, 6]], "--scribble")
        (((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),)
    """
    are_points = [isinstance(v, (list, tuple)) and all(isinstance(n, (int, float)) for n in v) for v in values]
    strokes = [values] if values and all(are_points) else values
    return tuple(parse_stroke(stroke, name) for stroke in strokes)
