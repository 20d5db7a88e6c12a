"""Whether an image says where left and right are: what does not is read, and warned of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from promptseg import Volume
from promptseg.io import read_volume

from ..conftest import make_affine, make_array
from .test_nifti import save

UNKNOWN = "orientation unknown"


@pytest.mark.parametrize(("codes", "is_known"), [("s", True), ("q", True), ("sq", True), ("none", False)])
@pytest.mark.parametrize("version", [1, 2])
def test_a_nifti_without_a_valid_transform_has_an_unknown_orientation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codes: str, is_known: bool, version: int
) -> None:
    path = save(tmp_path / "image.nii", make_array(), make_affine("LPS", (1, 2, 3)), codes, version)
    for image in (path, nib.load(path)):  # type: ignore[attr-defined]
        caplog.clear()
        volume = Volume.from_image(image)
        assert volume.is_orientation_known is is_known
        warned = [record.getMessage() for record in caplog.records if UNKNOWN in record.getMessage()]
        assert len(warned) == (not is_known)
        assert all(str(path) in line and f"read as {volume.orientation}" in line for line in warned)


def test_analyze_has_no_orientation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nib.save(nib.Spm2AnalyzeImage(make_array(), np.diag([-1.0, 2, 3, 1])), tmp_path / "image.img")  # type: ignore[attr-defined]
    (tmp_path / "image.mat").unlink()
    assert not read_volume(tmp_path / "image.img").is_orientation_known
    assert UNKNOWN in caplog.text


@pytest.mark.parametrize("given", [make_array(), torch.from_numpy(make_array())])
def test_an_array_is_placed_by_an_affine_alone(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert Volume.from_image(given, affine=np.eye(4)).is_orientation_known
    assert not caplog.records
    assert not Volume.from_image(given, spacing=(1, 1, 2)).is_orientation_known
    assert caplog.text.count(UNKNOWN) == 1
    assert "affine=" in caplog.text
    assert not Volume.from_image(given, spacing=2).is_orientation_known
    assert caplog.text.count(UNKNOWN) == 1  # once per process
    assert not Volume.from_image(given).is_orientation_known
    assert "left and right are guessed; give affine=" in caplog.text


NRRD = "NRRD0004\ntype: uint8\ndimension: 3\n{place}sizes: 4 5 6\nencoding: raw\n\n"
PLACED = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n"


@pytest.mark.parametrize(("place", "is_known"), [(PLACED, True), ("spacings: 1 1 2\n", False)])
def test_a_nrrd_is_placed_by_its_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, is_known: bool
) -> None:
    path = tmp_path / "image.nrrd"
    path.write_bytes(NRRD.format(place=place).encode() + bytes(range(120)))
    for image in (path, sitk.ReadImage(str(path))):
        assert Volume.from_image(image).is_orientation_known is is_known
    assert caplog.text.count(UNKNOWN) == (0 if is_known else 2)


def test_what_itk_makes_of_a_nifti_is_not_known_either(tmp_path: Path) -> None:
    for codes in ("s", "none"):
        path = save(tmp_path / "image.nii", make_array(), np.eye(4), codes)
        assert Volume.from_image(sitk.ReadImage(str(path))).is_orientation_known is (codes == "s")


def test_the_grid_of_a_mask_is_that_of_its_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from promptseg.io import write_volume

    volume = read_volume(save(tmp_path / "image.nii", make_array(), np.eye(4), "none"))
    path = write_volume(tmp_path / "mask.nii", volume.array > 50, volume.affine, reference=volume)
    mask = read_volume(path)
    assert np.array_equal(mask.affine, volume.affine)
    assert not mask.is_orientation_known  # a mask claims no more than its image
    assert caplog.records[0].levelno == logging.WARNING
