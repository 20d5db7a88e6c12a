"""Finds the term that a text names: exactly, through synonyms, or through a correction of mistyped words."""

from __future__ import annotations

import difflib
import itertools
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .laterality import BOTH, LATERALITIES, NONE, check_laterality, is_side_word, split_laterality
from .levels import LEVELS, SPINAL_SYSTEMS, join_spaced_levels, level_index, split_numbers, split_spinal_levels
from .normalise import STOP_WORDS, edit_distance, joined_key, singular, tokenise, word_key
from .vocabulary import AMBIGUOUS_MARK, ASSETS, Vocabulary, VocabularyTerm, load_vocabulary, split_alias

logger = logging.getLogger(__name__)

MIN_CORRECTED_LENGTH = 5
"""Shorter words are not corrected: too many of them are one letter from another."""
MIN_TWICE_CORRECTED_LENGTH = 9
"""Words at least this long may have two errors, shorter ones one."""
MIN_LIKENESS = 0.25
"""Terms less like a text than this are not offered as near."""
REAL_WORDS_FILE = ASSETS / "real_words.txt"
"""Words that are no typing error of a vocabulary word although they are close to one: ``trochlea``, ``humor``."""
_SEPARATOR = re.compile(r"[,;&+|\n]|(?<![a-z])and(?![a-z])", re.IGNORECASE)
"""What stands between the members of a list; also in ``kidney, left``."""


@dataclass(frozen=True)
class TermMatch:
    """A text as the vocabulary understands it.

    Attributes:
        term: what it names.
        laterality: index into ``LATERALITIES``.
        level: index into ``LEVELS``.
        score: 1 for a known name, lower where words were corrected.
        corrected: the text as read, where words were corrected; else empty.
    """

    term: VocabularyTerm
    laterality: int = NONE
    level: int = 0
    score: float = 1.0
    corrected: str = ""

    @property
    def name(self) -> str:
        """Full name, with side and level."""
        return self.term.full_name(self.laterality, self.level)


@dataclass(frozen=True)
class Alias:
    """One name of a term.

    Attributes:
        term: whose name it is.
        text: the name.
        tokens: its tokens.
        laterality: side that the name itself means, such as left for ``LV``.
        level: level that the name itself means, such as that of C1 for ``atlas``.
        is_shared: whether other terms have this name too, so that it means none of them.
    """

    term: VocabularyTerm
    text: str
    tokens: tuple[str, ...]
    laterality: int = NONE
    level: int = 0
    is_shared: bool = False


class UnknownTermError(ValueError):
    """A text that names no term."""


class AmbiguousTermError(ValueError):
    """A text that is a name of several terms, or names several."""


