"""The embedding bank: the vocabulary's terms as vectors, so that words work offline and with no language model."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .encoder import EncoderIdentity
from .vocabulary import ASSETS, Vocabulary, load_vocabulary

BANK_FILE = ASSETS / "embedding_bank.safetensors"
BANK_FORMAT = "promptseg-embedding-bank-1"
_TENSORS = {"embeddings", "synonym_embeddings", "synonym_terms"}


@dataclass(frozen=True, eq=False)
class EmbeddingBank:
    """Embeddings of a vocabulary's terms and of some of their synonyms, all by one encoder.

    The embeddings are of the names without side and level: those are learned embeddings of the model's own, since a
    sentence encoder hardly tells left from right.

    Attributes:
        embeddings: (T, D) float32 of unit length, in the order of the vocabulary.
        synonym_embeddings: (S, D) float32 of unit length.
        synonym_terms: (S,) int, row of ``embeddings`` that each belongs to.
        encoder: which encoder made them.
        vocabulary: the terms.
    """

    embeddings: np.ndarray
    synonym_embeddings: np.ndarray
    synonym_terms: np.ndarray
    encoder: EncoderIdentity
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        rows = {term.id: row for row, term in enumerate(self.vocabulary)}
        object.__setattr__(self, "_rows", rows)
        for array in (self.embeddings, self.synonym_embeddings, self.synonym_terms):
            array.setflags(write=False)

    @property
    def width(self) -> int:
        """D, the length of an embedding."""
        return self.embeddings.shape[1]

    def embedding(self, term_id: str) -> np.ndarray:
        """Embedding (D,) float32 of a term; read-only.

        Raises:
            ValueError: for an id that is not in the vocabulary.
        """
        return self.embeddings[self._row(term_id)]

    def variants(self, term_id: str) -> np.ndarray:
        """Embeddings (V, D) of a term's name, first, and of its synonyms: for training that varies the words."""
        row = self._row(term_id)
        return np.concatenate([self.embeddings[row : row + 1], self.synonym_embeddings[self.synonym_terms == row]])

    def nearest(self, embedding: np.ndarray) -> tuple[str, float]:
        """Id of the term whose name or synonym is nearest to an embedding (D,), and the cosine."""
        cosines = np.concatenate([self.embeddings @ embedding, self.synonym_embeddings @ embedding])
        best = int(cosines.argmax())
        row = best if best < len(self.embeddings) else int(self.synonym_terms[best - len(self.embeddings)])
        return self.vocabulary.terms[row].id, float(cosines[best])

    def check_encoder(self, encoder: EncoderIdentity) -> None:
        """Refuses an encoder other than the bank's, told apart by the weights.

        Raises:
            ValueError: naming both.
        """
        if encoder.weights_sha256 != self.encoder.weights_sha256:
            raise ValueError(
                f"embedding bank made by {self.encoder}, but the text encoder is {encoder}: expected the same one, as "
                "their embeddings do not compare. Use that one, or make a bank with tools/make_embedding_bank.py "
                "(and train a model with it)"
            )

    def save(self, path: str | Path) -> None:
        """Writes the bank as float16 safetensors, whole or not at all."""
        from safetensors.numpy import save_file

        tensors = {
            "embeddings": self.embeddings.astype(np.float16),
            "synonym_embeddings": self.synonym_embeddings.astype(np.float16),
            "synonym_terms": self.synonym_terms.astype(np.int32),
        }
        metadata = {
            "format": BANK_FORMAT,
            "encoder_id": self.encoder.model_id,
            "encoder_revision": self.encoder.revision,
            "encoder_weights_sha256": self.encoder.weights_sha256,
            "vocabulary": self.vocabulary.fingerprint(),
        }
        partial = Path(f"{path}.{uuid.uuid4().hex}.partial")
        try:
            save_file(tensors, partial, metadata)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(
        cls, path: str | Path = BANK_FILE, vocabulary: Vocabulary | None = None, encoder: EncoderIdentity | None = None
    ) -> EmbeddingBank:
        """Reads a bank.

        Args:
            path: a safetensors file that :meth:`save` wrote.
            vocabulary: whose terms it has to hold; the shipped one by default.
            encoder: refuse a bank that another encoder made.

        Raises:
            ValueError: for a file that is no bank, a bank of another vocabulary or of another encoder.
        """
        from safetensors import SafetensorError, safe_open

        vocabulary = load_vocabulary() if vocabulary is None else vocabulary
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"embedding bank {path}: no safetensors file ({error}); make it with tools/make_embedding_bank.py"
            ) from error
        if metadata.get("format") != BANK_FORMAT or set(tensors) != _TENSORS:
            raise ValueError(
                f"embedding bank {path}: expected format {BANK_FORMAT!r}, got {metadata.get('format')!r}; make it again"
            )
        if metadata["vocabulary"] != vocabulary.fingerprint() or len(tensors["embeddings"]) != len(vocabulary):
            raise ValueError(
                f"embedding bank {path}: it holds {len(tensors['embeddings'])} terms of another vocabulary than this "
                f"of {len(vocabulary)}: expected the same names in the same order; run tools/make_embedding_bank.py"
            )
        bank = cls(
            embeddings=unit(tensors["embeddings"]),
            synonym_embeddings=unit(tensors["synonym_embeddings"]),
            synonym_terms=tensors["synonym_terms"].astype(np.int64),
            encoder=EncoderIdentity(
                metadata["encoder_id"], metadata["encoder_revision"], metadata["encoder_weights_sha256"]
            ),
            vocabulary=vocabulary,
        )
        if encoder is not None:
            bank.check_encoder(encoder)
        return bank

    def _row(self, term_id: str) -> int:
        self.vocabulary[term_id]
        return self._rows[term_id]  # pyright: ignore[reportAttributeAccessIssue]


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) as float32 of unit length."""
    embeddings = embeddings.astype(np.float32)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-9)


@lru_cache(maxsize=1)
def load_bank() -> EmbeddingBank:
    """The bank that ships with the package; read once."""
    return EmbeddingBank.load()
