"""The masked autoencoder hides what it says, learns, and hands its encoder over unchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from promptseg.models import PromptableModel
from promptseg.safe_loading import read_tensors
from promptseg.training.loop import pretrain, setup
from promptseg.training.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedAutoencoderConfig,
    to_patches,
    to_voxels,
)

MAE = {"decoder_dim": 24, "decoder_heads": 2, "decoder_depth": 1}


def test_the_encoder_is_handed_over_weight_by_weight(make_config, tmp_path):
    model = dataclasses.replace(make_config().model, tile_size=32)  # eight tokens, of which some can be hidden
    changes = {"model": model, "max_steps": 2, "learning_rate": 1e-2}
    first = make_config(stage="mae", mae=MAE, out_dir=str(tmp_path / "mae"), **changes)
    pretrain(first)
    trained = read_tensors(Path(first.out_dir) / "weights" / "model.safetensors")
    second = make_config(
        out_dir=str(tmp_path / "prompted"), init_from=str(Path(first.out_dir) / "weights"), model=model
    )
    trainer = setup(second)
    encoder = trainer.model.get_submodule("image_encoder").state_dict()
    for name, tensor in encoder.items():
        assert torch.equal(tensor, trained[f"image_encoder.{name}"]), name
        assert torch.equal(trainer.average.tensors[f"image_encoder.{name}"], tensor), "averaged from the same start"
    torch.manual_seed(second.seed)
    fresh = PromptableModel(second.model).image_encoder.state_dict()
    assert not all(torch.equal(encoder[k], fresh[k]) for k in fresh)


def test_weights_that_do_not_fit_are_refused_before_the_data_are_read(make_config, tmp_path, monkeypatch):
    other = PromptableModel(dataclasses.replace(make_config().model, embed_dim=48))
    other.save_pretrained(tmp_path / "other")
    monkeypatch.setattr("promptseg.training.stages.read_pool", lambda _: pytest.fail("read the data first"))
    with pytest.raises(ValueError, match="does not fit"):
        setup(make_config(out_dir=str(tmp_path / "run"), init_from=str(tmp_path / "other")))


def test_hidden_voxels_do_not_reach_the_prediction(make_config):
    torch.manual_seed(0)
    config = make_config().model
    model = MaskedAutoencoder(PromptableModel(config).image_encoder, config, MaskedAutoencoderConfig(**MAE)).eval()
    image = torch.rand(1, 1, 32, 32, 32)
    visible = torch.tensor([[0, 3]])
    shown = to_voxels(torch.zeros(1, 8).scatter_(1, visible, 1.0), (2, 2, 2))
    other = torch.where(shown > 0, image, torch.rand_like(image))
    with torch.no_grad():
        found = [model._draw(i * shown, torch.ones(1, 3), visible) for i in (image, other)]
    assert torch.equal(*found)
    assert to_patches(image)[0, 3].reshape(16, 16, 16).equal(image[0, 0, :16, 16:, 16:])


def test_the_loss_is_of_hidden_tokens_alone(make_config, monkeypatch):
    config = make_config().model
    model = MaskedAutoencoder(PromptableModel(config).image_encoder, config, MaskedAutoencoderConfig(**MAE))
    drawn = torch.zeros(2, 8, 16**3, requires_grad=True)
    shown = torch.zeros(2, 8)

    def draw(image, spacing_mm, visible):
        shown.scatter_(1, visible, 1.0)
        return drawn

    monkeypatch.setattr(model, "_draw", draw)
    loss, _ = model({"image": torch.rand(2, 1, 32, 32, 32), "spacing_mm": torch.ones(2, 3)}, step=0)
    loss.backward()
    assert drawn.grad is not None and shown.sum() == 4
    assert torch.equal(drawn.grad.abs().sum(dim=-1) > 0, shown == 0)


def test_it_learns_to_draw_what_it_hid(make_config):
    torch.manual_seed(0)
    config = make_config().model
    model = MaskedAutoencoder(PromptableModel(config).image_encoder, config, MaskedAutoencoderConfig(**MAE))
    ramp = torch.linspace(-1, 1, 32)[:, None, None].expand(2, 1, 32, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(25):
        loss, _ = model({"image": ramp, "spacing_mm": torch.ones(2, 3)}, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_contradictions_are_refused_by_name(make_config):
    with pytest.raises(ValueError, match="mae.mask_share=1"):
        MaskedAutoencoderConfig(mask_share=1)
    with pytest.raises(ValueError, match=r"decoder_dim=10 .*decoder_heads=4"):
        MaskedAutoencoderConfig(decoder_dim=10, decoder_heads=4)
    with pytest.raises(ValueError, match=r"stage='mae' and validation.every=5"):
        make_config(stage="mae", validation={"every": 5})
