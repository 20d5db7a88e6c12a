"""From a text to what the model takes: an embedding, a laterality index and a level index."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from .embedding_bank import EmbeddingBank, load_bank
from .encoder import TextEncoder
from .laterality import LATERALITIES, NONE, split_laterality
from .lookup import TermIndex, TermMatch, UnknownTermError, load_index
from .normalise import tokenise

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TextQuery:
    """A word prompt, understood.

    Attributes:
        term_id: id of the vocabulary's term; empty for free text that an encoder embedded.
        name: full name with side and level, such as ``left rib 7``.
        embedding: (D,) float32 of unit length, of the term without side and level; D is 384 with the shipped bank.
        laterality: index into :data:`promptseg.text.LATERALITIES`.
        level: index into :data:`promptseg.text.LEVELS`.
        match_score: 1 for a known name, below where words were corrected; for free text the cosine to the nearest term.
        text: as given.
    """

    term_id: str
    name: str
    embedding: np.ndarray
    laterality: int
    level: int
    match_score: float
    text: str

    @property
    def is_known(self) -> bool:
        """Whether the text named a term of the vocabulary."""
        return bool(self.term_id)


def encode_text(text: str, encoder: TextEncoder | None = None, bank: EmbeddingBank | None = None) -> TextQuery:
    """Understands a word prompt.

    Names, synonyms, Latin and abbreviations are looked up after evening out case, spelling and plurals; then mistyped
    words are corrected, with a warning. What is still unknown is an error, unless an encoder is given.

    Args:
        text: such as ``left kidney``, ``Ren sinister``, ``kidney_left``, ``L4/5 disc``, ``7th rib right``.
        encoder: embeds text outside the vocabulary, with a warning; it has to be the one that made the bank.
        bank: the embeddings; the shipped ones by default.

    Returns:
        The query. A plural of a paired structure without a side (``kidneys``) means both.

    Raises:
        ValueError: for text that names nothing known, listing the nearest terms, or several terms; for a side or a
            level that the structure does not have; for an encoder other than the bank's.

    Example:
        >>> left, right = encode_text("left kidney"), encode_text("kidney_right")
        >>> left.name, left.laterality, right.laterality, bool((left.embedding == right.embedding).all())
        ('left kidney', 1, 2, True)
    """
    bank = load_bank() if bank is None else bank
    if encoder is not None:
        bank.check_encoder(encoder.identity)
    index = load_index() if bank.vocabulary is load_index().vocabulary else TermIndex(bank.vocabulary)
    try:
        match = index.find(text)
    except UnknownTermError:
        if encoder is None:
            raise
        return _encode_freely(text, encoder, bank)
    return query_of(match, text, bank)


def query_of(match: TermMatch, text: str, bank: EmbeddingBank) -> TextQuery:
    """The query of a text that the vocabulary understood."""
    return TextQuery(
        term_id=match.term.id,
        name=match.name,
        embedding=bank.embedding(match.term.id),
        laterality=match.laterality,
        level=match.level,
        match_score=match.score,
        text=text,
    )


def _encode_freely(text: str, encoder: TextEncoder, bank: EmbeddingBank) -> TextQuery:
    laterality, rest = split_laterality(tokenise(text))
    if not rest:
        raise UnknownTermError(f"text {text!r}: expected the name of a structure, such as 'left kidney'")
    embedding = encoder.encode([" ".join(rest)])[0]
    nearest, cosine = bank.nearest(embedding)
    logger.warning(
        "text %r is not in the vocabulary; embedded as it is, nearest known term %r (%.2f)", text, nearest, cosine
    )
    name = " ".join(rest) if laterality == NONE else f"{LATERALITIES[laterality]} {' '.join(rest)}"
    return TextQuery("", name, embedding, laterality, 0, cosine, text)
