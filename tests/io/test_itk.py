"""SimpleITK's formats: ITK's LPS is turned to RAS and back, exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from promptseg.io import read_volume, write_volume
from promptseg.io.itk import ItkGeometry
from promptseg.volume import Volume

from ..conftest import affines, make_affine, make_array

SUFFIXES = (".nrrd", ".mha", ".mhd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("itk")


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Writes with SimpleITK alone."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


@given(affines(sheared=False))
def test_geometry_and_affine_are_one(affine: np.ndarray) -> None:
    np.testing.assert_allclose(ItkGeometry.from_affine(affine).affine, affine, rtol=1e-12, atol=1e-12)


@given(affines(sheared=False), st.sampled_from(SUFFIXES), st.integers(0, 209))
def test_reading_places_voxels_where_itk_does(folder: Path, affine: np.ndarray, suffix: str, number: int) -> None:
    array = make_array()
    path = save(folder / f"image{suffix}", array, affine)
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    itk = sitk.ReadImage(str(path))
    index = [int(n) for n in np.unravel_index(number, array.shape)]
    assert itk.GetPixel(index) == volume.array[tuple(index)]
    expected_mm = itk.TransformContinuousIndexToPhysicalPoint([float(n) for n in index])
    np.testing.assert_allclose(volume.voxel_to_world(index, "lps"), expected_mm, atol=1e-9)


@given(affines(sheared=False), st.sampled_from(SUFFIXES), st.booleans())
def test_a_mask_repeats_the_geometry_bit_for_bit(
    folder: Path, affine: np.ndarray, suffix: str, knows_volume: bool
) -> None:
    volume = read_volume(save(folder / f"image{suffix}", make_array(), affine))
    mask = volume.array > 50
    reference = volume if knows_volume else volume.source
    path = write_volume(folder / f"mask{suffix}", mask, volume.affine, reference=reference)
    again = read_volume(path)
    if suffix == ".nrrd":  # which holds side times direction, and ITK takes them apart again
        np.testing.assert_allclose(again.affine, volume.affine, rtol=1e-15, atol=1e-15 * np.abs(affine).max())
    else:
        assert again.affine.tobytes() == volume.affine.tobytes()
    assert again.array.dtype == np.uint8
    assert np.array_equal(again.array, mask)


@given(affines(sheared=False), st.sampled_from([".nii.gz", *SUFFIXES]), st.sampled_from([".nii.gz", *SUFFIXES]))
def test_formats_convert_into_each_other(folder: Path, affine: np.ndarray, first: str, second: str) -> None:
    volume = read_volume(write_volume(folder / f"first{first}", make_array(), affine))
    path = write_volume(folder / f"second{second}", volume.array, volume.affine, reference=volume)
    again = read_volume(path)
    assert np.array_equal(again.array, make_array())
    corners = np.argwhere(np.ones((2, 2, 2))) * (np.array(volume.shape) - 1)
    moved_mm = again.voxel_to_world(corners) - Volume(make_array(), affine).voxel_to_world(corners)
    assert np.abs(moved_mm).max() <= 2e-3 * volume.spacing_mm.min()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sheared_grids_are_kept(tmp_path: Path, suffix: str) -> None:
    affine = make_affine("LPI", (1, 2, 3), (4, 5, 6), (0.1, 0.2, 0.3), shear=0.2)
    volume = read_volume(write_volume(tmp_path / f"image{suffix}", make_array(), affine))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-8)


def test_a_format_with_too_few_digits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SimpleITK's older releases write ten of them; that no voxel may move at all stands in for those."""
    monkeypatch.setattr("promptseg.io.itk.GEOMETRY_TOLERANCE", -1.0)
    affine = make_affine(spacing=(0.0003,) * 3, origin=(1234.5678, 0, 0))
    with pytest.raises(ValueError, match=r"moves voxels by up to .* mm on this grid.*write \.nii\.gz") as caught:
        write_volume(tmp_path / "mask.mha", make_array(), affine)
    assert "mask.mha" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32)
    path = write_volume(tmp_path / f"image{suffix}", noise, np.eye(4))
    voxels = path.with_suffix(".zraw") if suffix == ".mhd" else path
    content = voxels.read_bytes()
    voxels.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="copy it again") as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    path.write_bytes(b"not an image at all")
    with pytest.raises(ValueError, match="is not a 3D image, or is damaged"):
        read_volume(path)


