"""Source volumes are read in canonical orientation, whole and finite, and damaged ones are named."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptseg.data.reading import grid_difference, read_grid
from promptseg.io import read_volume

from ..conftest import affines, make_affine, make_array
from .conftest import save_nifti


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(affines(), st.tuples(*[st.integers(1, 6)] * 3))
def test_every_voxel_keeps_its_value_and_its_place(tmp_path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    array = make_array(shape)
    path = save_nifti(tmp_path / "a.nii", array, affine)
    grid = read_grid(path)
    stored = nibabel.load(path).affine
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(grid.array, np.asarray(canonical.dataobj))
    np.testing.assert_allclose(grid.affine, canonical.affine, atol=1e-6 * np.abs(stored).max())
    for voxel in (np.zeros(3, int), np.array(grid.array.shape) - 1):
        place = grid.affine @ [*voxel, 1]
        source = np.rint(np.linalg.solve(stored, place)[:3]).astype(int)
        assert array[tuple(source)] == grid.array[tuple(voxel)]


def test_one_frame_of_a_series_and_a_single_fourth_axis(tmp_path: Path) -> None:
    series = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    path = save_nifti(tmp_path / "a.nii.gz", series)
    np.testing.assert_array_equal(read_grid(path, 3).array, series[..., 3])
    assert read_grid(path).array.shape == series.shape
    assert read_grid(save_nifti(tmp_path / "b.nii.gz", series[..., :1])).array.shape == (2, 3, 4)
    with pytest.raises(ValueError, match="no frame 5"):
        read_grid(path, 5)


def test_voxels_that_are_not_finite_become_the_minimum_and_are_counted(tmp_path: Path) -> None:
    array = make_array((3, 3, 3))
    array[0, 0, :2] = np.nan, np.inf
    grid = read_grid(save_nifti(tmp_path / "a.nii.gz", array))
    assert grid.nonfinite_count == 2
    assert (grid.array[0, 0, :2] == array[0, 0, 2]).all()
    with pytest.raises(ValueError, match="no voxel is finite"):
        read_grid(save_nifti(tmp_path / "b.nii.gz", np.full((2, 2, 2), np.nan, np.float32)))


def test_a_label_that_is_not_finite_is_background(tmp_path: Path) -> None:
    array = np.ones((3, 3, 3), np.float32)
    array[0, 0] = np.nan, np.inf, -np.inf
    grid = read_grid(save_nifti(tmp_path / "a.nii.gz", array), is_label=True)
    assert grid.nonfinite_count == 3
    assert (grid.array[0, 0] == 0).all()
    assert (grid.array[1:] == 1).all()


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    path = save_nifti(tmp_path / "a.nii.gz", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(ValueError, match=r"a\.nii\.gz"):
        read_grid(path)


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        read_grid(tmp_path / "nothing.nii.gz")
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii.gz")
    with pytest.raises(ValueError, match=r"rgb\.nii\.gz"):
        read_grid(tmp_path / "rgb.nii.gz")
    with pytest.raises(ValueError, match="expected a 3D volume"):
        read_grid(save_nifti(tmp_path / "flat.nii.gz", np.zeros((4, 4), np.float32)))


def test_metaimage_lies_where_nifti_does(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    array = make_array((4, 5, 6), "int16")
    affine = make_affine("LPS", (0.7, 1.0, 2.5), (10, -20, 30), (0.1, 0.2, 0.3))
    nifti = save_nifti(tmp_path / "a.nii.gz", array, affine)
    itk.WriteImage(itk.ReadImage(str(nifti)), str(tmp_path / "a.mha"))
    first, second = read_grid(nifti), read_grid(tmp_path / "a.mha")
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)
    assert grid_difference(first, second) == ""


def test_grids_differ_by_shape_and_by_place_but_not_by_rounding(tmp_path: Path) -> None:
    array = make_array((5, 5, 5))
    here = read_grid(save_nifti(tmp_path / "a.nii.gz", array, make_affine(origin=(0, 0, 0))))
    close = read_grid(save_nifti(tmp_path / "b.nii.gz", array, make_affine(origin=(0.01, 0, 0))))
    away = read_grid(save_nifti(tmp_path / "c.nii.gz", array, make_affine(origin=(1, 0, 0))))
    longer = read_grid(save_nifti(tmp_path / "d.nii.gz", make_array((5, 5, 6))))
    assert grid_difference(here, close) == ""
    assert "1 mm away" in grid_difference(here, away)
    assert "shape" in grid_difference(here, longer)


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_of_length_are_read_as_inference_reads_them(tmp_path: Path, unit: str, millimetres: float) -> None:
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.int16), np.diag([0.5, 0.5, 2.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_grid(tmp_path / "a.nii").spacing_mm, np.array([0.5, 0.5, 2.0]) * millimetres)
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").spacing_mm, np.array([0.5, 0.5, 2.0]) * millimetres)
