"""The vocabulary: anatomical and lesion terms with their names, sides, levels, relations and codes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import get_args

from .laterality import BOTH, LATERALITIES, NONE, Sidedness
from .levels import LEVEL_SYSTEMS, LEVELS, SPINAL_SYSTEMS, level_text

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "text"
VOCABULARY_FILE = ASSETS / "vocabulary.tsv"
SEPARATOR = "; "
AMBIGUOUS_MARK = "~"


@dataclass(frozen=True)
class VocabularyTerm:
    """One structure, without side and level: ``kidney``, not ``left kidney``.

    A synonym may fix a side or a level with a prefix, ``left:LV`` or ``C1:atlas``, and ``~SMA`` is one that several
    terms share, so that it alone means none of them.
    """

    id: str
    """Lower case with underscores; never changes."""
    name: str
    """What the term is called, in American spelling."""
    category: str
    """``organs``, ``heart_vessels``, ``head_neck``, ``bones``, ``brain``, ``muscles`` or ``lesions``."""
    sidedness: Sidedness = "midline"
    """Whether it has a left and a right."""
    level_system: str = ""
    """Key of :data:`promptseg.text.levels.LEVEL_SYSTEMS`; empty: no levels."""
    parent: str = ""
    """Id of what it is part of; for a lesion, of the more general lesion; empty at the top."""
    site: str = ""
    """Id of the structure a lesion lies in; empty: anywhere, or not a lesion."""
    synonyms: tuple[str, ...] = ()
    """Other English names."""
    latin: tuple[str, ...] = ()
    """Latin names."""
    abbreviations: tuple[str, ...] = ()
    """Short forms."""
    totalsegmentator: tuple[str, ...] = ()
    """TotalSegmentator's classes, the preferred first, with ``{side}`` and ``{level}`` in them."""
    snomed: tuple[str, ...] = ()
    """SNOMED CT codes: of the structure itself, or of a side or level, ``left:82471001``, ``C1:14806007``."""

    def versions(self) -> tuple[tuple[int, int], ...]:
        """Every laterality and level index that its name can come with, none of either first."""
        sides = {"midline": (NONE,), "paired": range(len(LATERALITIES))}.get(self.sidedness)
        levels = (0, *(LEVELS.index(level) for level in LEVEL_SYSTEMS[self.level_system]))
        return tuple((side, level) for side in sides or (LATERALITIES.index(self.sidedness),) for level in levels)

    def full_name(self, laterality: int = NONE, level: int = 0) -> str:
        """Name with side and level, side first: ``left kidney``, ``L4 vertebra``, ``right rib 7``.

        Args:
            laterality: index into :data:`promptseg.text.laterality.LATERALITIES`.
            level: index into :data:`promptseg.text.levels.LEVELS`.
        """
        name, spoken = self.name, level_text(self.level_system, level)
        if spoken:
            name = f"{spoken} {name}" if self.level_system in SPINAL_SYSTEMS else f"{name} {spoken}"
        return name if laterality == NONE else f"{LATERALITIES[laterality]} {name}"

    def totalsegmentator_name(self, laterality: int = NONE, level: int = 0) -> str:
        """TotalSegmentator's class of this structure, empty where there is none (a side or a level may be missing)."""
        for pattern in self.totalsegmentator:
            has_side = "{side}" not in pattern or laterality not in (NONE, BOTH)
            if has_side and ("{level}" not in pattern or level):
                return pattern.format(side=LATERALITIES[laterality], level=level_text(self.level_system, level))
        return ""

    def snomed_code(self, laterality: int = NONE, level: int = 0) -> str:
        """SNOMED CT code, the most specific there is: of the side or the level, else of the structure; else empty."""
        codes = {prefix: code for code, prefix in map(split_alias, self.snomed)}
        for prefix in (LEVELS[level], LATERALITIES[laterality] if laterality in (1, 2) else "", ""):
            if prefix in codes:
                return codes[prefix]
        return ""


def split_alias(alias: str) -> tuple[str, str]:
    """Text and prefix of a synonym: ``left:LV`` is ``("LV", "left")``, ``kidney`` is ``("kidney", "")``."""
    prefix, mark, text = alias.partition(":")
    return (text, prefix) if mark else (alias, "")


