"""Runs start from each kind of first weights, and go on when those are gone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from promptseg.models import PromptableModel, TextTerm
from promptseg.models.atlas import AtlasConfig
from promptseg.training.initialisation import inherit, initialise
from promptseg.training.loop import setup

WIDTH, HEADS = 24, 2
"""Of the tiny model's encoder."""


def _sam_file(folder: Path) -> Path:
    """One random block in Segment Anything's published layout."""
    sizes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    sizes |= {"mlp.lin1": (4 * WIDTH, WIDTH), "mlp.lin2": (WIDTH, 4 * WIDTH)}
    shapes = {f"{layer}.weight": size for layer, size in sizes.items()}
    shapes |= {f"{layer}.bias": size[:1] for layer, size in sizes.items()}
    shapes |= {f"{norm}.{kind}": (WIDTH,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    shapes["attn.rel_pos_h"] = (7, WIDTH // HEADS)
    path = folder / "sam.pth"
    torch.save({f"image_encoder.blocks.0.{name}": torch.randn(shape) for name, shape in shapes.items()}, path)
    return path


def test_a_run_that_starts_from_a_sam_file_takes_a_step_and_resumes(make_config, tmp_path):
    path = _sam_file(tmp_path)
    taken = torch.load(path, weights_only=True)["image_encoder.blocks.0.mlp.lin1.weight"]
    config = make_config(init_from=f"sam2d:{path}")
    trainer = setup(config)
    assert torch.equal(trainer.model.get_parameter("image_encoder.blocks.0.mlp.fc1.weight"), taken)
    trainer.train_step(next(trainer._steps()))
    trainer.save()
    path.unlink()
    assert setup(config).step == 1


def test_a_resumed_run_needs_no_first_weights_and_keeps_their_terms_and_atlas(make_config, tmp_path):
    lung, atlas = TextTerm("lung", 300.0, 2), AtlasConfig("chests", ("lung",), (3, 2, 2), (0.0, 0.0, 0.0), 8.0)
    model = make_config().model
    described = dataclasses.replace(model, text_terms=(lung,), text_encoder="of the bank", atlases=(atlas,))
    first = PromptableModel(described)
    shares = first.get_buffer("atlases.0.shares").random_(0, 255).clone()
    first.save_pretrained(tmp_path / "first")
    config = make_config(init_from=str(tmp_path / "first"), model=model)
    trainer = setup(config)
    described = trainer.stage.described
    assert lung in described.text_terms and described.atlases == (atlas,)
    trainer.save()
    shutil.rmtree(tmp_path / "first")
    resumed = setup(config)
    assert resumed.stage.described == described
    resumed.save()
    written = PromptableModel.from_pretrained(Path(config.out_dir) / "weights").get_buffer("atlases.0.shares")
    assert written.dtype == torch.uint8 and torch.equal(written, shares)
    with pytest.raises(ValueError, match="unknown checkpoint"):
        inherit(config.init_from, tmp_path / "nothing exported")


@pytest.mark.parametrize("layers", [("follow_edges", "walk_from_clicks"), ("follow_edges",), ()])
def test_weights_are_written_with_layers_that_the_run_is_not_trained_through(make_config, layers):
    assert make_config().untrained_layers == ("follow_edges", "walk_from_clicks")
    trainer = setup(make_config(untrained_layers=layers))
    decoder = trainer.model.get_submodule("mask_decoder")
    assert not decoder.follows_edges and not decoder.walks_from_clicks
    trainer.save()
    written = PromptableModel.from_pretrained(Path(trainer.config.out_dir) / "weights").config
    assert [written.follow_edges, written.walk_from_clicks] == ["follow_edges" in layers, "walk_from_clicks" in layers]


def test_weights_of_timm_that_cannot_be_had_are_an_error_that_says_what_to_do(make_config, monkeypatch):
    timm, errors = pytest.importorskip("timm"), pytest.importorskip("huggingface_hub.errors")
    model = PromptableModel(make_config().model)
    with pytest.raises(ValueError, match=r"timm:vit_nano.*no such pretrained model.*timm:vit_base_patch16_224"):
        initialise(model, "timm:vit_nano", "prompted")

    def create_model(*_, **__):
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match=r"timm:vit_tiny_patch16_224.*no connection.*huggingface\.co.*HF_HOME"):
        initialise(model, "timm:vit_tiny_patch16_224", "prompted")
