"""Small volumes, random weights, and options for fine-tunings that tests run."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from promptseg.models import ModelConfig, PromptableModel
from promptseg.models.pretrained import save_pretrained
from promptseg.training.finetune_config import FinetuneConfig

MODEL = ModelConfig(
    name="random", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), num_levels=4, text_dim=6, word_hints=True,
)  # fmt: skip


def draw_cases(root: Path) -> Path:
    """Four volumes with a bright and a very bright block each."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        labels = np.zeros((24, 22, 20), dtype=np.uint8)
        i, j, k = rng.integers(2, 6, 3)
        labels[i : i + 8, j : j + 7, k : k + 8] = 1
        labels[i + 8 : i + 14, j : j + 9, k : k + 6] = 2
        image = (rng.normal(50, 5, labels.shape) + 60 * labels).astype(np.float32)
        for kind, array in (("images", image), ("labels", labels)):
            (root / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1.0, 1.0, 1.0])), root / kind / f"{name}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "head": 1, "tail": 2}}))
    return root


def save_base(folder: Path) -> Path:
    """Random weights."""
    torch.manual_seed(0)
    return save_pretrained(PromptableModel(MODEL), folder)


def options(data: Path, base: Path, output: Path, **fields: object) -> FinetuneConfig:
    values: dict[str, object] = {
        "model": str(base),
        "images": str(data / "images"),
        "labels": str(data / "labels"),
        "output": str(output),
        "method": "decoder",
        "max_steps": 4,
        "batch_size": 2,
        "validate_every": 2,
        "report_cases": 0,
        "probe": False,
        "device": "cpu",
    }
    return FinetuneConfig(**{**values, **fields})  # type: ignore[arg-type]
