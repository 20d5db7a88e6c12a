"""Crops whose embeddings are kept, for fine-tunings that leave the encoder as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ..models import ImageEmbedding, PromptableModel
from .finetune_data import View


class ViewCache:
    """Crops and their embeddings, where the encoder is frozen; least recently used ones are dropped.

    Args:
        max_bytes: of the embeddings.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_encoded = 0
        self._views: dict[Any, View] = {}
        self._embeddings: dict[int, tuple[View, ImageEmbedding]] = {}

    def view(self, key: Any, draw: Callable[[], View]) -> View:
        """The crop of a key, drawn when it is first asked for."""
        if key not in self._views:
            self._views[key] = draw()
        return self._views[key]

    def embed(self, model: PromptableModel, view: View) -> ImageEmbedding:
        """The embedding of a crop."""
        entry = self._embeddings.pop(id(view), None)
        if entry is None:
            self.num_encoded += 1
            encoded = model.encode_image(view.image[None].to(model.device), view.spacing_mm[None].to(model.device))
            entry = (view, encoded)
        self._embeddings[id(view)] = entry
        while len(self._embeddings) > 1 and sum(e.num_bytes for _, e in self._embeddings.values()) > self.max_bytes:
            oldest = next(iter(self._embeddings))
            dropped, _ = self._embeddings.pop(oldest)
            self._views = {k: v for k, v in self._views.items() if v is not dropped}
        return entry[1]


def hash_of(key: tuple[Any, ...]) -> int:
    """A number that depends on a key alone, and not on the process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")
