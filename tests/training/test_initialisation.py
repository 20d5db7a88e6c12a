"""Runs start from each kind of first weights, and go on when those are gone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from promptseg.models import PromptableModel, TextTerm
from promptseg.training.initialisation import earlier_terms, initialise
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


def test_a_resumed_run_needs_no_first_weights_and_keeps_their_terms(make_config, tmp_path):
    lung = TextTerm("lung", 300.0, 2)
    model = make_config().model
    first = PromptableModel(dataclasses.replace(model, text_terms=(lung,), text_encoder="of the bank"))
    first.save_pretrained(tmp_path / "first")
    config = make_config(init_from=str(tmp_path / "first"), model=model)
    trainer = setup(config)
    described = trainer.stage.described
    assert lung in described.text_terms
    trainer.save()
    shutil.rmtree(tmp_path / "first")
    assert setup(config).stage.described == described
    with pytest.raises(ValueError, match="unknown checkpoint"):
        earlier_terms(config.init_from, tmp_path / "nothing exported")


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
