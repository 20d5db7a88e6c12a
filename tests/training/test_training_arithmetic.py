"""A step is as configured: gradients averaged and clipped, rates by layer, in the precision asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from promptseg.models import image_encoder
from promptseg.training.loop import Trainer, setup

MAE = {"decoder_dim": 24, "decoder_heads": 2, "decoder_depth": 1}


def _batches(trainer: Trainer, count: int = 1) -> list[dict[str, Tensor]]:
    stage = trainer.stage
    return [stage.prepare(stage.stream[number], 0, number) for number in range(count)]


def _gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def _norm(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([g.norm() for g in gradients.values()]).norm())


def test_the_gradient_of_a_step_is_the_mean_over_its_micro_batches(make_config):
    trainer = setup(make_config(accumulation=2, clip_norm=1e9))
    batches = _batches(trainer, 2)
    losses = []
    for index, batch in enumerate(batches):
        loss, _ = trainer.wrapped(batch, 0, index)
        loss.backward()
        losses.append(float(loss.detach()))
    sums = _gradients(trainer)
    measured = trainer.train_step(batches)
    found = _gradients(trainer)
    assert measured["loss"] == pytest.approx(sum(losses) / 2)
    assert measured["norm"] == pytest.approx(_norm(sums) / 2, rel=1e-4)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, sums[name] / 2, msg=name)


def test_weights_move_by_the_rate_of_the_step_and_of_their_layer(make_config):
    """The first step of AdamW moves a weight by its rate, whatever its gradient."""
    config = make_config(learning_rate=0.1, warmup_steps=5, decay_start=5, layer_decay=0.5, weight_decay=0.0)
    trainer = setup(config)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    measured = trainer.train_step(_batches(trainer))
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in trainer.model.named_parameters()}
    assert measured["lr"] == pytest.approx(0.02)
    for part, share in (("image_encoder.stem.", 0.25), ("image_encoder.blocks.0.", 0.5), ("mask_decoder.", 1.0)):
        largest = max(distance for name, distance in moved.items() if name.startswith(part))
        assert largest == pytest.approx(0.02 * share, rel=1e-3), part


def test_a_gradient_that_is_too_long_is_shortened(make_config):
    trainer = setup(make_config(clip_norm=1e-3))
    measured = trainer.train_step(_batches(trainer))
    assert measured["norm"] > 2e-3
    assert _norm(_gradients(trainer)) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("stage", ["prompted", "mae"])
def test_checkpointed_activations_give_the_same_gradients(make_config, monkeypatch, stage):
    model = make_config().model
    passes: list[Any] = []
    checkpoint = image_encoder.checkpoint

    def counted(block, *arguments, **options):
        passes.append(block)
        return checkpoint(block, *arguments, **options)

    monkeypatch.setattr(image_encoder, "checkpoint", counted)
    runs = []
    for is_checkpointed in (False, True):
        changes = {"tile_size": 32, "depth": 2, "activation_checkpointing": is_checkpointed}
        trainer = setup(make_config(stage=stage, mae=MAE, model=dataclasses.replace(model, **changes)))
        trainer.train_step(_batches(trainer))
        runs.append(_gradients(trainer))
        blocks = list(trainer.model.get_submodule("image_encoder.blocks"))
        assert passes == (blocks if is_checkpointed else [])
    assert runs[0].keys() == runs[1].keys()
    for name, gradient in runs[0].items():
        torch.testing.assert_close(runs[1][name], gradient, msg=name)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_step_is_computed_in_bfloat16_where_that_is_asked_for_and_fast(make_config, monkeypatch, bf16):
    monkeypatch.setattr("promptseg.training.training_state.preferred_dtype", lambda _: torch.bfloat16)
    crops = [{"first_step": 0, "crop_size": 32, "batch_size": 1}]  # smaller ones are never
    model = dataclasses.replace(make_config().model, tile_size=32)
    trainer = setup(make_config(bf16=bf16, stages=crops, model=model))
    found = []

    def record(*_):
        found.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)

    trainer.stage.module.register_forward_pre_hook(record)
    trainer.train_step(_batches(trainer))
    assert found == [torch.bfloat16 if bf16 else torch.float32]
