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


def test_overrides_replace_one_field_of_a_group_by_its_dotted_name():
    path = CONFIGS / "pretrain_tiny.yaml"
    before = PretrainConfig.from_file(path)
    changes = {"sampler.text_share": 0, "model.point_features": True, "validation.every": 7}
    recipe = PretrainConfig.from_file(path, **changes)
    assert recipe.sampler == dataclasses.replace(before.sampler, text_share=0.0)
    assert recipe.model == dataclasses.replace(before.model, point_features=True)
    assert recipe.validation.every == 7  # of a group that the file leaves out
    with pytest.raises(ValueError, match=r"max_steps\.x=1: max_steps is one value, not a group"):
        PretrainConfig.from_file(path, **{"max_steps.x": 1})
    with pytest.raises(ValueError, match=r"sampler\.text_shares"):
        PretrainConfig.from_file(path, **{"sampler.text_shares": 1})


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
        ({"seed": -1}, "seed=-1: expected 0 to"),
        ({"log_every": 0}, "log_every=0: expected 1 or more"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"max_nonfinite_steps": -1}, "max_nonfinite_steps=-1"),
        ({"ema_decay": 2}, "ema_decay=2.0: expected 0 to 1"),
        ({"clip_norm": 0}, "clip_norm=0.0: expected more than 0"),
        ({"data_weights": {"a": 0, "b": 0}}, "data_weights=.*at least one of them more than 0"),
        ({"data_weights": {"a": 1, "b": -1}}, "data_weights=.*numbers of 0 or more"),
        ({"round_probabilities": (1.5, -0.5)}, "round_probabilities=.*numbers of 0 or more"),
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch_size: four", "batch_size='four': expected an integer"),
        ("batch_size: 1.5", "batch_size=1.5: expected an integer"),
        ("batch_size: true", "batch_size=True: expected an integer"),
        ("learning_rate: .nan", "learning_rate=nan: expected a number"),
        ("bf16: maybe", "bf16='maybe': expected true or false"),
        ("out_dir:", "out_dir=None: expected a string"),
        ("stage: both", "stage='both': expected one of prompted, mae, words"),
        ("model: small", "model='small': expected fields with values"),
        ("model:", "model=None: expected fields with values"),
        ("model: {depth: deep}", "model.depth='deep': expected an integer"),
        ("model: {num_heads: 0}", "recipe.yaml: model: num_heads=0: expected 1 or more"),
        ("mae: {decoder_heads: 0}", "mae.decoder_heads=0: expected 1 or more"),
        ("model: {stem_depths: [1, 2]}", r"model.stem_depths=\[1, 2\]: expected a list of 3"),
        ("model: {width: 3}", "unknown field.* model.width in ModelConfig"),
        ("validation: 3", "validation=3: expected fields with values"),
        ("mae: 3", "mae=3: expected fields with values"),
        ("round_probabilities: 1.0", "round_probabilities=1.0: expected a list"),
        ("stages: [{first_step: 0, crop: 64}]", r"unknown field.* stages\[0\].crop in CropStage"),
        ("stages: [{first_step: 0}]", r"missing field.* stages\[0\].crop_size, stages\[0\].batch_size"),
        ("data_weights: [a]", "data_weights=.*: expected names with values"),
        ("data_weights: {a: much}", "data_weights.a='much': expected a number"),
        ("a: [1\nb: 2", "is not YAML"),
        ("[1, 2]", r"holds \[1, 2\]: expected fields"),
    ],
)
def test_a_value_that_is_not_what_its_field_expects_is_refused_by_file_name_and_value(tmp_path, line, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(line)
    with pytest.raises(ValueError, match=message) as refusal:
        PretrainConfig.from_file(path)
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path, message in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=message):
            PretrainConfig.from_file(path)


def test_numbers_that_yaml_reads_as_strings_are_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-3\nmax_steps: 2e4\ndata_weights: {a: 1}\nmodel: {mlp_ratio: 2}\n")
    recipe = PretrainConfig.from_file(path)
    assert (recipe.learning_rate, recipe.max_steps, recipe.data_weights) == (1e-3, 20000, {"a": 1.0})
    assert [type(v) for v in (recipe.max_steps, recipe.model.mlp_ratio)] == [int, float]
