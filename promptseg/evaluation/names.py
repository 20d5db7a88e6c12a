"""What objects' names mean: which can be asked for in words, which lie on the other side, and which are absent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from ..text import encode_text, load_vocabulary
from ..text.laterality import LEFT, RIGHT

Meaning = tuple[str, int, int]
"""Term, side and level."""


@lru_cache(maxsize=10_000)
def meaning_of(name: str) -> Meaning | None:
    """What a name means; None for one that the vocabulary does not have, which takes 30 ms to find out.

    Example:
        >>> meaning_of("kidney left") == meaning_of("Ren sinister"), meaning_of("label 7") is None
        (True, True)
    """
    try:
        query = encode_text(name)
    except ValueError:
        return None
    return query.term_id, query.laterality, query.level


def other_side(meaning: Meaning) -> Meaning | None:
    """The same structure on the other side; None for one without a side."""
    term, side, level = meaning
    return (term, LEFT + RIGHT - side, level) if side in (LEFT, RIGHT) else None


def mirrored_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> the name of the same structure on the other side, for those of which both are there."""
    meanings = {meaning: name for name in names if (meaning := meaning_of(name)) is not None}
    pairs = {name: meanings.get(other) for m, name in meanings.items() if (other := other_side(m)) is not None}
    return {name: other for name, other in pairs.items() if other is not None}


def absent_names(wanted: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names that can be asked for in an image to see whether their absence is noticed.

    Left out is what may be in the image although nobody labelled it: whatever lies in the same region of the body
    (head, trunk, a limb, ...) as a structure that is labelled.

    Args:
        wanted: names that someone says are absent from such images.
        known: names of the structures that are labelled in the image's data set.

    Example:
        >>> absent_names(["liver", "cerebellum"], ["left hippocampus"])
        ['liver']
    """
    present = [meaning for name in known if (meaning := meaning_of(name)) is not None]
    regions = {region_of(term) for term, _, _ in present} - {""}
    terms = {term for term, _, _ in present}
    found = []
    for name in wanted:
        meaning = meaning_of(name)
        if meaning is not None and meaning[0] not in terms and region_of(meaning[0]) not in regions:
            found.append(name)
    return found


def region_of(term_id: str) -> str:
    """Part of the body that a structure or a lesion's site lies in, such as ``head``; empty for none in particular."""
    vocabulary = load_vocabulary()
    chain = [term_id, *(term.id for term in vocabulary.ancestors(vocabulary[term_id].site or term_id))]
    return chain[-2] if len(chain) > 2 and chain[-1] == "body" else ""
