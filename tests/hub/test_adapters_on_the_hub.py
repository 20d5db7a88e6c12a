"""Adapters travel to the Hub and back, and name the weights they belong to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.adapters import Adapter, AdapterConfig, AdapterLabel
from promptseg.adapters.trainable import TrainableAdapter
from promptseg.models import PromptableModel

from .conftest import FakeHub

BASE, MINE = "someone/base", "someone/mine"


def make_adapter(model: PromptableModel, digest: str) -> Adapter:
    config = AdapterConfig(
        method="salt", rank=2, base=BASE, base_digest=digest, tile_size=32, labels=(AdapterLabel(1, "liver", 9.0),)
    )
    trainable = TrainableAdapter(model, config)
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.add_(0.1)
    adapter = trainable.export("mine")
    trainable.remove()
    return adapter


def test_base_and_adapter_come_from_the_hub(hub: FakeHub, model: PromptableModel) -> None:
    commit = model.push_to_hub(BASE)
    base = PromptableModel.from_pretrained(BASE)
    adapter = make_adapter(base, base.weights_digest or "")
    first = adapter.push_to_hub(MINE)
    assert set(hub.repositories[MINE].commits[first]) == {"README.md", "adapter.safetensors", "adapter_config.json"}
    assert b"base_model: someone/base" in hub.repositories[MINE].commits[first]["README.md"]
    predictor = Predictor.from_pretrained(BASE, revision=commit, adapter=MINE, dtype=torch.float32)
    assert list(predictor.adapters.strengths) == ["mine"]
    assert predictor.adapters.adapters["mine"].digest == adapter.digest
    image = np.random.default_rng(0).normal(0, 1, (16, 16, 16)).astype(np.float32)
    predictor.set_image(image, spacing=(1, 1, 1)).predict(points=[(8, 8, 8)])


def test_an_adapter_is_pinned_by_its_commit(hub: FakeHub, model: PromptableModel) -> None:
    adapter = make_adapter(model, "")
    first = adapter.push_to_hub(MINE)
    changed = Adapter(adapter.config, {k: v + 1 for k, v in adapter.tensors.items()})
    changed.push_to_hub(MINE)
    assert Adapter.from_pretrained(MINE, revision=first).digest == adapter.digest
    assert Adapter.from_pretrained(MINE).digest == changed.digest != adapter.digest


def test_weights_are_no_adapter_and_an_adapter_no_weights(hub: FakeHub, model: PromptableModel) -> None:
    model.push_to_hub(BASE)
    make_adapter(model, "").push_to_hub(MINE)
    with pytest.raises(ValueError, match="no adapter_config.json"):
        Adapter.from_pretrained(BASE)
    with pytest.raises(ValueError, match=r"no config\.json"):
        PromptableModel.from_pretrained(MINE)
