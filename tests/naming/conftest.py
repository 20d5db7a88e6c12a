"""A model with random weights whose decoder knows what words mean: it draws the intensities that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.models import DecoderOutput, EncodedPrompts, ImageEmbedding, ModelConfig, PromptableModel, TextTerm
from promptseg.structures import text_tokens, trained_structures
from promptseg.text import load_bank

TERMS = (
    TextTerm("left kidney", 12.0, 3),
    TextTerm("right kidney", 12.0, 3),
    TextTerm("liver", 40.0, 5),
    TextTerm("spleen", 12.0, 2),
    TextTerm("liver tumor", 8.0, 1),
)
SHADES = {
    "left kidney": (1.0,),
    "right kidney": (2.0,),
    "liver": (3.0, 5.0),
    "spleen": (4.0,),
    "liver tumor": (5.0,),
}
"""Intensities that a word stands for."""
SHAPE = (40, 70, 30)
CONFIG = ModelConfig(
    name="named", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), text_terms=TERMS, text_encoder=load_bank().encoder.weights_sha256,
)  # fmt: skip


def wanted() -> np.ndarray:
    """Label map whose values are the shades: two kidneys and a liver with a tumour, no spleen."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[5:14, 52:60, 8:14] = 1
    labels[26:35, 52:60, 8:14] = 2
    labels[12:36, 6:38, 8:26] = 3
    labels[16:22, 12:18, 12:18] = 5
    return labels


def truth_of(name: str) -> np.ndarray:
    """Where a structure is: bool."""
    return np.isin(wanted(), SHADES[name])


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks."""
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


@dataclass
class Oracle:
    """Stands in for a mask decoder.

    Attributes:
        words: name -> token.
        passes: (tiles, objects) of every pass.
        spoken: names seen in every pass, in the order of its objects; empty for an object without one.
        has_mask: whether the objects of every pass had a mask prompt.
        spacings: mm of the tiles of every pass.
    """

    words: dict[str, torch.Tensor]
    passes: list[tuple[int, int]] = field(default_factory=list)
    spoken: list[list[str]] = field(default_factory=list)
    has_mask: list[bool] = field(default_factory=list)
    spacings: list[float] = field(default_factory=list)

    def forget(self) -> None:
        """Empties the record."""
        for record in (self.passes, self.spoken, self.has_mask, self.spacings):
            record.clear()

    def __call__(
        self, *, image_embedding: ImageEmbedding, prompts: EncodedPrompts, multimask: bool = False, **_: Any
    ) -> DecoderOutput:
        """Draws the shades of each object's word, else what clicks and mask say; a click adds and takes its ball."""
        image = image_embedding.image[:, 0]
        batch, objects = prompts.sparse_prompts.shape[:2]
        names = [self._name(prompts, n) for n in range(objects)]
        self.passes.append((batch, objects))
        self.spoken.append(names)
        self.has_mask.append(bool((prompts.dense_prompts[:, :, 3] != 0).any()))
        self.spacings.append(float(image_embedding.spacing_mm[0, 0]))
        include, exclude, _, before = prompts.dense_prompts.float().unbind(dim=2)
        drawn = before > 0
        for number, name in enumerate(names):
            if name:
                shades = torch.tensor([shade_of(s) for s in SHADES[name]])
                drawn[:, number] = ((image[..., None] - shades).abs() < 0.06).any(dim=-1)
        drawn = (drawn | (include > 0.5)) & ~(exclude > 0.5)
        logits = drawn.float()[:, :, None] * 10 - 5
        if multimask:
            logits = logits.expand(-1, -1, 4, -1, -1, -1)
        is_there = drawn.flatten(2).sum(dim=2) >= 2
        return DecoderOutput(logits, torch.full(logits.shape[:3], 2.0), is_there.float() * 8 - 4)

    def _name(self, prompts: EncodedPrompts, number: int) -> str:
        tokens = prompts.sparse_prompts[0, number][prompts.sparse_is_present[0, number]]
        for name, word in self.words.items():
            if len(tokens) and bool((tokens - word).abs().amax(dim=1).min() < 1e-5):
                return name
        return ""


def shade_of(value: float) -> float:
    """Preprocessed intensity of a shade; the image has all of them, evenly spread."""
    return -1 + 2 * value / 6


MakePredictor = Callable[..., tuple[Predictor, Oracle]]


@pytest.fixture
def make_predictor(monkeypatch: pytest.MonkeyPatch) -> MakePredictor:
    """Makes a predictor with its image set, and the oracle inside."""

    def make(config: ModelConfig = CONFIG, image: np.ndarray | None = None) -> tuple[Predictor, Oracle]:
        torch.manual_seed(0)
        model = PromptableModel(config).eval()
        with torch.no_grad():
            model.prompt_encoder.text_proj.weight.mul_(20)
        predictor = Predictor(model, dtype=torch.float32, device="cpu")
        structures = trained_structures(TERMS)
        words = {s.name: t[0] for s, t in zip(structures, text_tokens(model, structures), strict=True)}
        oracle = Oracle(words)
        monkeypatch.setattr(model.mask_decoder, "forward", oracle)
        affine = np.diag([-1.0, -1.0, 2.0, 1.0])  # LPS: the canonical volume is flipped
        affine[:3, 3] = [30, 40, -20]
        predictor.set_image((wanted() if image is None else image).astype(np.float32), affine=affine)
        engine = predictor._require_engine()
        mapping = lambda array: torch.from_numpy(np.asarray(array, dtype=np.float32)) / 3 - 1  # noqa: E731
        monkeypatch.setattr(engine, "mapping", type("Linear", (), {"map_array": staticmethod(mapping)})())
        return predictor, oracle

    return make


@pytest.fixture
def named(make_predictor: MakePredictor) -> tuple[Predictor, Oracle]:
    """A predictor with its image set, and the oracle inside."""
    return make_predictor()
