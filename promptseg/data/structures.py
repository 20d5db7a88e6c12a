"""What a label map shows by name: its terms, unions of them, and terms that are certainly not there."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..text import load_bank, load_index
from ..text.laterality import BOTH, LEFT, NONE, RIGHT

if TYPE_CHECKING:
    from .pool import TrainingPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Structure:
    """Something with a name that a case shows or certainly does not.

    Attributes:
        term_id: of the vocabulary.
        laterality: index into :data:`promptseg.text.LATERALITIES`.
        level: index into :data:`promptseg.text.LEVELS`.
        values: label values that it consists of; none for what is not in such images.
        is_exhaustive: no voxel outside these values belongs to it, so that it can be asked for where it is absent.
    """

    term_id: str
    laterality: int
    level: int
    values: tuple[int, ...]
    is_exhaustive: bool

    @property
    def key(self) -> tuple[str, int, int]:
        """Term, laterality and level: what it is called."""
        return self.term_id, self.laterality, self.level

    @property
    def name(self) -> str:
        """Full name, with side and level."""
        return load_bank().vocabulary[self.term_id].full_name(self.laterality, self.level)

    def mirrored(self) -> Structure:
        """The structure as it is called once left and right are swapped."""
        return replace(self, laterality={LEFT: RIGHT, RIGHT: LEFT}.get(self.laterality, self.laterality))

    def draw_words(self, rng: np.random.Generator) -> np.ndarray:
        """(D,) float32 embedding of its name or, half of the time, of any of its names."""
        variants = load_bank().variants(self.term_id)
        return variants[0 if rng.random() < 0.5 else int(rng.integers(len(variants)))]


def structures_of(
    names: Mapping[int, str],
    unions: Sequence[tuple[str, Sequence[int]]] = (),
    absent: Sequence[str] = (),
    annotated: Collection[int] | None = None,
    is_complete: bool = True,
) -> tuple[Structure, ...]:
    """Structures of a case, in a fixed order.

    Values of one name are one structure. Where a pair has both sides, the name without a side, and that of both, are
    their union. A name that the vocabulary does not know is left out: it can be clicked, not asked for.

    Args:
        names: label value -> term.
        unions: (term, values) pairs, further structures.
        absent: terms that are certainly not in the image, and neither is a part of them: ``brain`` means ``left
            amygdala``, too.
        annotated: values whose structures were looked for; None for all.
        is_complete: every instance of those is labelled.
    """
    return _structures(
        tuple(sorted(names.items())),
        tuple((name, tuple(sorted(values))) for name, values in unions),
        tuple(absent),
        None if annotated is None else frozenset(annotated),
        is_complete,
    )


@lru_cache(maxsize=256)
def _structures(
    names: tuple[tuple[int, str], ...],
    unions: tuple[tuple[str, tuple[int, ...]], ...],
    absent: tuple[str, ...],
    annotated: frozenset[int] | None,
    is_complete: bool,
) -> tuple[Structure, ...]:
    found: dict[tuple[str, int, int], set[int]] = {}
    for name, values in [*((name, (value,)) for value, name in names), *unions]:
        if (key := _find(name)) is not None:
            found.setdefault(key, set()).update(values)
    for term_id, laterality, level in list(found):
        other = (term_id, RIGHT, level)
        if laterality == LEFT and other in found:
            both = found[term_id, LEFT, level] | found[other]
            for side in (NONE, BOTH):
                found.setdefault((term_id, side, level), set()).update(both)
    structures = [
        Structure(*key, tuple(sorted(values)), is_complete and (annotated is None or values <= annotated))
        for key, values in found.items()
    ]
    missing = dict.fromkeys(key for name in absent for key in _parts(name))
    structures += [Structure(*key, (), True) for key in missing if key not in found]
    return tuple(structures)


@lru_cache(maxsize=4096)
def _parts(name: str) -> tuple[tuple[str, int, int], ...]:
    """A term and all that is part of it, on every side and at every level that each can have."""
    if (stated := _find(name)) is None:
        return ()
    if stated[1:] != (NONE, 0):
        return (stated,)
    vocabulary = load_bank().vocabulary
    terms = (vocabulary[stated[0]], *vocabulary.descendants(stated[0]))
    return tuple((term.id, side, level) for term in terms for side, level in term.versions())


@lru_cache(maxsize=4096)
def _find(name: str) -> tuple[str, int, int] | None:
    try:
        match = load_index().find(name)
    except ValueError as error:
        logger.info("label %r is not trained as a text prompt: %s", name, error)
        return None
    return match.term.id, match.laterality, match.level


def extent_mm(structure: Structure, boxes_mm: Mapping[int, np.ndarray]) -> float:
    """Largest side of a structure, from the box (2, 3) of each label of a volume; 0 where it is not there."""
    there = [boxes_mm[value] for value in structure.values if value in boxes_mm]
    if not there:
        return 0.0
    ends = np.stack(there)
    return float((ends[:, 1].max(axis=0) - ends[:, 0].min(axis=0)).max())


def measure_terms(pool: TrainingPool) -> dict[str, tuple[float, int]]:
    """Names that a pool teaches -> median extent in millimetres, and the number of volumes measured that show it."""
    extents: dict[str, list[float]] = {}
    for structures, boxes_mm in pool.some_outlines():
        for structure in structures:
            if extent := extent_mm(structure, boxes_mm):
                extents.setdefault(structure.name, []).append(extent)
    return {name: (float(np.median(values)), len(values)) for name, values in sorted(extents.items())}
