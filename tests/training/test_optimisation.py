"""Rates, decay and the moving average."""

from __future__ import annotations

import pytest
import torch

from promptseg.models import PromptableModel
from promptseg.training.optimisation import (
    WeightAverage,
    layer_scale,
    learning_rate,
    optimizer_tensors,
    parameter_groups,
)


def test_the_rate_rises_stays_and_falls_to_zero(make_config):
    config = make_config(max_steps=100, warmup_steps=10, decay_start=60, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:61] == [1.0] * 52
    assert rates[80] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in zip(rates[60:], rates[61:], strict=False))


def test_layers_nearer_to_the_image_learn_more_slowly():
    scales = [
        layer_scale(f"image_encoder.{part}.weight", 4, 0.5) for part in ("stem", "blocks.0.x", "blocks.3.x", "norm")
    ]
    assert scales == [0.5**5, 0.5**4, 0.5, 1.0]
    assert layer_scale("mask_decoder.blocks.0.x", 4, 0.5) == 1.0


def test_every_parameter_is_in_one_group_and_biases_and_embeddings_do_not_decay(make_config):
    config = make_config()
    model = PromptableModel(config.model)
    groups = parameter_groups(model, 0.1, 0.5, config.model.depth)
    members = [id(p) for g in groups for p in g["params"]]
    assert len(members) == len(set(members)) == len(list(model.parameters()))
    still = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert id(model.prompt_encoder.label_embedding.weight) in still
    assert id(model.image_encoder.norm.weight) in still
    assert id(model.image_encoder.patch_embed.weight) not in still


def test_the_average_forgets_its_start_and_swaps_back_and_forth():
    layer = torch.nn.Linear(2, 1)
    average = WeightAverage(layer, 0.9)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(5.0)
    average.update(0)  # decay 0.1 at first, whatever was asked for
    torch.testing.assert_close(average.tensors["weight"], 0.1 * start + 0.9 * 5.0)
    kept = average.tensors["weight"].clone()
    average.swap()
    assert torch.equal(layer.weight, kept) and (average.tensors["weight"] == 5).all()
    average.swap()
    assert torch.equal(average.tensors["weight"], kept) and (layer.weight == 5).all()


def test_moments_made_before_the_first_step_are_those_of_the_first_step():
    made, fresh = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    fresh.load_state_dict(made.state_dict())
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1, fused=True) for m in (made, fresh)]
    optimizer_tensors(made, optimizers[0])
    for model, optimizer in zip((made, fresh), optimizers, strict=True):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert torch.equal(made.weight, fresh.weight)


def test_a_weight_that_two_parts_share_is_exchanged_once():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 1)})
    model["b"] = model["a"]
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model["a"].weight.fill_(5.0)
    kept = {name: mean.clone() for name, mean in average.tensors.items()}
    average.swap()
    assert torch.equal(model["a"].weight, kept["a.weight"])
    average.swap()
    assert (model["a"].weight == 5).all()
    assert all(torch.equal(mean, kept[name]) for name, mean in average.tensors.items())
