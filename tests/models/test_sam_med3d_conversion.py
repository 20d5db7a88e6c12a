"""SAM-Med3D's published checkpoints become folders that load: every value kept, or an error that leaves nothing."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from promptseg.models import PromptBatch
from promptseg.models.convert import convert_sam_med3d
from promptseg.models.sam_med3d import SamMed3DModel

from .tiny_sam_med3d import TINY


@pytest.fixture(scope="module")
def tiny() -> SamMed3DModel:
    torch.manual_seed(0)
    return SamMed3DModel(TINY).eval()


def published_checkpoint(path: Path, model: SamMed3DModel, prefix: str = "") -> Path:
    """A file as the published training script writes it."""
    state = {prefix + k: v for k, v in model.state_dict().items()}
    content = {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": torch.optim.AdamW(model.parameters()).state_dict(),
        "losses": [np.float64(0.5)],
        "best_loss": float("inf"),
        "args": argparse.Namespace(lr=8e-4, gpu_ids=[0, 1]),
    }
    torch.save(content, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_convert_keeps_every_value_and_loads_back(tmp_path: Path, tiny: SamMed3DModel, prefix: str) -> None:
    checkpoint = published_checkpoint(tmp_path / "sam.pth", tiny, prefix)
    folder = convert_sam_med3d(checkpoint, tmp_path / "new" / "sam", config=TINY)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["sam"]  # nothing temporary is left
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == tiny.state_dict().keys()
    loaded = SamMed3DModel.from_pretrained(folder)
    assert loaded.config == TINY and not loaded.training
    prompts = PromptBatch(torch.tensor([[[[3.0, 9, 20]]]]), torch.ones(1, 1, 1, dtype=torch.long))
    image = torch.randn(1, 1, 32, 32, 32)
    first, second = (m.decode(m.encode_image(image, torch.full((1, 3), 1.5)), prompts) for m in (loaded, tiny))
    assert torch.equal(first.mask_logits, second.mask_logits)


def test_convert_refuses_another_architecture_by_key_and_leaves_nothing(tmp_path: Path, tiny: SamMed3DModel) -> None:
    state = tiny.state_dict()
    state["image_encoder.pos_embed"] = torch.zeros(1, 2, 2, 2, 24)
    state["image_encoder.extra"] = state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError) as error:
        convert_sam_med3d(tmp_path / "other.pth", tmp_path / "out", config=TINY)
    for named in ("shape (1): image_encoder.pos_embed is (1, 2, 2, 2, 24)", "missing (1): mask_decoder.iou_token"):
        assert named in str(error.value)
    assert "unexpected (1): image_encoder.extra" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_convert_replaces_a_folder_only_if_allowed(tmp_path: Path, tiny: SamMed3DModel) -> None:
    checkpoint = published_checkpoint(tmp_path / "sam.pth", tiny)
    out = convert_sam_med3d(checkpoint, tmp_path / "out", config=TINY)
    (out / "README.md").write_text("of before")
    with pytest.raises(ValueError, match="there already"):
        convert_sam_med3d(checkpoint, out, config=TINY)
    assert (out / "README.md").read_text() == "of before"
    convert_sam_med3d(checkpoint, out, overwrite=True, config=TINY)
    assert (out / "README.md").read_text() != "of before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "sam.pth"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_convert_never_takes_other_files_with_the_folder(tmp_path: Path, tiny: SamMed3DModel, overwrite: bool) -> None:
    checkpoint = published_checkpoint(tmp_path / "sam.pth", tiny)
    with pytest.raises(ValueError, match=r"holds sam\.pth, which would be lost: choose another folder"):
        convert_sam_med3d(checkpoint, tmp_path, overwrite, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["sam.pth"]


def test_convert_on_a_full_disk_leaves_nothing(tmp_path: Path, tiny: SamMed3DModel) -> None:
    """The operating system refuses to write more than 64 KB, as a full disk would."""
    published_checkpoint(tmp_path / "sam.pth", tiny)
    code = (
        "import json, resource, signal, sys\n"
        "from promptseg.models.convert import convert_sam_med3d\n"
        "from promptseg.models.sam_med3d import SamMed3DConfig\n"
        "config = SamMed3DConfig.from_dict(json.loads(sys.argv[3]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: convert_sam_med3d(sys.argv[1], sys.argv[2], config=config)\n"
        "except OSError as error: print(error)\n"
    )
    paths = [str(tmp_path / "sam.pth"), str(tmp_path / "out")]
    arguments = [sys.executable, "-c", code, *paths, json.dumps(TINY.to_dict())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    assert f"cannot write {tmp_path / 'out'}" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["sam.pth"]


def test_a_folder_that_was_not_converted_says_how(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="promptseg convert"):
        SamMed3DModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        SamMed3DModel.from_pretrained(tmp_path)
