"""Models of a few thousand weights, for properties that do not depend on size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from promptseg.models import ModelConfig, PromptableModel

MakeModel = Callable[..., PromptableModel]


@pytest.fixture
def make_model() -> MakeModel:
    """Makes a model of tiles of 32 in evaluation mode, the same at each call; arguments are further fields."""

    def make(**fields: Any) -> PromptableModel:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"stem_channels": (8, 8, 8), "decoder_channels": (8, 8, 8), "embed_dim": 24}
        return PromptableModel(ModelConfig(**{"tile_size": 32, "depth": 1, "num_heads": 2, **sizes, **fields})).eval()

    return make
