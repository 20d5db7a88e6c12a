"""Sides: what a text says about left and right, as an index of its own beside the structure's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

LATERALITIES = ("none", "left", "right", "both")
"""Names of the laterality indices: 0 not stated or in the midline, 1 left, 2 right, 3 both."""
NONE, LEFT, RIGHT, BOTH = range(4)

Sidedness = Literal["midline", "paired", "left", "right"]
"""What a term allows: no side, either side or both, or only the one."""

_WORDS = {
    **dict.fromkeys(("left", "l", "lt", "lh", "sin", "sinister", "sinistra", "sinistrum"), LEFT),
    **dict.fromkeys(("right", "r", "rt", "rh", "dex", "dexter", "dextra", "dextrum"), RIGHT),
    **dict.fromkeys(("both", "bilateral", "bilaterally"), BOTH),
}


def is_side_word(token: str) -> bool:
    """Whether a token (of :func:`promptseg.text.normalise.tokenise`) states a side."""
    return token in _WORDS


def split_laterality(tokens: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Takes the side out of a text.

    Args:
        tokens: from :func:`promptseg.text.normalise.tokenise`.

    Returns:
        The laterality index and the other tokens, in order. Left and right together are both.

    Example:
        >>> split_laterality(("rib", "left", "7"))
        (1, ('rib', '7'))
        >>> split_laterality(("left", "and", "right", "kidney"))
        (3, ('and', 'kidney'))
    """
    sides = {_WORDS[token] for token in tokens if token in _WORDS}
    rest = tuple(token for token in tokens if token not in _WORDS)
    if not sides:
        return NONE, rest
    return (sides.pop() if len(sides) == 1 else BOTH), rest


def check_laterality(index: int, sidedness: Sidedness, name: str) -> int:
    """Laterality index of a term after comparing what was said with what the term allows.

    Args:
        index: what the text said.
        sidedness: what the term allows.
        name: the term, for the message.

    Returns:
        The index; for a term that exists on one side only, that side.

    Raises:
        ValueError: for a side that the structure does not have.
    """
    if sidedness == "paired":
        return index
    if sidedness == "midline":
        if index == NONE:
            return index
        raise ValueError(
            f"text says {LATERALITIES[index]!r}, but {name!r} has no left or right: expected {name!r} alone; "
            "leave the side out, or name a part that has one"
        )
    only = LATERALITIES.index(sidedness)
    if index in (NONE, only):
        return only
    raise ValueError(
        f"text says {LATERALITIES[index]!r}, but {name!r} exists only on the {sidedness}: expected "
        f"'{sidedness} {name}'; leave the side out"
    )
