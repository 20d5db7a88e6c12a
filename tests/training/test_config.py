"""Recipes that ship are read, agree with the sizes that ship, and contradictions are refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from promptseg.models.config import ModelConfig
from promptseg.models.pretrained import read_config
from promptseg.training.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, SHIPPED = ROOT / "configs", ROOT / "checkpoints" / "promptseg-tiny"
RECIPES = (*sorted(SHIPPED.glob("*.yaml")), CONFIGS / "pretrain_tiny_gpu.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_that_made_weights_that_ship_trains_their_model(path):
    recipe = PretrainConfig.from_file(path)
    shipped = read_config(SHIPPED)
    sizes = ("tile_size", "stem_channels", "embed_dim", "depth", "decoder_channels", "word_hints", "word_sides")
    assert [getattr(recipe.model, name) for name in sizes] == [getattr(shipped, name) for name in sizes]
    assert not Path(recipe.data_root).is_absolute() and not Path(recipe.init_from).is_absolute()


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_a_recipe_trains_the_model_of_its_name(size):
    recipe = PretrainConfig.from_file(CONFIGS / f"pretrain_{size}.yaml")
    model = ModelConfig.from_file(CONFIGS / f"promptseg-{size}.yaml")
    assert dataclasses.replace(recipe.model, activation_checkpointing=False) == model
    assert recipe.crops_at(recipe.max_steps)[0] == model.tile_size


def test_overrides_replace_fields_and_none_leaves_them():
    recipe = PretrainConfig.from_file(CONFIGS / "pretrain_tiny.yaml", max_steps=5000, data_root=None, num_workers=3)
    assert (recipe.max_steps, recipe.data_root, recipe.num_workers) == (5000, "data", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": "tensor"}, "parallel='tensor'"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"minutes": -1.0}, "minutes=-1.0"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"optimizer": "muon", "parallel": "fsdp"}, "optimizer='muon' with parallel='fsdp'"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"train_words": False, "stage": "mae"}, "train_words=False with stage='mae': expected the stage prompted"),
        ({"train_encoder": False}, "train_encoder=False with stage=.prompted. and init_from=..: expected"),
        ({"warmup_steps": 9, "decay_start": 3}, "warmup_steps=9, decay_start=3"),
        ({"round_probabilities": (0.5, 0.6)}, "round_probabilities"),
        ({"validation": {"every": -1}}, "validation.every=-1"),
        ({"stages": [{"first_step": 1, "crop_size": 16, "batch_size": 1}]}, "stages start at"),
    ],
)
def test_a_contradiction_is_refused_by_name(make_config, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rates: 1")
    with pytest.raises(ValueError, match="learning_rates"):
        PretrainConfig.from_file(path)
