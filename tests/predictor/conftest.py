"""A predictor with random weights, images for it, and what its answers have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.models import ModelConfig, PromptableModel
from promptseg.prediction import Prediction

CONFIG = ModelConfig(
    name="random", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), num_levels=4, text_dim=6,
)  # fmt: skip


def make_predictor(seed: int = 0, **options: Any) -> Predictor:
    """Random weights; they draw something around each click."""
    torch.manual_seed(seed)
    return Predictor(PromptableModel(CONFIG), **{"dtype": torch.float32, "device": "cpu", **options})


def make_image(shape: tuple[int, ...] = (50, 44, 40), seed: int = 0) -> np.ndarray:
    """Noise with a bright block."""
    image = np.random.default_rng(seed).normal(100, 10, shape)
    image[tuple(slice(n // 4, n // 2 + 1) for n in shape)] += 100
    return image.astype(np.int16)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """One for all tests that set their own image."""
    return make_predictor()


@pytest.fixture
def ready(predictor: Predictor) -> Predictor:
    """With an image of several tiles and levels."""
    return predictor.set_image(make_image(), spacing=(1.0, 1.2, 1.5))


def differs_in(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    places = np.argwhere(first != second)
    return (places.min(axis=0), places.max(axis=0) + 1) if len(places) else None


def assert_changed_box_holds(before: np.ndarray, result: Prediction) -> None:
    changed = differs_in(before, result.mask)
    low, high = (np.array(end) for end in result.changed_box)
    assert (low >= 0).all()
    assert (high <= before.shape).all()
    if changed is not None:
        assert (low <= changed[0]).all()
        assert (high >= changed[1]).all()