@dataclass(frozen=True)
class Vocabulary:
    """All terms, in the order of the table; terms with unique ids and names, whose parents and sites exist.

    Raises:
        ValueError: for a table that breaks that, naming the term.
    """

    terms: tuple[VocabularyTerm, ...]
    """The terms."""
    _by_id: dict[str, VocabularyTerm] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {term.id: term for term in self.terms}
        if len(by_id) != len(self.terms) or len({term.name for term in self.terms}) != len(self.terms):
            raise ValueError("vocabulary: two terms share an id or a name: expected unique ones; rename one")
        for term in self.terms:
            for relation in filter(None, (term.parent, term.site)):
                if relation not in by_id:
                    raise ValueError(f"vocabulary term {term.id!r}: {relation!r} is no term: expected a known id")
            if term.sidedness not in get_args(Sidedness) or term.level_system not in LEVEL_SYSTEMS:
                raise ValueError(
                    f"vocabulary term {term.id!r}: sides {term.sidedness!r}, levels {term.level_system!r}: expected "
                    f"one of {get_args(Sidedness)} and one of {tuple(LEVEL_SYSTEMS)}"
                )
        object.__setattr__(self, "_by_id", by_id)
        for term in self.terms:
            self._check_no_cycle(term)

    def __len__(self) -> int:
        return len(self.terms)

    def __iter__(self) -> Iterator[VocabularyTerm]:
        return iter(self.terms)

    def __contains__(self, term_id: object) -> bool:
        return term_id in self._by_id

    def __getitem__(self, term_id: str) -> VocabularyTerm:
        """Term of an id.

        Raises:
            ValueError: for an id that is not in the table.
        """
        if term_id not in self._by_id:
            raise ValueError(
                f"vocabulary id {term_id!r}: expected one such as 'kidney'; see `promptseg vocabulary search`"
            )
        return self._by_id[term_id]

    def ancestors(self, term_id: str) -> tuple[VocabularyTerm, ...]:
        """What a term is part of, the nearest first."""
        chain: list[VocabularyTerm] = []
        parent = self[term_id].parent
        while parent:
            chain.append(self._by_id[parent])
            parent = self._by_id[parent].parent
        return tuple(chain)

    def wholes(self, term_id: str) -> tuple[str, ...]:
        """Ids of all that a term is part of; for a lesion, of where it lies, too."""
        starts = [term_id, *([site] if (site := self[term_id].site) else [])]
        above = [term.id for start in starts for term in self.ancestors(start)]
        return (*starts[1:], *above)

    def children(self, term_id: str) -> tuple[VocabularyTerm, ...]:
        """Terms whose parent this is."""
        self[term_id]
        return tuple(term for term in self.terms if term.parent == term_id)

    def descendants(self, term_id: str) -> tuple[VocabularyTerm, ...]:
        """All parts of a term, and their parts; for a lesion, all more special ones."""
        self[term_id]
        return tuple(term for term in self.terms if any(above.id == term_id for above in self.ancestors(term.id)))

    def lesions_in(self, term_id: str) -> tuple[VocabularyTerm, ...]:
        """Lesion terms whose site this is."""
        self[term_id]
        return tuple(term for term in self.terms if term.site == term_id)

    def fingerprint(self) -> str:
        """Hash of ids and names in order, which an embedding bank must share."""
        lines = "\n".join(f"{term.id}\t{term.name}" for term in self.terms)
        return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()

    def _check_no_cycle(self, term: VocabularyTerm) -> None:
        seen, parent = {term.id}, term.parent
        while parent:
            if parent in seen:
                raise ValueError(
                    f"vocabulary term {term.id!r} is its own ancestor: expected a tree; correct its parent"
                )
            seen.add(parent)
            parent = self._by_id[parent].parent


COLUMNS = tuple(f.name for f in fields(VocabularyTerm))
_LISTS = ("synonyms", "latin", "abbreviations", "totalsegmentator", "snomed")


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Reads a table of tab-separated values whose columns are the fields of :class:`VocabularyTerm`.

    Raises:
        ValueError: for a file that is not such a table.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or tuple(rows[0]) != COLUMNS or any(None in row.values() for row in rows):
        raise ValueError(f"vocabulary {path}: expected the columns {', '.join(COLUMNS)}, tab-separated, in every row")
    return Vocabulary(tuple(_term_of(row) for row in rows))


def _term_of(row: dict[str, str]) -> VocabularyTerm:
    lists = {name: tuple(filter(None, row[name].split(SEPARATOR))) for name in _LISTS}
    return VocabularyTerm(**{**row, **lists})  # pyright: ignore[reportArgumentType]


def write_vocabulary(path: str | Path, terms: Iterable[VocabularyTerm]) -> None:
    """Writes the table that :func:`read_vocabulary` reads."""
    lines = ["\t".join(COLUMNS)]
    for term in terms:
        values = (getattr(term, name) for name in COLUMNS)
        lines.append("\t".join(SEPARATOR.join(v) if isinstance(v, tuple) else v for v in values))
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


@lru_cache(maxsize=1)
def load_vocabulary() -> Vocabulary:
    """The vocabulary that ships with the package; read once."""
    return read_vocabulary(VOCABULARY_FILE)
