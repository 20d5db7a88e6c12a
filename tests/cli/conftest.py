"""A tiny model with random weights, small images, and a way to run the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from promptseg.cli import main
from promptseg.models import ModelConfig, PromptableModel
from promptseg.models.pretrained import save_pretrained

CONFIG = ModelConfig(
    name="random", tile_size=32, stem_channels=(8, 16, 16), stem_depths=(1, 1, 1), embed_dim=24, depth=2, num_heads=2,
    decoder_channels=(8, 16, 16), num_levels=4, text_dim=6,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("promptseg: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``promptseg`` with words, in this process."""

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(w) for w in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with random weights."""
    torch.manual_seed(0)
    return save_pretrained(PromptableModel(CONFIG), tmp_path_factory.mktemp("weights") / "random")


def save_image(path: Path, affine: np.ndarray, shape: tuple[int, ...] = (24, 20, 12)) -> Path:
    """Writes a noisy image with a bright block."""
    image = np.random.default_rng(0).normal(100, 10, shape)
    image[tuple(slice(n // 4, n // 2) for n in shape)] += 100
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An oblique LPS-like image with anisotropic voxels."""
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, -1.5, 3.0])
    affine[:3, 3] = [40.5, -12.25, 300.0]
    return save_image(tmp_path / "image.nii.gz", affine)
