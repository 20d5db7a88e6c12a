"""NIfTI files: the array and the affine come and go unchanged, and damage is said in words."""

from __future__ import annotations

import gzip
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given
from hypothesis import strategies as st

from promptseg.io import read_volume, write_volume
from promptseg.volume import Volume

from ..conftest import affines, make_affine, make_array

DTYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("nifti")


def save(path: Path, array: np.ndarray, affine: np.ndarray | None, codes: str = "s", version: int = 1) -> Path:
    """Writes with nibabel alone; ``codes`` names the header's transforms that are valid: s, q, sq or none."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel's about int64
        image = kind(array, affine, dtype=array.dtype.newbyteorder("="))
    image.header.set_data_dtype(array.dtype)
    image.set_sform(affine, code=3 if "s" in codes else 0)
    image.set_qform(affine, code=1 if "q" in codes else 0)
    nib.save(image, path)  # type: ignore[attr-defined]
    return path


suffixes = st.sampled_from([".nii", ".nii.gz"])
versions = st.sampled_from([1, 2])


@given(affines(), suffixes, versions, st.sampled_from(["s", "sq"]))
def test_reading_is_nibabels(folder: Path, affine: np.ndarray, suffix: str, version: int, codes: str) -> None:
    path = save(folder / f"image{suffix}", make_array(), affine, codes, version)
    volume = read_volume(path)
    assert np.array_equal(volume.array, make_array())
    assert np.array_equal(volume.affine, nib.load(path).affine)  # type: ignore[attr-defined]
    assert volume.source == str(path)


@given(affines(sheared=False), suffixes, versions, st.sampled_from(["s", "q", "sq", "none"]), st.booleans())
def test_a_mask_repeats_the_affine_bit_for_bit(
    folder: Path, affine: np.ndarray, suffix: str, version: int, codes: str, knows_volume: bool
) -> None:
    image = save(folder / "image.nii", make_array(), affine, codes, version)
    volume = read_volume(image)
    mask = volume.array > 50
    path = write_volume(
        folder / f"mask{suffix}", mask, volume.affine, reference=volume if knows_volume else volume.source
    )
    again = read_volume(path)
    assert again.affine.tobytes() == volume.affine.tobytes()
    assert np.array_equal(again.array, mask)
    assert again.array.dtype == np.uint8
    given_header, header = (nib.load(p).header for p in (image, path))  # type: ignore[attr-defined]
    for name in ("sform_code", "qform_code"):
        assert header[name] == given_header[name]
    if codes != "none" and version == 1:  # ITK, which reads no NIfTI-2, has other rules: it too sees them in one place
        first, second = (sitk.ImageFileReader() for _ in range(2))
        for reader, file in ((first, image), (second, path)):
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
        assert first.GetOrigin() == second.GetOrigin()
        assert first.GetDirection() == second.GetDirection()
        assert first.GetSpacing() == second.GetSpacing()


UNREADABLE_QUATERNION = make_affine(
    "LPS", (1.0, 1.0, 0.001), (0.0, 0.0, 128.6562572095621), (0.125, 0.258947289595596, 0.0)
)
ALMOST_HALF_A_TURN = np.array([[0, 3e-4, 10, 0], [0, -1, 3e-3, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@given(affines(), suffixes, st.booleans())
@example(ALMOST_HALF_A_TURN, ".nii", False)
@example(UNREADABLE_QUATERNION, ".nii", False)
def test_an_affine_from_elsewhere_is_rounded_by_less_than_a_thousandth_of_a_voxel(
    folder: Path, affine: np.ndarray, suffix: str, has_reference: bool
) -> None:
    reference = save(folder / "other.nii", make_array(), make_affine("PIR", (2, 3, 4)), "sq") if has_reference else None
    path = write_volume(folder / f"image{suffix}", make_array(), affine, reference=reference)
    volume = read_volume(path)
    corners = np.argwhere(np.ones((2, 2, 2))) * (np.array(volume.shape) - 1)
    moved_mm = volume.voxel_to_world(corners) - Volume(make_array(), affine).voxel_to_world(corners)
    assert np.abs(moved_mm).max() <= 2e-3 * volume.spacing_mm.min()
    header: Any = nib.load(path).header  # type: ignore[attr-defined]
    assert header["sform_code"] > 0
    assert header.get_xyzt_units()[0] == "mm" or has_reference
    np.testing.assert_allclose(header.get_zooms(), volume.spacing_mm, rtol=1e-5)
    if header["qform_code"]:
        np.testing.assert_allclose(header.get_qform(), affine, atol=1e-3 * volume.spacing_mm.min() + 1e-4)


def test_float32_affines_are_exact_without_a_reference(tmp_path: Path) -> None:
    affine = make_affine("LSA", (0.7, 0.7, 2.5), (-101.3, 55.1, 7.7), (0.1, 0.2, 0.3)).astype(np.float32).astype(float)
    path = write_volume(tmp_path / "image.nii.gz", make_array(), affine)
    assert np.array_equal(read_volume(path).affine, affine)
    assert isinstance(nib.load(path), nib.Nifti1Image)  # type: ignore[attr-defined]


def test_a_fine_grid_far_out_is_written_as_nifti2(tmp_path: Path) -> None:
    affine = make_affine(spacing=(0.0003,) * 3, origin=(250.1, -301.7, 77.3))
    path = write_volume(tmp_path / "image.nii.gz", make_array(), affine)
    assert np.array_equal(read_volume(path).affine, affine)


def test_a_long_axis_is_written_as_nifti2(tmp_path: Path) -> None:
    array = make_array((40_000, 1, 1), "int32")
    volume = read_volume(write_volume(tmp_path / "image.nii", array, np.eye(4)))
    assert np.array_equal(volume.array, array)


def test_a_sheared_affine_has_no_quaternion(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "image.nii", make_array(), make_affine(shear=0.2))
    header: Any = nib.load(path).header  # type: ignore[attr-defined]
    assert header["qform_code"] == 0
    np.testing.assert_allclose(read_volume(path).affine, make_affine(shear=0.2), atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_dtypes_are_kept(dtype: str, order: str, tmp_path: Path) -> None:
    array = make_array(dtype=dtype)
    path = tmp_path / "image.nii.gz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = nib.Nifti1Header(endianness=order)
        header.set_data_dtype(array.dtype)
        nib.save(nib.Nifti1Image(array, np.eye(4), header, dtype=array.dtype), path)  # type: ignore[attr-defined]
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(dtype)
    assert volume.array.dtype.isnative
    assert np.array_equal(volume.array, array)
    written = read_volume(write_volume(tmp_path / "again.nii", volume.array, volume.affine, reference=volume))
    assert written.array.dtype == np.dtype(dtype)
    assert np.array_equal(written.array, array)


@given(
    st.sampled_from(["uint8", "int16", "uint16", "int32"]),
    st.floats(1e-4, 1e3),
    st.floats(-2000, 2000),
    suffixes,
)
def test_scaled_voxels_are_nibabels_rounded_once(
    folder: Path, dtype: str, slope: float, intercept: float, suffix: str
) -> None:
    stored = make_array(dtype=dtype) * (1 if dtype in ("uint8", "int16") else 7)
    path = folder / f"scaled{suffix}"
    header = nib.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_slope_inter(slope, intercept)
    header.set_data_shape(stored.shape)
    content = header.binaryblock + bytes(4) + stored.astype(dtype).tobytes(order="F")
    _vox_offset_and_magic(content)
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    volume = read_volume(path)
    expected = nib.load(path).get_fdata()  # type: ignore[attr-defined]
    is_scaled = (np.float32(slope), np.float32(intercept)) != (1, 0)  # as the header holds them
    assert volume.array.dtype == (np.float32 if is_scaled else np.dtype(dtype))
    assert np.array_equal(volume.array, expected.astype(volume.array.dtype))


def _vox_offset_and_magic(content: bytes) -> None:
    """The header that the test above writes by hand is that of a single file."""
    header: Any = nib.Nifti1Header(content[:348])
    assert header["magic"].item() == b"n+1"
    assert header["vox_offset"] in (0, 352)


def test_a_slope_of_one_keeps_integers(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_array(dtype="int16"), np.eye(4))
    image.header.set_slope_inter(1, 0)
    nib.save(image, tmp_path / "image.nii")  # type: ignore[attr-defined]
    assert read_volume(tmp_path / "image.nii").array.dtype == np.int16


def test_scaling_makes_no_float64_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptseg.volume_checks.BLOCK_BYTES", 2**16)
    stored = np.zeros((100, 100, 60), dtype=np.int16)
    stored[3, 4, 5] = 9
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "image.nii")  # type: ignore[attr-defined]
    tracemalloc.start()
    volume = read_volume(tmp_path / "image.nii")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, stored * 0.5 + 3)  # nibabel stores integers as they are given
    assert peak < stored.nbytes + volume.array.nbytes + stored.nbytes / 2


def test_the_header_is_kept_but_for_what_describes_the_voxels(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_array(dtype="int16"), make_affine("LPS", (1, 2, 3)))
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"scanner 7"
    image.header["cal_max"] = 500
    image.header.set_slope_inter(2, 3)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"name of a patient"))
    nib.save(image, tmp_path / "image.nii")  # type: ignore[attr-defined]
    volume = read_volume(tmp_path / "image.nii")
    write_volume(tmp_path / "mask.nii", volume.array > 9, volume.affine, reference=volume)
    assert len(volume.header.extensions) == 1  # the image's own stays
    header: Any = nib.load(tmp_path / "mask.nii").header  # type: ignore[attr-defined]
    assert header["descrip"].item() == b"scanner 7"
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header["cal_max"] == 0
    assert header.get_slope_inter() in ((1, 0), (None, None))
    assert not header.extensions
    assert b"patient" not in (tmp_path / "mask.nii").read_bytes()


def test_the_reference_is_ignored_where_it_does_not_fit(tmp_path: Path) -> None:
    affine = make_affine("LPS", (1, 2, 3)).astype(np.float32).astype(float)
    (tmp_path / "broken.nii").write_bytes(b"no header")
    others = [save(tmp_path / "other.nii", make_array((2, 3, 4)), np.eye(4)), "<numpy array>", tmp_path / "broken.nii"]
    for reference in [*others, Volume(make_array(), affine), None]:
        path = write_volume(tmp_path / "mask.nii", np.ones((5, 6, 7), bool), affine, reference=reference)
        assert np.array_equal(read_volume(path).affine, affine)


def test_trailing_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    for shape in [(4, 5, 6, 1), (4, 5, 6, 1, 1)]:
        path = save(tmp_path / "image.nii", make_array(shape), make_affine("LPS"))
        volume = read_volume(path)
        assert np.array_equal(volume.array, make_array((4, 5, 6)))
        mask = read_volume(write_volume(tmp_path / "mask.nii", volume.array > 3, volume.affine, reference=volume))
        assert mask.shape == (4, 5, 6)
        assert np.array_equal(mask.affine, volume.affine)


def test_other_kinds_of_voxels_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    bad: dict[str, tuple[np.ndarray, str]] = {
        "colour": (rgb, "RGB"),
        "complex": (make_array(dtype="complex64"), "abs"),
        "series": (make_array((4, 5, 6, 3)), r"image\[..., 0\]"),
        "flat": (make_array((4, 5)), "expected 3"),
    }
    for name, (array, expected) in bad.items():
        path = tmp_path / f"{name}.nii"
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=expected) as caught:
            read_volume(path)
        assert str(path) in str(caught.value)


def test_a_frame_of_a_long_series_is_not_read_to_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "series.nii"
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 32, 16), np.int16), np.eye(4)), path)  # type: ignore[attr-defined]
    tracemalloc.start()
    with pytest.raises(ValueError, match="4 axes"):
        read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_header_without_spacing_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", make_array(), np.eye(4), "none")
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(0).tobytes()  # pixdim[1]
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"image\.nii.*spacing") as caught:
        Volume.from_image(path)
    assert "spacing=" in str(caught.value)


def test_a_singular_transform_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", make_array(), np.eye(4), "s")
    content = bytearray(path.read_bytes())
    content[280:312] = np.array([1, 1, 0, 0] * 2, dtype="<f4").tobytes()  # srow_x and srow_y
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"image\.nii: affine .* is singular.*repair the header"):
        read_volume(path)


def test_a_negative_spacing_is_read_as_its_size_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "image.nii", make_array(), np.eye(4), "none")
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(-2).tobytes()
    path.write_bytes(bytes(content))
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(bytes(content)))
    for file in (path, tmp_path / "image.nii.gz"):
        caplog.clear()
        assert read_volume(file).spacing_mm.tolist() == [2, 1, 1]
        assert f"{file}: its spacing is [-2.0, 1.0, 1.0] mm" in caplog.text


def test_a_spacing_that_no_transform_uses_is_not_looked_at(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", make_array(), np.diag([3.0, 1.0, 1.0, 1.0]), "s")
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(0).tobytes()
    path.write_bytes(bytes(content))
    assert read_volume(path).spacing_mm.tolist() == [3, 1, 1]


def test_the_name_must_tell_whether_a_file_is_compressed(tmp_path: Path) -> None:
    plain, packed = (
        save(tmp_path / "a.nii", make_array(), np.eye(4)),
        save(tmp_path / "b.nii.gz", make_array(), np.eye(4)),
    )
    with pytest.raises(ValueError, match=r"rename it to c\.nii$"):
        read_volume(plain.rename(tmp_path / "c.nii.gz"))
    with pytest.raises(ValueError, match=r"rename it to d\.nii\.gz$"):
        read_volume(packed.rename(tmp_path / "d.nii"))


def test_images_of_nibabel_that_are_not_nifti(tmp_path: Path) -> None:
    affine = make_affine("LIA", (1, 1, 2), (3, 4, 5))
    nib.save(nib.MGHImage(make_array(), affine), tmp_path / "brain.mgz")  # type: ignore[attr-defined]
    volume = Volume.from_image(tmp_path / "brain.mgz")
    assert volume.orientation == "LIA"
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    mask = read_volume(write_volume(tmp_path / "mask.nii.gz", volume.array > 5, volume.affine, reference=volume))
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-5)


def test_an_image_of_nibabel_keeps_its_file_and_header(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", make_array(), make_affine("LPS", (0.7, 0.7, 3)), "q")
    volume = Volume.from_image(nib.load(path))  # type: ignore[attr-defined]
    assert volume.source == str(path)
    mask = read_volume(write_volume(tmp_path / "mask.nii", volume.array > 5, volume.affine, reference=volume))
    assert mask.affine.tobytes() == volume.affine.tobytes()


def test_real_images_come_and_go_unchanged(data_root: Path, tmp_path: Path) -> None:
    """The smallest image of each data set, as its scanner or author wrote it."""
    folders = [sorted(f.glob("images/*.nii*"), key=lambda p: p.stat().st_size) for f in sorted(data_root.iterdir())]
    images = [files[0] for files in folders if files and files[0].stat().st_size < 8 * 2**20]
    assert len(images) >= 3
    for image in images:
        loaded: Any = nib.load(image)  # type: ignore[attr-defined]
        volume = Volume.from_image(image)
        assert np.array_equal(volume.affine, loaded.affine), image
        assert volume.orientation == "".join(nib.orientations.aff2axcodes(loaded.affine)), image
        mask = volume.array > volume.array.mean()
        again = read_volume(write_volume(tmp_path / "mask.nii.gz", mask, volume.affine, reference=volume.source))
        assert again.affine.tobytes() == volume.affine.tobytes(), image
        assert np.array_equal(again.array, mask), image
