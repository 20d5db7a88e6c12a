"""Units of length: a header in metres or microns is read in millimetres, and its masks keep to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from promptseg import Volume
from promptseg.io import read_volume, write_volume

from ..conftest import make_affine, make_array

FACTORS = {"meter": 1000.0, "micron": 0.001, "mm": 1.0, "unknown": 1.0}
AFFINE_MM = make_affine("LSA", (1.5, 2, 2.5), (-101.3, 55.1, 7.7), (0.1, 0.2, 0.3))


def save_in(folder: Path, unit: str) -> Path:
    """Writes an image at ``AFFINE_MM`` in a unit of length."""
    affine = np.diag([1 / FACTORS[unit]] * 3 + [1.0]) @ AFFINE_MM
    image = nib.Nifti1Image(make_array(), affine)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, folder / f"{unit}.nii")  # type: ignore[attr-defined]
    return folder / f"{unit}.nii"


def header_of(path: Path) -> Any:
    return nib.load(path).header  # type: ignore[attr-defined]


@pytest.mark.parametrize("unit", list(FACTORS))
@pytest.mark.parametrize("knows_volume", [True, False])
def test_any_unit_is_read_in_mm_and_a_mask_overlays_its_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unit: str, knows_volume: bool
) -> None:
    path = save_in(tmp_path, unit)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE_MM, rtol=1e-6)
    assert not caplog.records
    reference = volume if knows_volume else volume.source
    mask = write_volume(tmp_path / "mask.nii.gz", volume.array > 50, volume.affine, reference=reference)
    assert np.array_equal(header_of(mask).get_best_affine(), header_of(path).get_best_affine())
    assert header_of(mask).get_xyzt_units() == header_of(path).get_xyzt_units() == (unit, "sec")
    assert np.array_equal(read_volume(mask).affine, volume.affine)


def test_what_lies_elsewhere_is_written_in_mm(tmp_path: Path) -> None:
    volume = read_volume(save_in(tmp_path, "micron"))
    for array, affine in ((volume.array[1:], volume.affine), (volume.array, make_affine("RAS"))):
        path = write_volume(tmp_path / "part.nii", array, affine, reference=volume)
        assert header_of(path).get_xyzt_units() == ("mm", "sec")
        np.testing.assert_allclose(read_volume(path).affine, affine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side_mm", "word"), [(0.5, "small"), (0.8, None), (700, None), (800, "large")])
def test_an_extent_that_no_body_has_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, side_mm: float, word: str | None
) -> None:
    affine = np.diag([side_mm] * 3 + [1.0])
    nifti, itk = tmp_path / "image.nii", tmp_path / "image.nrrd"
    write_volume(nifti, make_array(), affine)
    write_volume(itk, make_array(), affine)
    for image in (nifti, itk, nib.load(nifti), sitk.ReadImage(str(itk))):  # type: ignore[attr-defined]
        caplog.clear()
        Volume.from_image(image)
        assert [f"{side_mm * 7:.3g} mm, which is {word}" in r.getMessage() for r in caplog.records] == [True] * bool(
            word
        )
    caplog.clear()
    Volume.from_image(make_array(), affine=affine)
    assert len(caplog.records) == bool(word)
