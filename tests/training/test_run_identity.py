"""A run goes on as itself or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from promptseg.training.loop import pretrain, setup


@pytest.fixture
def stopped(make_config):
    """The configuration of a run that has done a step."""
    config = make_config(max_steps=1, decay_start=1, model=_model(depth=2))
    pretrain(config)
    return config


def _model(**changes):
    from promptseg.models.config import ModelConfig

    from .conftest import TINY_MODEL

    return ModelConfig(**{**TINY_MODEL, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"depth": 1}}, "model.depth=1, not 2"),
        ({"model": {"num_heads": 4}}, "model.num_heads=4, not 2"),
        ({"seed": 3}, "seed=3, not 0"),
        ({"stage": "mae"}, "stage='mae', not 'prompted'"),
        ({"data_weights": {"balls": 1.0, "more": 1.0}}, "data_weights="),
        ({"sampler": {"augmentation": 0.5}}, "sampler.augmentation=0.5, not 1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_of_another_configuration_is_refused_by_its_fields_and_left_as_it_was(stopped, changes, message):
    changes = {
        name: dataclasses.replace(getattr(stopped, name), **value) if name in ("model", "sampler") else value
        for name, value in changes.items()
    }
    out_dir = Path(stopped.out_dir)
    before = {p: p.stat().st_mtime_ns for p in out_dir.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=f"{message}.*choose another --out-dir"):
        setup(dataclasses.replace(stopped, **changes))
    assert {p: p.stat().st_mtime_ns for p in out_dir.rglob("*") if p.is_file()} == before


def test_length_rates_batches_and_memory_may_change(stopped):
    model = dataclasses.replace(stopped.model, activation_checkpointing=True, name="other")
    changed = dataclasses.replace(
        stopped, model=model, max_steps=2, learning_rate=1e-4, accumulation=2, log_every=1, num_workers=1
    )
    assert setup(changed).step == 1


def test_a_checkpoint_of_an_earlier_version_that_does_not_say_still_loads(stopped):
    path = Path(stopped.out_dir) / "checkpoints" / "step-00000001" / "progress.json"
    progress = json.loads(path.read_text())
    del progress["run"]
    path.write_text(json.dumps(progress))
    assert setup(stopped).step == 1
