"""One label map of a case, from whatever its files are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from promptseg.data.label_maps import merge_raters, read_labels
from promptseg.data.reading import read_grid

from ..conftest import make_affine
from .conftest import describe, phantom, save_nifti


def test_a_label_map_comes_as_it_is_in_the_smallest_dtype(tmp_path: Path) -> None:
    _, labels = phantom(0)
    for dtype in (np.uint8, np.int32, np.float64):
        save_nifti(tmp_path / "images/a.nii.gz", labels.astype(np.int16))
        save_nifti(tmp_path / "labels/a.nii.gz", labels.astype(dtype))
        catalog = describe(tmp_path)
        found = read_labels(catalog, catalog.cases()[0])
        assert found is not None
        assert found.grid.array.dtype == np.uint8
        np.testing.assert_array_equal(found.grid.array, labels)


def test_a_fraction_in_a_label_map_is_refused(tmp_path: Path) -> None:
    _, labels = phantom(0)
    save_nifti(tmp_path / "labels/a.nii.gz", labels * np.float32(0.5))
    catalog = describe(tmp_path, images="")
    with pytest.raises(ValueError, match=r"0\.5 is not whole.*probabilities"):
        read_labels(catalog, catalog.cases()[0])


@pytest.mark.parametrize("trusts_affine", [True, False])
@pytest.mark.parametrize("outside", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("label_format", ["map", "probabilities"])
def test_what_is_not_finite_is_background_and_counted(
    tmp_path: Path, label_format: str, outside: float, trusts_affine: bool
) -> None:
    image, labels = phantom(0, values=(1,))
    save_nifti(tmp_path / "images/a.nii.gz", image)
    save_nifti(tmp_path / "labels/a.nii.gz", np.where(labels > 0, 1, outside).astype(np.float32))
    fields = {"label_format": label_format, "trust_label_affine": trusts_affine}
    catalog = describe(tmp_path, terms={1: "liver"}, **fields)
    found = read_labels(catalog, catalog.cases()[0], read_grid(tmp_path / "images/a.nii.gz"))
    assert found is not None
    np.testing.assert_array_equal(found.grid.array, labels)
    assert found.nonfinite_voxels == np.count_nonzero(labels == 0)


def test_one_file_per_class_makes_the_map_and_counts_the_overlap(tmp_path: Path) -> None:
    liver, spleen = np.zeros((2, 8, 8, 8), np.uint8)
    liver[:4] = 1
    spleen[3:] = 255
    save_nifti(tmp_path / "a/liver.nii.gz", liver)
    save_nifti(tmp_path / "a/spleen.nii.gz", spleen)
    catalog = describe(tmp_path, images="", labels="{case}/{term}.nii.gz", label_format="classes")
    found = read_labels(catalog, catalog.cases()[0])
    assert found is not None
    np.testing.assert_array_equal(found.grid.array, np.where(spleen > 0, 2, np.where(liver > 0, 1, 0)))
    assert found.overlap_voxels == 64


@pytest.mark.parametrize("has_background", [True, False])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_probabilities_on_the_fourth_axis(tmp_path: Path, has_background: bool, scale: float) -> None:
    liver = np.linspace(0, 1, 512).reshape(8, 8, 8)
    maps = [liver, 1 - liver]
    background = [np.zeros_like(liver)] if has_background else []
    save_nifti(tmp_path / "labels/a.nii.gz", (np.stack(background + maps, -1) * scale).astype(np.float32))
    catalog = describe(tmp_path, images="", label_format="probabilities", threshold=0.6, probability_scale=scale)
    found = read_labels(catalog, catalog.cases()[0])
    assert found is not None
    np.testing.assert_array_equal(found.grid.array, np.where(liver >= 0.6, 1, np.where(1 - liver >= 0.6, 2, 0)))


def test_probabilities_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "labels/a.nii.gz", np.zeros((4, 4, 4, 5), np.float32))
    catalog = describe(tmp_path, images="", label_format="probabilities")
    with pytest.raises(ValueError, match="5 probability maps for 2 terms"):
        read_labels(catalog, catalog.cases()[0])


@pytest.mark.parametrize("patterns", [{}, {"labels": "labels/{case}_{term}.nii.gz"}])
def test_probabilities_above_their_scale_are_refused(tmp_path: Path, patterns: dict[str, str]) -> None:
    liver = (np.linspace(0, 1, 64).reshape(4, 4, 4) * 255).astype(np.uint8)
    save_nifti(tmp_path / ("labels/a_liver.nii.gz" if patterns else "labels/a.nii.gz"), liver)
    fields = {"images": "", "label_format": "probabilities", "terms": {1: "liver"}, **patterns}
    catalog = describe(tmp_path, **fields)
    with pytest.raises(ValueError, match=r"a probability of 255, above probability_scale=1; set probability_scale"):
        read_labels(catalog, catalog.cases()[0])
    catalog = describe(tmp_path, **fields, probability_scale=255)
    found = read_labels(catalog, catalog.cases()[0])
    assert found is not None
    np.testing.assert_array_equal(found.grid.array, liver >= 127.5)


def test_probabilities_as_a_file_per_class(tmp_path: Path) -> None:
    liver = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 4, 4)
    save_nifti(tmp_path / "a/liver.nii.gz", liver)
    save_nifti(tmp_path / "a/spleen.nii.gz", np.full_like(liver, 0.7))
    catalog = describe(tmp_path, images="", labels="{case}/{term}.nii.gz", label_format="probabilities")
    found = read_labels(catalog, catalog.cases()[0])
    assert found is not None
    np.testing.assert_array_equal(found.grid.array, np.where(liver > 0.7, 1, 2))


maps = hnp.arrays(np.uint8, (3, 3, 3), elements=st.integers(0, 3))


@settings(max_examples=25)
@given(st.lists(maps, min_size=1, max_size=5), st.sampled_from(["majority", "union", "intersection"]), st.randoms())
def test_merging_raters_does_not_depend_on_their_order(stack: list[np.ndarray], rule: str, random) -> None:
    merged, disputed = merge_raters(stack, rule)
    shuffled = list(stack)
    random.shuffle(shuffled)
    again, _ = merge_raters(shuffled, rule)
    np.testing.assert_array_equal(merged, again)
    agreed = np.all([m == stack[0] for m in stack], axis=0)
    np.testing.assert_array_equal(merged[agreed], stack[0][agreed])
    assert disputed == np.count_nonzero(~agreed)


@settings(max_examples=25)
@given(st.lists(maps, min_size=2, max_size=4))
def test_intersection_is_in_majority_is_in_union(stack: list[np.ndarray]) -> None:
    inside = [merge_raters(stack, rule)[0] > 0 for rule in ("intersection", "majority", "union")]
    assert (inside[0] <= inside[1]).all()
    assert (inside[1] <= inside[2]).all()
    np.testing.assert_array_equal(inside[2], np.any([m > 0 for m in stack], axis=0))


def test_a_majority_is_more_than_half() -> None:
    one, two = np.full((1, 1, 1), 1), np.full((1, 1, 1), 2)
    assert merge_raters([one, two], "majority")[0].item() == 0
    assert merge_raters([one, two, one], "majority")[0].item() == 1


def test_raters_on_different_grids_are_refused(tmp_path: Path) -> None:
    _, labels = phantom(0)
    save_nifti(tmp_path / "labels/a_x.nii.gz", labels)
    save_nifti(tmp_path / "labels/a_y.nii.gz", labels, make_affine(origin=(5, 0, 0)))
    catalog = describe(tmp_path, images="", labels="labels/{case}_{rater}.nii.gz")
    with pytest.raises(ValueError, match="different grids"):
        read_labels(catalog, catalog.cases()[0])


def test_a_label_whose_header_is_wrong_can_be_laid_on_the_image(tmp_path: Path) -> None:
    image, labels = phantom(0)
    affine = make_affine("LPS", (1, 2, 3), (10, 20, 30))
    save_nifti(tmp_path / "images/a.nii.gz", image, affine)
    save_nifti(tmp_path / "labels/a.nii.gz", labels, np.eye(4))
    catalog = describe(tmp_path, trust_label_affine=False)
    case = catalog.cases()[0]
    grid = read_grid(tmp_path / "images/a.nii.gz")
    found = read_labels(catalog, case, grid)
    assert found is not None
    np.testing.assert_array_equal(found.grid.array, labels[::-1, ::-1])
    np.testing.assert_array_equal(found.grid.affine, grid.affine)
