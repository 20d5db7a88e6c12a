"""``promptseg info``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from promptseg import demo

from .conftest import CONFIG, Run, save_image


def test_of_the_demo_volume(run: Run, weights: Path) -> None:
    outcome = run("info", demo.IMAGE, "--model", weights)
    assert outcome.code == 0, outcome.err
    assert "122 x 101 x 112 voxels" in outcome.out
    assert "3 x 3 x 3 mm" in outcome.out
    assert "RAS (i to right, j to anterior, k to superior)" in outcome.out
    assert "int16, -1207 to 3382" in outcome.out
    assert "CT (a guess: " in outcome.out
    assert f"tiles of {CONFIG.tile_size}^3 voxels" in outcome.out
    assert "level 0: 3 mm, " in outcome.out
    assert outcome.out.rstrip().endswith("one tile")


def test_json_of_an_oblique_image(run: Run, weights: Path, image: Path) -> None:
    facts = json.loads(run("info", image, "--json", "--model", weights).out)
    assert facts["shape"] == [24, 20, 12]
    assert facts["spacing_mm"] == pytest.approx([1.5, 1.5, 3.0])
    assert facts["orientation"] == "LPS"
    assert facts["is_oblique"] is True
    assert facts["minimum"] < facts["percentiles"]["1"] < facts["percentiles"]["50"] < facts["maximum"]
    assert facts["tile_levels"][-1]["tiles"] == [1, 1, 1]


def test_nonfinite_voxels_are_counted(run: Run, weights: Path, tmp_path: Path) -> None:
    import nibabel as nib

    path = save_image(tmp_path / "image.nii", np.eye(4))
    voxels = np.asarray(nib.load(path).dataobj).copy()  # type: ignore[attr-defined]
    voxels[0, 0, :3] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    outcome = run("info", path, "--model", weights)
    assert "3 NaN or infinite voxels" in outcome.out
    assert outcome.err.startswith("promptseg: warning: ")
    assert "3" in outcome.err


def test_bad_input(run: Run, tmp_path: Path) -> None:
    outcome = run("info", tmp_path / "nowhere.nii")
    assert outcome.code == 2
    assert "nowhere.nii" in outcome.error


def test_an_unknown_orientation_is_no_fact(run: Run, weights: Path, tmp_path: Path) -> None:
    import nibabel as nib

    path = save_image(tmp_path / "image.nii", np.eye(4))
    for codes, line in (((0, 0), "unknown (assumed LAS: i to left, j to anterior, k to superior"), ((1, 0), "RAS (i")):
        image = nib.load(path)  # type: ignore[attr-defined]
        stored = nib.Nifti1Image(np.asarray(image.dataobj).copy(), np.eye(4))  # type: ignore[attr-defined]
        stored.set_sform(np.eye(4), code=codes[0])
        stored.set_qform(np.eye(4), code=codes[1])
        nib.save(stored, path)  # type: ignore[attr-defined]
        outcome = run("info", path, "--model", weights)
        assert f"orientation  {line}" in outcome.out
        assert outcome.err.count("orientation unknown") == (codes == (0, 0))
        facts = json.loads(run("info", path, "--json", "--model", weights).out)
        assert facts["is_orientation_known"] is (codes != (0, 0))
