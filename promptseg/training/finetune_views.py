"""Crops whose embeddings are kept, for fine-tunings that leave the encoder, or its convolutions, as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..models import ImageEmbedding
from .finetune_data import View


class ViewCache:
    """Crops and what the frozen part of the encoder makes of them; least recently used ones are dropped.

    Args:
        encode: the frozen part: images (1, 1, D, H, W) and spacings (1, 3) to an embedding.
        max_bytes: of the embeddings.
    """

    def __init__(self, encode: Callable[[Tensor, Tensor], ImageEmbedding], max_bytes: int) -> None:
        self.encode = encode
        self.max_bytes = max_bytes
        self.num_encoded = 0
        self._views: dict[Any, View] = {}
        self._embeddings: dict[int, tuple[View, ImageEmbedding]] = {}

    def view(self, key: Any, draw: Callable[[], View]) -> View:
        """The crop of a key, drawn when it is first asked for."""
        if key not in self._views:
            self._views[key] = draw()
        return self._views[key]

    @torch.no_grad()
    def embed(self, view: View, device: torch.device) -> ImageEmbedding:
        """The embedding of a crop, on a device."""
        entry = self._embeddings.pop(id(view), None)
        if entry is None:
            self.num_encoded += 1
            entry = (view, self.encode(view.image[None].to(device), view.spacing_mm[None].to(device)))
        self._embeddings[id(view)] = entry
        while len(self._embeddings) > 1 and sum(e.num_bytes for _, e in self._embeddings.values()) > self.max_bytes:
            oldest = next(iter(self._embeddings))
            dropped, _ = self._embeddings.pop(oldest)
            self._views = {k: v for k, v in self._views.items() if v is not dropped}
        return entry[1]


def hash_of(key: tuple[Any, ...]) -> int:
    """A number that depends on a key alone, and not on the process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")
