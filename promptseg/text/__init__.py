"""Words as prompts: a vocabulary of structures, how a text finds its term, and the terms' embeddings.

    query = promptseg.text.encode_text("left kidney")    # offline, no language model
    query.embedding, query.laterality, query.level       # what the prompt encoder takes

Nothing here imports torch, except an encoder for text outside the vocabulary when one is loaded.
"""

from __future__ import annotations

from .embedding_bank import EmbeddingBank, load_bank
from .encoder import EncoderIdentity, TextEncoder, TransformersEncoder
from .laterality import LATERALITIES
from .levels import LEVELS
from .lookup import AmbiguousTermError, TermIndex, TermMatch, UnknownTermError, load_index
from .query import TextQuery, encode_text
from .vocabulary import Vocabulary, VocabularyTerm, load_vocabulary

__all__ = [
    "LATERALITIES",
    "LEVELS",
    "AmbiguousTermError",
    "EmbeddingBank",
    "EncoderIdentity",
    "TermIndex",
    "TermMatch",
    "TextEncoder",
    "TextQuery",
    "TransformersEncoder",
    "UnknownTermError",
    "Vocabulary",
    "VocabularyTerm",
    "encode_text",
    "load_bank",
    "load_index",
    "load_vocabulary",
]