class TermIndex:
    """All names of a vocabulary, ready for :meth:`find` and :meth:`search`."""

    def __init__(self, vocabulary: Vocabulary, real_words: Iterable[str] = ()) -> None:
        """Builds the index.

        Args:
            vocabulary: the terms.
            real_words: words that are never corrected.
        """
        self._real_words = frozenset(real_words)
        self.vocabulary = vocabulary
        self.aliases = tuple(alias for term in vocabulary for alias in aliases_of(term))
        self._by_words: dict[tuple[str, ...], list[Alias]] = {}
        self._by_letters: dict[str, list[Alias]] = {}
        for alias in self.aliases:
            self._by_words.setdefault(word_key(alias.tokens), []).append(alias)
            self._by_letters.setdefault(joined_key(alias.tokens), []).append(alias)
        self.words = {singular(token) for alias in self.aliases for token in alias.tokens}
        self._words_by_start: dict[tuple[str, int], list[str]] = {}
        for word in self.words:
            self._words_by_start.setdefault((word[0], len(word)), []).append(word)

    def find(self, text: str) -> TermMatch:
        """The term that a text names.

        Args:
            text: in any case, order of words and common spelling, with or without side and level.

        Returns:
            The match. A correction of mistyped words is logged as a warning and lowers the score. It is tried only on
            words that no term contains, so that it cannot turn one structure into another.

        Raises:
            UnknownTermError: for a text that names nothing; the message lists the nearest terms.
            AmbiguousTermError: for a name that several terms have, and for a list of names.
            ValueError: for a side or a level that the structure does not have.

        Example:
            >>> index = load_index()
            >>> index.find("Ren sinister").name, index.find("lung_upper_lobe_left").name, index.find("L4/5 disc").name
            ('left kidney', 'left upper lobe of lung', 'L4-L5 intervertebral disc')
        """
        tokens = tokenise(text) if isinstance(text, str) else ()
        if not tokens:
            raise UnknownTermError(f"text {text!r}: expected the name of a structure, such as 'left kidney'")
        match = self._find_exactly(tokens, text) or self._find_corrected(tokens, text)
        if match is None:
            raise UnknownTermError(self._unknown_message(text))
        self._check_not_a_list(text, match)
        return match

    def _check_not_a_list(self, text: str, match: TermMatch) -> None:
        """Refuses ``liver and tumor``, which else would mean ``liver tumor``, unless a name is written so."""
        if not _SEPARATOR.search(text):
            return
        parts = [part for part in map(tokenise, _SEPARATOR.split(text)) if part]
        whole = split_laterality(tokenise(_SEPARATOR.sub(" and ", text)))[1]
        if len(parts) < 2 or any(alias.tokens == whole for alias in self.aliases if alias.term is match.term):
            return
        kinds = {self._kind(part) for part in parts}
        if kinds in ({"name"}, {"level"}):
            raise AmbiguousTermError(
                f"text {text!r} can mean {match.name!r}, or {' and '.join(repr(' '.join(part)) for part in parts)}: "
                f"expected one structure; write {match.name!r}, or give several as several texts"
            )

    def _kind(self, tokens: Sequence[str]) -> str:
        """Whether a part of a text is a ``name`` of its own, with or without a side, a spinal ``level``, or neither."""
        _, rest = split_laterality(tokens)
        if word_key(rest) in self._by_words:
            return "name"
        levels, unlevelled = split_spinal_levels(rest)
        return "level" if levels and not unlevelled else ""

    def _unknown_message(self, text: str) -> str:
        near = ", ".join(repr(term.name) for term in self.nearest(text)) or "none"
        is_list = _SEPARATOR.search(text) or " or " in text
        several = "; a text names one structure: give several as several texts" if is_list else ""
        return (
            f"text {text!r} names no known structure; the nearest known terms: {near}; use one of them, or look with "
            f"`promptseg vocabulary search`{several}"
        )

    def nearest(self, text: str, limit: int = 5) -> tuple[VocabularyTerm, ...]:
        """Terms whose names are most like a text, the most alike first. Cost linear in the number of names."""
        tokens = [singular(token) for token in tokenise(text) if token not in STOP_WORDS]
        _, rest = split_laterality(tokens)
        wanted, words = " ".join(rest), set(rest)
        scores: dict[str, float] = {}
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(wanted)
        for alias in self.aliases:
            own = [singular(token) for token in alias.tokens]
            shared = 2 * len(words.intersection(own)) / max(1, len(words) + len(own))
            matcher.set_seq1(" ".join(own))
            likeness = matcher.ratio() if matcher.quick_ratio() > 0.4 else 0.0
            scores[alias.term.id] = max(scores.get(alias.term.id, 0.0), 0.6 * likeness + 0.4 * shared)
        near = [term_id for term_id, score in scores.items() if score >= MIN_LIKENESS]
        best = sorted(near, key=lambda term_id: (-scores[term_id], term_id))[:limit]
        return tuple(self.vocabulary[term_id] for term_id in best)

    def search(self, text: str, limit: int = 20) -> tuple[VocabularyTerm, ...]:
        """Terms with a name that contains a text; where there is none, the nearest ones.

        Args:
            text: part of a name; ``kidn`` is enough.
            limit: how many at most.

        Returns:
            Names that begin with the text first, then words that do, then the rest.
        """
        wanted = " ".join(tokenise(text))
        if not wanted:
            return ()
        ranks: dict[str, tuple[int, int, str]] = {}
        for alias in self.aliases:
            name = " ".join(alias.tokens)
            if wanted not in name and wanted != alias.term.id:
                continue
            is_own = 0 if alias.text == alias.term.name else 1
            rank = 0 if name == wanted else 1 if name.startswith(wanted) else 2 if f" {wanted}" in f" {name}" else 3
            key = (rank, is_own, alias.term.name)
            ranks[alias.term.id] = min(ranks.get(alias.term.id, key), key)
        found = sorted(ranks, key=lambda term_id: ranks[term_id])[:limit]
        return tuple(self.vocabulary[term_id] for term_id in found) or self.nearest(text, min(limit, 5))

    def _find_exactly(self, tokens: Sequence[str], text: str) -> TermMatch | None:
        whole = self._named(tokens, text)
        if whole is not None:
            return self._match(whole, tokens, NONE, (), text)
        tokens = join_spaced_levels(tokens)
        laterality, rest = split_laterality(tokens)
        alias = self._named(rest, text)
        if alias is not None:
            return self._match(alias, rest, laterality, (), text)
        levels, unlevelled = split_spinal_levels(rest)
        if levels:
            alias = self._named(unlevelled or (("disc",) if len(levels) == 2 else ("vertebra",)), text, SPINAL_SYSTEMS)
            if alias is not None:
                return self._match(alias, unlevelled, laterality, levels, text)
        number, unnumbered = split_numbers(rest)
        if number:
            alias = self._named(unnumbered, text, None)
            if alias is not None:
                return self._match(alias, unnumbered, laterality, (number,), text)
        return None

    def _named(self, tokens: Sequence[str], text: str, systems: tuple[str, ...] | None = ()) -> Alias | None:
        """The name that tokens spell, preferring terms with levels where the text has one.

        Args:
            tokens: without side and level.
            text: for the message.
            systems: where a level was said, the systems it can belong to; None: those of numbers; empty: none was said.
        """
        found = self._by_words.get(word_key(tokens)) or self._by_letters.get(joined_key(tokens)) or []
        if systems is None:
            systems = tuple({alias.term.level_system for alias in found} - {"", *SPINAL_SYSTEMS})
        if systems:
            found = [alias for alias in found if alias.term.level_system in systems] or found
        elif len({alias.term.id for alias in found}) > 1:
            found = [alias for alias in found if not alias.term.level_system] or found
        terms = sorted({alias.term.name for alias in found})
        if len(terms) > 1 or any(alias.is_shared for alias in found):
            raise AmbiguousTermError(
                f"text {text!r} can mean {' or '.join(map(repr, terms))}: expected one of these; say which"
            )
        return found[0] if found else None

    def _match(
        self, alias: Alias, said: Sequence[str], laterality: int, levels: tuple[str, ...], text: str
    ) -> TermMatch:
        term = alias.term
        for fixed, spoken, what in ((alias.laterality, laterality, "side"), (alias.level, bool(levels), "level")):
            if fixed and spoken and (what == "level" or fixed != spoken):
                raise ValueError(
                    f"text {text!r} adds a {what} to {alias.text!r}, which already means "
                    f"{term.full_name(alias.laterality, alias.level)!r}: expected only one; leave the other out"
                )
        is_plural = any(token not in alias.tokens and singular(token) in alias.tokens for token in said)
        laterality = alias.laterality or laterality
        if is_plural and laterality == NONE and term.sidedness == "paired" and term.category != "lesions":
            laterality = BOTH
        level = alias.level or level_index(term.level_system, levels, term.name)
        return TermMatch(term, check_laterality(laterality, term.sidedness, term.name), level)

    def _find_corrected(self, tokens: Sequence[str], text: str) -> TermMatch | None:
        candidates = [self._corrections(token) for token in tokens]
        if not all(candidates) or candidates == [[token] for token in tokens]:
            return None
        matches: dict[tuple[str, int, int], TermMatch] = {}
        for words in itertools.islice(itertools.product(*candidates), 64):
            match = self._find_exactly(words, text)
            if match is not None:
                score = difflib.SequenceMatcher(None, " ".join(tokens), " ".join(words)).ratio()
                found = TermMatch(match.term, match.laterality, match.level, score, " ".join(words))
                matches.setdefault((match.term.id, match.laterality, match.level), found)
        if len(matches) != 1:
            return None
        (match,) = matches.values()
        logger.warning("text %r was read as %r", text, match.name)
        return match

    def _corrections(self, token: str) -> list[str]:
        """The token itself where it is known or no word; else the known words nearest to it, if any."""
        is_known = singular(token) in self.words or token in STOP_WORDS or is_side_word(token)
        if is_known or any(character.isdigit() for character in token):
            return [token]
        if len(token) < MIN_CORRECTED_LENGTH or not {token, singular(token)}.isdisjoint(self._real_words):
            return []
        return self.near_words(token)

    def near_words(self, token: str) -> list[str]:
        """Vocabulary words that a token may be a typing error of, all equally near; the first letter is right."""
        limit = 1 if len(token) < MIN_TWICE_CORRECTED_LENGTH else 2
        near: dict[str, int] = {}
        for length in range(max(MIN_CORRECTED_LENGTH - 1, len(singular(token)) - limit), len(token) + limit + 1):
            for word in self._words_by_start.get((token[0], length), ()):
                near[word] = min(edit_distance(form, word, limit) for form in {token, singular(token)})
        best = min(near.values(), default=limit + 1)
        return [] if best > limit else sorted(word for word, distance in near.items() if distance == best)


def aliases_of(term: VocabularyTerm) -> Iterable[Alias]:
    """All names of a term, its own first."""
    for alias in (term.name, *term.synonyms, *term.latin, *term.abbreviations):
        text, prefix = split_alias(alias.removeprefix(AMBIGUOUS_MARK))
        laterality = LATERALITIES.index(prefix) if prefix in LATERALITIES[1:] else NONE
        level = LEVELS.index(prefix) if prefix and laterality == NONE else 0
        yield Alias(term, text, tokenise(text), laterality, level, alias.startswith(AMBIGUOUS_MARK))


@lru_cache(maxsize=1)
def load_index() -> TermIndex:
    """The index of the vocabulary that ships with the package; built once."""
    return TermIndex(load_vocabulary(), REAL_WORDS_FILE.read_text(encoding="utf-8").split())
