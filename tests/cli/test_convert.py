"""``promptseg convert``: a folder that the other commands take, or one line on why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from promptseg import Predictor
from promptseg.models.convert import convert_sam_med3d
from promptseg.models.sam_med3d import SamMed3DConfig, SamMed3DModel
from promptseg.models.sam_med3d.predictor import SamMed3DPredictor

from .conftest import Run

SMALL = SamMed3DConfig(
    tile_size=64, embed_dim=24, depth=2, num_heads=2, global_blocks=(1,), prompt_dim=48, decoder_heads=2,
    decoder_mlp_dim=32, iou_hidden_dim=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted random weights of a small network of that architecture."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("convert")
    torch.save({"model_state_dict": SamMed3DModel(SMALL).state_dict()}, root / "small.pth")
    return convert_sam_med3d(root / "small.pth", root / "sam-med3d", config=SMALL)


def test_converted_weights_run_in_the_predictor_and_on_the_command_line(
    run: Run, folder: Path, image: Path, tmp_path: Path
) -> None:
    predictor = Predictor.from_pretrained(folder)
    assert isinstance(predictor, SamMed3DPredictor)
    out = tmp_path / "mask.nii.gz"
    outcome = run("segment", image, "--model", folder, "--point", "8,7,4", "-o", out)
    assert outcome.code == 0, outcome.err
    assert out.is_file()
    predictor.set_image(image)
    tiles = len(predictor.lattice.all_tiles(0))
    assert predictor.precompute(progress=False) == tiles


def test_they_take_no_adapters(folder: Path) -> None:
    with pytest.raises(ValueError, match="take none"):
        Predictor.from_pretrained(folder, adapter="mine")
    with pytest.raises(ValueError, match="take no adapters"):
        Predictor.from_pretrained(folder).load_adapter("mine")


class RunsCode:
    """Unpickled the ordinary way, this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused(run: Run, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    torch.save({"model_state_dict": {"w": torch.zeros(1)}, "extra": RunsCode(marker)}, path)
    outcome = run("convert", "sam-med3d", path, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "Nothing was executed" in outcome.error
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_converted_is_one_line(run: Run, tmp_path: Path) -> None:
    for kind in ("sam-med3d", "vista3d"):
        outcome = run("convert", kind, tmp_path / "none.pth", "-o", tmp_path / "out")
        assert outcome.code == 2
        assert "no such file" in outcome.error
    outcome = run("convert", "segvol", tmp_path / "none.pth", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "sam-med3d" in outcome.error
