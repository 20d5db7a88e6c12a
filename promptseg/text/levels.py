"""Levels: which vertebra, disc, rib, finger or segment a text means, as an index beside the structure's name."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CERVICAL = tuple(f"C{i}" for i in range(1, 8))
_THORACIC = tuple(f"T{i}" for i in range(1, 13))
_LUMBAR = tuple(f"L{i}" for i in range(1, 6))
_SACRAL = tuple(f"S{i}" for i in range(1, 6))
_NUMBERS = tuple(str(i) for i in range(1, 14))
_VARIANTS = ("1-2", "4-5", "1-4", "4a", "4b", "7a", "7b", "8a", "8b")

LEVELS = ("", *_CERVICAL, *_THORACIC, *_LUMBAR, *_SACRAL, "T13", "L6", "C8", *_NUMBERS, *_VARIANTS)
"""Names of the level indices, 0 meaning no level. Appended to, never reordered: trained weights depend on it."""

_SPINE = (*_CERVICAL, *_THORACIC, "T13", *_LUMBAR, "L6", *_SACRAL)
_DISC_SPINE = _SPINE[1:]
_LOBULES = ("1-2", "1-4", "4-5", "7a", "7b", "8a", "8b", *_NUMBERS[:10])

LEVEL_SYSTEMS: dict[str, tuple[str, ...]] = {
    "": (),
    "vertebra": _SPINE,
    "disc": _DISC_SPINE[:-1],
    "nerve": (*_CERVICAL, "C8", *_THORACIC, *_LUMBAR, *_SACRAL),
    "rib": _NUMBERS,
    "digit": _NUMBERS[:5],
    "liver_segment": (*_NUMBERS[:8], "4a", "4b"),
    "lung_segment": _NUMBERS[:10],
    "lobule": _LOBULES,
    "vermis": _LOBULES,
    "crus": _NUMBERS[:2],
}
"""Levels that the terms of each system may have. A disc, and what lies at one, has the level of the vertebra above."""
SPINAL_SYSTEMS = ("vertebra", "disc", "nerve")

_REGIONS = {"cervical": "c", "thoracic": "t", "dorsal": "t", "lumbar": "l", "sacral": "s"}
_ROMAN_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii")
_ROMAN = {roman: str(i) for i, roman in enumerate(_ROMAN_NUMERALS, start=1)}
_SPINAL_TOKEN = re.compile(r"(c|t|th|d|l|s)(\d{1,2})")
_NUMBER_TOKEN = re.compile(r"\d{1,2}[ab]?")


def split_spinal_levels(tokens: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Takes spinal levels out of a text.

    Understands ``L4``, ``Th12``, ``D12``, ``L4-5``, ``L5/S1``, ``5th lumbar``, ``lumbar 5``.

    Args:
        tokens: from :func:`promptseg.text.normalise.tokenise`, without sides.

    Returns:
        Level names in order, and the other tokens.

    Example:
        >>> split_spinal_levels(("disc", "l4", "5"))
        (('L4', 'L5'), ('disc',))
        >>> split_spinal_levels(("5", "lumbar", "vertebra"))
        (('L5',), ('vertebra',))
    """
    levels: list[str] = []
    rest: list[str] = []
    for position, token in enumerate(tokens):
        match = _SPINAL_TOKEN.fullmatch(token)
        if match:
            levels.append(("T" if match[1] in ("th", "d") else match[1].upper()) + str(int(match[2])))
        elif token.isdigit() and levels and position and _SPINAL_TOKEN.fullmatch(tokens[position - 1]):
            levels.append(levels[-1][0] + str(int(token)))
        else:
            rest.append(token)
    if not levels:
        regions = [token for token in rest if token in _REGIONS]
        numbers = [token for token in rest if token.isdigit()]
        if len(regions) == 1 and 1 <= len(numbers) <= 2:
            levels = [_REGIONS[regions[0]].upper() + str(int(number)) for number in numbers]
            rest = [token for token in rest if token not in _REGIONS and not token.isdigit()]
    return tuple(levels), tuple(rest)


def join_spaced_levels(tokens: Sequence[str]) -> tuple[str, ...]:
    """Joins a letter and its number where the text is about the spine: ``vertebra L 4``, not ``rib L 4``."""
    if not any(token.startswith(("vertebra", "disc", "intervertebral")) for token in tokens):
        return tuple(tokens)
    joined: list[str] = []
    for token in tokens:
        if token.isdigit() and joined and joined[-1] in ("c", "t", "th", "d", "l", "s"):
            joined[-1] += token
        else:
            joined.append(token)
    return tuple(joined)


def split_numbers(tokens: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Takes a number out of a text, in digits or Roman numerals.

    Returns:
        The level name, such as ``7``, ``4a`` or ``4-5``, empty where there is none; and the other tokens.

    Example:
        >>> split_numbers(("liver", "segment", "viii")), split_numbers(("vermis", "4", "5"))
        (('8', ('liver', 'segment')), ('4-5', ('vermis',)))
    """
    numbers: list[str] = []
    rest: list[str] = []
    for token in tokens:
        arabic = _ROMAN.get(token, token)
        if arabic == token and token[:-1] in _ROMAN and token[-1] in "ab":
            arabic = _ROMAN[token[:-1]] + token[-1]
        if _NUMBER_TOKEN.fullmatch(arabic):
            numbers.append(arabic.lstrip("0") or "0")
        else:
            rest.append(token)
    return "-".join(numbers), tuple(rest)


def level_index(system: str, spoken: Sequence[str], name: str) -> int:
    """Index of a level after comparing what was said with what the term allows.

    Args:
        system: key of ``LEVEL_SYSTEMS``.
        spoken: level names, as said; none for the structure at any level.
        name: the term, for the message.

    Returns:
        Index into ``LEVELS``, 0 for none.

    Raises:
        ValueError: for a level that the structure does not have, or a disc without both its vertebrae.
    """
    if not spoken:
        return 0
    said = "-".join(spoken)
    allowed = LEVEL_SYSTEMS[system]
    if not allowed:
        raise ValueError(f"text says level {said!r}, but {name!r} has no levels: expected {name!r} alone; leave it out")
    if system == "disc":
        if len(spoken) != 2:
            raise ValueError(f"level {said!r} of {name!r}: expected the two vertebrae beside it, such as 'L4-L5'")
        if spoken[0] not in allowed or spoken[1] not in _next_levels(spoken[0]):
            raise ValueError(f"level {said!r} of {name!r}: expected two neighbours, upper first, such as 'L4-L5'")
        return LEVELS.index(spoken[0])
    if said not in allowed:
        raise ValueError(f"level {said!r} of {name!r}: expected one of {', '.join(allowed)}")
    return LEVELS.index(said)


def level_text(system: str, level: int) -> str:
    """How a level is written: ``L4``, ``L4-L5`` for a disc, ``7`` for a rib; empty for none."""
    if level == 0:
        return ""
    if system == "disc":
        return f"{LEVELS[level]}-{_next_levels(LEVELS[level])[0]}"
    return LEVELS[level]


def _next_levels(upper: str) -> tuple[str, ...]:
    """Vertebrae that can lie below one, the usual first: T12 has L1 or T13 below, L4 has L5 or S1."""
    below = {"T11": ("T12", "L1"), "T12": ("L1", "T13"), "L4": ("L5", "S1"), "L5": ("S1", "L6")}
    if upper in below:
        return below[upper]
    following = _SPINE[_SPINE.index(upper) + 1 :]
    return following[:1]
