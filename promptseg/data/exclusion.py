"""Which structures cannot share a voxel: what a label tells of names that nobody looked for in that image.

Where a hippocampus is labelled there is no orbit, though no orbit was looked for. Two structures exclude each other if
some label map shows both, apart, or if they lie in different regions of the body; and then so do all parts of the one
and all parts of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

from ..text import load_bank
from .structures import Structure

REGIONS = ("head", "neck", "spine", "thorax", "abdomen", "pelvis", "limb")
"""Terms of the vocabulary that share no voxel."""


class Exclusion:
    """Knows which terms exclude each other.

    Args:
        cases: structures of each of some volumes.
    """

    def __init__(self, cases: Iterable[Sequence[Structure]]) -> None:
        self._apart: set[frozenset[str]] = {frozenset(pair) for pair in combinations(REGIONS, 2)}
        self._decided: dict[tuple[str, str], bool] = {}
        for named in dict.fromkeys(tuple((s.term_id, s.values) for s in case if s.values) for case in cases):
            shown = _by_term(named)  # once for all cases of a data set: the pairs of its terms are many
            pairs = (pair for pair in combinations(shown, 2) if shown[pair[0]].isdisjoint(shown[pair[1]]))
            self._apart.update(frozenset(pair) for pair in pairs)

    def excludes(self, one: str, other: str) -> bool:
        """Whether no voxel is part of both terms, as far as is known; a term and its parts never exclude each other."""
        if (one, other) not in self._decided:
            vocabulary = load_bank().vocabulary
            first, second = (one, *vocabulary.wholes(one)), (other, *vocabulary.wholes(other))
            is_part = one in second or other in first
            pairs = (frozenset((a, b)) for a in first for b in second if a not in second and b not in first)
            self._decided[one, other] = not is_part and any(pair in self._apart for pair in pairs)
        return self._decided[one, other]

    def elsewhere(
        self, structures: Sequence[Structure], keys: Collection[tuple[str, int, int]]
    ) -> list[tuple[Structure, tuple[int, ...]]]:
        """Structures that a case does not speak of, with the label values which none of their voxels has.

        Args:
            structures: of the case.
            keys: of structures to consider.

        Returns:
            In the order of their keys; without such as no value excludes.
        """
        spoken = {structure.key for structure in structures}
        shown = _by_term((s.term_id, s.values) for s in structures if s.values)
        excluding: dict[str, tuple[int, ...]] = {}
        found = []
        for key in sorted(set(keys) - spoken):
            if key[0] not in excluding:
                members = (values for term, values in shown.items() if self.excludes(term, key[0]))
                excluding[key[0]] = tuple(sorted(set().union(*members)))
            if excluding[key[0]]:
                found.append((Structure(*key, (), False), excluding[key[0]]))
        return found


def _by_term(named: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, set[int]]:
    """Term -> label values, of all its sides and levels."""
    values: dict[str, set[int]] = {}
    for term, own in named:
        values.setdefault(term, set()).update(own)
    return values
