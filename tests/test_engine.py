"""Prompts of an object in the voxels of its tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.canvas import Canvas
from promptseg.engine import TileEngine
from promptseg.models import ModelConfig, PromptableModel
from promptseg.prompts import PromptSet
from promptseg.tiles import TileKey

CONFIG = ModelConfig(
    tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2, decoder_depth=1,
    decoder_channels=(8, 8, 8),
)  # fmt: skip


@pytest.fixture
def engine() -> TileEngine:
    """An engine of random weights on a noisy cube of 64 voxels."""
    torch.manual_seed(0)
    image = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    predictor = Predictor(PromptableModel(CONFIG), dtype=torch.float32).set_image(image, spacing=(1, 1, 1))
    return predictor._require_engine()


def test_what_was_drawn_counts_less_on_tiles_that_show_a_point_on_the_object(engine: TileEngine) -> None:
    shown, included, excluded = TileKey(0, (0, 0, 0)), (10.0, 10.0, 10.0), (50.0, 50.0, 50.0)
    others = [tile for tile in engine.lattice.all_tiles(0) if min(tile.place) > 0]
    tiles = [shown, next(t for t in others if (engine.lattice.tile_low(t) >= 32).all())]
    canvas = Canvas.from_tiles(engine.lattice, tiles, torch.full((2, 32, 32, 32), 5.0))
    prompts = PromptSet(points=np.array([included, excluded]), labels=np.array([1, 0]))
    masks = engine.prompts_on_tiles(tiles, prompts, canvas, mask_weight=0.1).mask_logits
    assert masks is not None
    assert torch.allclose(masks[0], torch.tensor(0.5))
    assert torch.allclose(masks[1], torch.tensor(5.0)), "an excluding point does not tell what the object is"
    full = engine.prompts_on_tiles(tiles, prompts, canvas).mask_logits
    assert full is not None
    assert torch.allclose(full, torch.tensor(5.0))
