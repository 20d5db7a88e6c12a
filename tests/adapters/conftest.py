"""A tiny model, and adapters of every method with random contents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from promptseg.adapters import Adapter, AdapterConfig, AdapterLabel
from promptseg.adapters.trainable import TrainableAdapter
from promptseg.models import DecoderOutput, ModelConfig, PromptableModel, PromptBatch

CONFIG = ModelConfig(
    name="random", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=2, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), num_levels=4, text_dim=6,
)  # fmt: skip
LABELS = (AdapterLabel(1, "head", 12.0), AdapterLabel(2, "tail", 9.0))
MakeAdapter = Callable[..., Adapter]


@pytest.fixture
def model() -> PromptableModel:
    """A tiny model with random weights."""
    torch.manual_seed(0)
    return PromptableModel(CONFIG).eval()


def random_adapter(model: PromptableModel, method: str = "lora", seed: int = 1, **fields: object) -> Adapter:
    """An adapter that was never trained but changes much."""
    torch.manual_seed(seed)
    values: dict[str, object] = {"labels": LABELS, "tokens_per_label": 2, "rank": 3, "alpha": 6.0, "tile_size": 32}
    config = AdapterConfig(method=method, base="random", **{**values, **fields})  # type: ignore[arg-type]
    trainable = TrainableAdapter(model, config)
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    adapter = trainable.export(f"{method}{seed}")
    trainable.remove()
    return adapter


@torch.no_grad()
def run(model: PromptableModel) -> DecoderOutput:
    """Output of a model for a fixed image and a click."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 1, 32, 32, 32, generator=generator) * 2 - 1
    click = PromptBatch(torch.tensor([[[[16.0, 15.0, 14.0]]]]), torch.ones(1, 1, 1, dtype=torch.long))
    return model(image, torch.ones(1, 3), click, multimask=True)


def difference(first: DecoderOutput, second: DecoderOutput) -> float:
    """Largest difference of two outputs."""
    pairs = (
        (first.mask_logits, second.mask_logits),
        (first.iou_logits, second.iou_logits),
        (first.presence_logits, second.presence_logits),
    )
    return max(float((a - b).abs().max()) for a, b in pairs)
