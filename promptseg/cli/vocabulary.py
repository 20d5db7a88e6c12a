"""``promptseg vocabulary``: the structures that can be named, and how a text is understood."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .command import Command, option
from .loading import DEFAULT_MODEL

if TYPE_CHECKING:
    from ..text import TermMatch, VocabularyTerm


@dataclass(frozen=True)
class VocabularyConfig:
    """Lists the structures that a word can name, finds them by a part of a name, or shows one.

    search TEXT: structures with a name that contains the text. show TEXT: what the text is understood as, with
    synonyms, parts and codes. list [CATEGORY]: all of them. A * marks those that weights were trained to find by name;
    others are answered with a warning.
    """

    action: Literal["search", "show", "list"] = option(metavar="ACTION", is_positional=True)
    """search, show or list"""
    term: str = option("", metavar="TEXT", is_positional=True)
    """part of a name for search, a name for show, a category for list"""
    limit: int = option(20, metavar="N")
    """how many structures search prints"""
    model: str = option(DEFAULT_MODEL, metavar="NAME")
    """weights whose terms are marked: a name that promptseg doctor lists, a folder, or a Hub id owner/name"""
    trained: bool = False
    """only the structures that these weights were trained to find by name"""
    json: bool = False
    """print JSON"""

    def __post_init__(self) -> None:
        if not self.term.strip() and self.action != "list":
            raise ValueError(f"vocabulary {self.action}: expected a text: promptseg vocabulary {self.action} kidney")
        if self.limit < 1:
            raise ValueError(f"--limit {self.limit}: expected 1 or more")


def run(config: VocabularyConfig) -> int:
    """Prints what was asked for."""
    trained = trained_terms(config.model)
    if config.action == "show":
        facts = describe_match(_index().find(config.term), trained)
        print(json.dumps(facts, indent=1) if config.json else "\n".join(_lines(facts)))
        return 0
    terms = _index().search(config.term, config.limit) if config.action == "search" else _listed(config.term)
    terms = tuple(term for term in terms if term.id in trained) if config.trained else terms
    if config.json:
        print(json.dumps([_plain(term, trained) for term in terms], indent=1))
        return 0
    if not terms and config.trained:
        raise ValueError(f"--trained: weights {config.model!r} were trained to find none of these by name")
    if not terms:
        raise ValueError(f"vocabulary search {config.term!r}: no structure is called so; see promptseg vocabulary list")
    width = max(len(term.name) for term in terms)
    for term in terms:
        also = ", ".join(_names(term.synonyms + term.latin + term.abbreviations)[:6])
        mark = "*" if term.id in trained else " "
        print(f"{mark if trained else ''}{term.name:<{width}}  {_sides(term):<12}  {also}".rstrip())
    if any(term.id in trained for term in terms):
        print(f"* {config.model} was trained to find it by name")
    if config.action == "list":
        counts = ", ".join(f"{count} {category}" for category, count in Counter(t.category for t in terms).items())
        print(f"{len(terms)} structures: {counts}")
    return 0


def trained_terms(model: str) -> dict[str, list[str]]:
    """Id of each term that weights were trained to find by name -> the names, with side and level.

    Raises:
        ValueError: for weights that cannot be had.
    """
    from ..shipped import trained_names

    found: dict[str, list[str]] = {}
    names = trained_names(model)
    if names is None and model != DEFAULT_MODEL:
        raise ValueError(f"--model {model}: not shipped, not a folder, and no Hub id (owner/name)")
    for name in names or ():
        found.setdefault(_index().find(name).term.id, []).append(name)
    return found


def describe_match(match: TermMatch, trained: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Facts about a structure that a text named, as plain values; ``trained`` is of :func:`trained_terms`."""
    from ..text import LATERALITIES, LEVELS

    vocabulary, term = _index().vocabulary, match.term
    return {
        "name": match.name,
        "match_score": round(match.score, 3),
        "laterality": LATERALITIES[match.laterality],
        "level": LEVELS[match.level],
        **_plain(term, trained or {}),
        "part_of": [ancestor.name for ancestor in vocabulary.ancestors(term.id)],
        "parts": [child.name for child in vocabulary.children(term.id)],
        "lesions": [lesion.name for lesion in vocabulary.lesions_in(term.id)],
        "totalsegmentator": term.totalsegmentator_name(match.laterality, match.level),
        "snomed": term.snomed_code(match.laterality, match.level),
    }


def _index() -> Any:
    from ..text import load_index

    return load_index()


def _listed(category: str) -> tuple[VocabularyTerm, ...]:
    vocabulary = _index().vocabulary
    categories = tuple(dict.fromkeys(term.category for term in vocabulary))
    if category and category not in categories:
        raise ValueError(f"vocabulary list {category!r}: expected one of {', '.join(categories)}, or nothing for all")
    return tuple(term for term in vocabulary if category in ("", term.category))


def _plain(term: VocabularyTerm, trained: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    site = _index().vocabulary[term.site].name if term.site else ""
    return {
        "id": term.id,
        "term": term.name,
        "category": term.category,
        "sides": term.sidedness,
        "levels": term.level_system,
        "site": site,
        "synonyms": _names(term.synonyms),
        "latin": _names(term.latin),
        "abbreviations": _names(term.abbreviations),
        "trained": list(trained.get(term.id, ())),
    }


def _names(aliases: tuple[str, ...]) -> list[str]:
    from ..text.vocabulary import AMBIGUOUS_MARK, split_alias

    pairs = [split_alias(alias.removeprefix(AMBIGUOUS_MARK)) for alias in aliases]
    return [f"{text} ({prefix})" if prefix else text for text, prefix in pairs]


def _sides(term: VocabularyTerm) -> str:
    return {"midline": "", "paired": "left, right"}.get(term.sidedness, term.sidedness)


def _lines(facts: dict[str, Any]) -> list[str]:
    rows = {
        "name": facts["name"],
        "term": f"{facts['term']} ({facts['id']}), {facts['category']}",
        "sides": {"midline": "none", "paired": "left, right, both"}.get(facts["sides"], f"{facts['sides']} only"),
        "levels": facts["levels"].replace("_", " "),
        "part of": " < ".join(facts["part_of"]),
        "lies in": facts["site"],
        "parts": ", ".join(facts["parts"]),
        "lesions": ", ".join(facts["lesions"]),
        "synonyms": ", ".join(facts["synonyms"]),
        "Latin": ", ".join(facts["latin"]),
        "short": ", ".join(facts["abbreviations"]),
        "trained": ", ".join(facts["trained"]),
        "TotalSegmentator": facts["totalsegmentator"],
        "SNOMED CT": facts["snomed"],
    }
    return [f"{label:<17} {value}" for label, value in rows.items() if value]


COMMAND = Command(
    VocabularyConfig,
    run,
    example="  promptseg vocabulary search kidn\n"
    "  promptseg vocabulary show 'ren sinister'\n"
    "  promptseg vocabulary list muscles",
)
