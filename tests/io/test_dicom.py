"""A DICOM series is the image that was scanned, or an error that says what it lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from promptseg.io import read_volume, write_volume

from ..conftest import make_affine

sitk = pytest.importorskip("SimpleITK")

UID = "1.2.826.0.1.3680043.2.1125.1."

each_way = pytest.mark.parametrize(
    "affine",
    [
        make_affine("LPS", (0.7, 0.8, 2.5), (10, -20, 30)),
        make_affine("LIP", (0.7, 0.8, 2.5), (10, -20, 30)),
        make_affine("PIR", (1.2, 1.1, 3.0), (-5, 0, 3), turn=(0.2, -0.1, 0.3)),
    ],
    ids=["axial", "coronal", "oblique"],
)


def write_slice(path: Path, plane: np.ndarray, affine_lps: np.ndarray, index: int, **tags: str) -> None:
    """One file of a series.

    Args:
        path: of the file.
        plane: (I, J) values, stored as int16.
        affine_lps: (4, 4) of the volume, voxels to LPS mm.
        index: of the slice.
        tags: others, such as ``t0028_1053``, and ``series``, the number of the series.
    """
    columns = affine_lps[:3, :3] / np.linalg.norm(affine_lps[:3, :3], axis=0)
    position = affine_lps[:3, 3] + index * affine_lps[:3, 2]
    values = {
        "0008|0060": "CT",
        "0008|103e": "trunk",
        "0020|000d": UID + "9",
        "0020|000e": UID + "1" + tags.pop("series", "1"),
        "0020|0052": UID + "2",
        "0020|0032": "\\".join(f"{v:.6f}" for v in position),
        "0020|0037": "\\".join(f"{v:.8f}" for v in [*columns[:, 0], *columns[:, 1]]),
        "0028|1053": "1",
        "0028|1052": "0",
        "0028|0100": "16",
        "0028|0101": "16",
        "0028|0102": "15",
        "0028|0103": "1",
        **{name[1:].replace("_", "|"): value for name, value in tags.items()},
    }
    image = sitk.GetImageFromArray(plane.T[None])
    image.SetSpacing([*np.linalg.norm(affine_lps[:3, :2], axis=0), 1.0])
    for key, value in values.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)


def write_series(folder: Path, array: np.ndarray, affine: np.ndarray, **tags: str) -> Path:
    """The slices of an array, with names in another order than they lie in."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    for k in range(array.shape[2]):
        write_slice(folder / f"IM{(k * 7) % 10}{tags.get('series', '')}.dcm", array[:, :, k], lps, k, **tags)
    return folder


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (9, 8, 6), dtype=np.int16)


@each_way
def test_a_folder_is_the_volume_whatever_its_files_are_called(
    tmp_path: Path, array: np.ndarray, affine: np.ndarray
) -> None:
    folder = write_series(tmp_path / "series", array, affine)
    (folder / "notes.txt").write_text("not an image")
    for path in (folder, folder / "IM4.dcm"):
        volume = read_volume(path)
        turned = np.linalg.det(affine[:3, :3]) * np.linalg.det(volume.affine[:3, :3]) < 0  # slices are sorted upwards
        expected, last = (array[:, :, ::-1], array.shape[2] - 1) if turned else (array, 0)
        np.testing.assert_array_equal(volume.array, expected)
        flip = np.eye(4)
        flip[2, 2:] = (-1.0, last) if turned else (1.0, 0.0)
        np.testing.assert_allclose(volume.affine, affine @ flip, atol=1e-4)


def test_slices_of_a_tilted_gantry_lie_where_they_say(tmp_path: Path, array: np.ndarray) -> None:
    affine = make_affine("LPS", (1.0, 1.0, 2.5))
    affine[1, 2] = 0.9  # each slice is 0.9 mm further to the front
    volume = read_volume(write_series(tmp_path / "series", array, affine))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_each_slice_has_a_scale_of_its_own(tmp_path: Path, array: np.ndarray) -> None:
    lps = np.diag([1.0, 1.0, 3.0, 1.0])
    slopes = [1.0, 0.25, 2.5, 0.001, 1.5, 3.0]
    for k, slope in enumerate(slopes):
        write_slice(tmp_path / f"{k}.dcm", array[:, :, k] * slope, lps, k, t0028_1053=str(slope))
    np.testing.assert_allclose(read_volume(tmp_path).array, array * np.array(slopes), rtol=1e-6)


def test_one_of_several_series_is_named_by_a_file(tmp_path: Path, array: np.ndarray) -> None:
    for number in "12":
        write_series(tmp_path, array + int(number), np.eye(4), series=number, t0008_103e=f"phase {number}")
    with pytest.raises(ValueError, match=r"holds 2 series.*CT phase [12]: 6, such as IM\d+\.dcm; CT phase [12]: 6"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path / "IM02.dcm").array, array + 2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda folder, array: (folder / "IM4.dcm").unlink(),
            r"4 mm lie between IM7.dcm and IM1.dcm, and 2 mm between",
        ),
        (
            lambda folder, array: write_slice(folder / "again.dcm", array[:, :, 2], np.diag([-1.0, -1, 2, 1]), 2),
            "lie at one place",
        ),
        (
            lambda folder, array: write_slice(folder / "IM4.dcm", array[:, :, 2], make_affine("PSR"), 2),
            "are not slices of one grid",
        ),
        (
            lambda folder, array: write_slice(folder / "IM4.dcm", array[:5, :, 2], np.diag([-1.0, -1, 2, 1]), 2),
            "cannot be read as one image",
        ),
        (
            lambda folder, array: write_slice(
                folder / "IM4.dcm", array[:, :, 2], np.diag([-1.0, -1, 2, 1]), 2, t0020_0032=r"9\0\4"
            ),
            r"IM4\.dcm lies 9 mm off the line of the others",
        ),
    ],
    ids=["missing", "twice", "turned", "of another size", "shifted"],
)
def test_what_is_no_even_stack_is_refused(tmp_path: Path, array: np.ndarray, loss, message: str) -> None:
    folder = write_series(tmp_path / "series", array, np.diag([1.0, 1.0, 2.0, 1.0]))
    loss(folder, array)
    with pytest.raises(ValueError, match=message):
        read_volume(folder)


def test_a_folder_without_a_series_says_where_one_is(tmp_path: Path, array: np.ndarray) -> None:
    write_series(tmp_path / "study/ct", array, np.eye(4))
    with pytest.raises(ValueError, match=r"its DICOM files lie deeper, as in .*ct; give the folder"):
        read_volume(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="without DICOM images, expected an image file such as .*, or the folder of"):
        read_volume(tmp_path / "empty")


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nrrd"])
def test_a_mask_is_written_on_the_grid_of_the_series(tmp_path: Path, array: np.ndarray, name: str) -> None:
    affine = make_affine("LPS", (2.0, 2.0, 5.0), (7, 8, 9), turn=(0.1, 0.0, 0.2))
    volume = read_volume(write_series(tmp_path / "series", array, affine))
    mask = volume.array > 0
    written = read_volume(write_volume(tmp_path / name, mask, volume.affine, reference=volume))
    np.testing.assert_array_equal(written.array, mask)
    np.testing.assert_allclose(written.affine, affine, atol=1e-4)
