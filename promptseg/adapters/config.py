"""What an adapter is: its method, the weights it belongs to, and the labels it was tuned for."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ..field_values import build
from ..preprocessing import PreprocessingConfig

FORMAT = "promptseg-adapter-1"
LOW_RANK_METHODS = ("lora", "dora", "salt")
METHODS = (*LOW_RANK_METHODS, "decoder", "full")
SCOPES = ("all", "encoder", "decoder")


@dataclass(frozen=True)
class AdapterLabel:
    """A structure that an adapter was tuned for."""

    value: int
    """Value in label maps, 1 to 65535."""
    name: str
    """Name."""
    extent_mm: float
    """Typical largest side in the training cases, which tells the zoom level to draw it at."""

    def __post_init__(self) -> None:
        if not 1 <= self.value <= 65535:
            raise ValueError(f"label {self.name!r}: value {self.value}, expected 1 to 65535")
        if not self.extent_mm > 0:
            raise ValueError(f"label {self.name!r}: extent_mm={self.extent_mm}, expected more than 0")


@dataclass(frozen=True)
class AdapterConfig:
    """Describes an adapter; written into its folder.

    Raises:
        ValueError: if two fields contradict each other; both are named.
    """

    method: str = "lora"
    """``lora``, ``dora``, ``salt`` (low-rank changes), ``decoder`` or ``full`` (changed weights, whole)."""
    scope: str = "all"
    """Where low-rank changes go: the transformers of encoder and decoder (``all``), or of one of them."""
    rank: int = 8
    """Rank of low-rank changes; for ``salt`` also the number of leading singular values that are scaled and shifted."""
    alpha: float = 16.0
    """Strength of low-rank changes, which are scaled by ``alpha / rank``."""
    tunes_norms: bool = True
    """Whether low-rank methods also hold the scales and shifts of the normalisations beside them."""
    tunes_convolutions: bool = False
    """Whether low-rank methods also hold the decoder's convolutions, whole: they draw the border, and are small."""
    tunes_pyramid: bool = False
    """Whether low-rank methods also hold the convolutions that the encoder begins with, whole."""
    tunes_words: bool = False
    """Whether the word head is changed too, which says where learned tokens lie, as it does of words."""
    base: str = ""
    """Name, or Hub id, of the weights it changes."""
    base_revision: str = ""
    """Branch, tag or commit of a Hub id; empty for weights that ship or lie in a folder."""
    base_digest: str = ""
    """sha256 of the weights it changes."""
    tile_size: int = 64
    """Side of the tiles it was tuned on, in voxels."""
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    """Intensity preprocessing it was tuned with; that of its base."""
    labels: tuple[AdapterLabel, ...] = ()
    """What it was tuned for."""
    tokens_per_label: int = 0
    """Learned tokens that stand for a label's prompt; 0 for an adapter without automatic mode."""
    holds_changes: bool = False
    """Whether parameters are held as differences from the base's, ``change.NAME``; else as values, ``value.NAME``."""
    format: str = FORMAT
    """Format of the folder."""

    def __post_init__(self) -> None:
        labels = tuple(AdapterLabel(**v) if isinstance(v, dict) else v for v in self.labels)
        object.__setattr__(self, "labels", labels)
        if isinstance(self.preprocessing, dict):
            object.__setattr__(self, "preprocessing", PreprocessingConfig(**self.preprocessing))
        if self.format != FORMAT:
            raise ValueError(f"format={self.format!r}: this version of promptseg reads {FORMAT!r}; update promptseg")
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: expected one of {', '.join(METHODS)}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope={self.scope!r}: expected one of {', '.join(SCOPES)}")
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"rank={self.rank} and alpha={self.alpha}: expected a rank of 1 or more and alpha above 0")
        if self.tokens_per_label < 0:
            raise ValueError(f"tokens_per_label={self.tokens_per_label}: expected 0 or more")
        for what in ("value", "name"):
            given = [getattr(label, what) for label in labels]
            if len(set(given)) != len(given):
                raise ValueError(f"labels: {what}s {sorted(given)} are not all different")

    @property
    def is_low_rank(self) -> bool:
        """Whether it holds low-rank changes of linear layers."""
        return self.method in LOW_RANK_METHODS

    @property
    def whole_prefix(self) -> str:
        """Of the keys of parameters that are held whole."""
        return "change." if self.holds_changes else "value."

    @property
    def names(self) -> dict[int, str]:
        """Label value -> name."""
        return {label.value: label.name for label in self.labels}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> AdapterConfig:
        """Builds a configuration from plain values; entries of a folder that are not fields have been taken out.

        Raises:
            ValueError: for an unknown field, a wrong type or a contradiction.
        """
        return build(cls, values, source)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