def test_a_header_without_its_voxels_is_refused(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "image.mhd", make_array(), np.eye(4))
    path.with_suffix(".zraw").unlink()
    with pytest.raises(ValueError, match=r"image\.mhd"):
        read_volume(path)


def test_other_kinds_of_images_are_refused(tmp_path: Path) -> None:
    rgb = sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3)
    series = sitk.JoinSeries([sitk.Image([4, 5, 6], sitk.sitkInt16)] * 2)
    flat = sitk.Image([4, 5], sitk.sitkInt16)
    for name, image, expected in (
        ("rgb", rgb, "RGB"),
        ("series", series, r"\(4, 5, 6, 2\) has 4 axes"),
        ("flat", flat, r"\(4, 5\) has 2 axes"),
    ):
        path = tmp_path / f"{name}.nrrd"
        sitk.WriteImage(image, str(path))
        with pytest.raises(ValueError, match=expected) as caught:
            read_volume(path)
        assert str(path) in str(caught.value)
        with pytest.raises(ValueError, match=expected):
            Volume.from_image(image)


def test_one_slice_of_dicom_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voxels = make_array((6, 5, 4), "uint16")
    image = sitk.GetImageFromArray(voxels.T)
    sitk.WriteImage(image[:, :, 0], str(tmp_path / "slice"), imageIO="GDCMImageIO")
    sitk.WriteImage(image, str(tmp_path / "frames.dcm"))
    sitk.WriteImage(image[:, :, :1], str(tmp_path / "thin.nrrd"))
    assert np.array_equal(read_volume(tmp_path / "slice").array, voxels[:, :, :1])
    assert "slice: is the only slice of its DICOM series here, taken as 1 mm thick; copy" in caplog.text
    caplog.clear()
    assert np.array_equal(read_volume(tmp_path / "frames.dcm").array, voxels)
    assert read_volume(tmp_path / "thin.nrrd").shape == (6, 5, 1)
    assert "DICOM" not in caplog.text


def test_a_fourth_axis_of_length_one_is_dropped() -> None:
    frame = sitk.GetImageFromArray(make_array().T)
    frame.SetSpacing((1, 2, 3))
    volume = Volume.from_image(sitk.JoinSeries([frame]))
    assert np.array_equal(volume.array, make_array())
    assert volume.spacing_mm.tolist() == [1, 2, 3]


def test_the_users_image_is_not_tied_to_the_volume() -> None:
    image = sitk.GetImageFromArray(make_array().T)
    volume = Volume.from_image(image)
    image[0, 0, 0] = 999
    assert np.array_equal(volume.array, make_array())


def test_a_reference_that_is_gone_or_elsewhere_is_ignored(tmp_path: Path) -> None:
    affine = make_affine("LPS", (1, 2, 3), (4, 5, 6))
    other = save(tmp_path / "other.nrrd", make_array(), np.eye(4))
    broken = tmp_path / "broken.mha"
    broken.write_bytes(b"not an image")
    for reference in (other, broken, tmp_path / "gone.nrrd", None):
        path = write_volume(tmp_path / "mask.nrrd", make_array() > 50, affine, reference=reference)
        np.testing.assert_allclose(read_volume(path).affine, affine, atol=1e-9)


def test_without_simpleitk_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "image.nrrd", make_array(), np.eye(4))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ImportError, match=r"pip install 'promptseg\[itk\]'"):
        read_volume(path)
    with pytest.raises(ImportError, match=r"\.nii\.gz"):
        write_volume(tmp_path / "mask.nrrd", make_array(), np.eye(4))
    assert not (tmp_path / "mask.nrrd").exists()
