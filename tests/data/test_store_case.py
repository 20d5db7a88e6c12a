"""The index of a case tells the truth about its labels and intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from promptseg.data import prepare
from promptseg.data.store_case import LABEL_COLUMNS, StoreConfig, index_labels, intensity_statistics

from .conftest import MakeCatalog, phantom, save_nifti

label_maps = st.one_of(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3)),
    hnp.arrays(np.int32, (3, 4, 5), elements=st.sampled_from([0, 0, 0, 1, 255, -1, -7, 2_000_000_000])),
)


@settings(max_examples=40)
@given(label_maps, st.integers(1, 8))
def test_boxes_counts_and_samples_are_those_of_the_labels(labels: np.ndarray, samples: int) -> None:
    rows, voxels = index_labels(labels, "a/b", samples)
    assert [row[0] for row in rows] == sorted(set(np.unique(labels).tolist()) - {0})
    stop = 0
    for row in rows:
        value, count, *box, first, after = row
        where = np.argwhere(labels == value)
        assert count == len(where)
        assert box == [*where.min(0), *(where.max(0) + 1)]
        assert (first, after) == (stop, stop + min(samples, count))
        drawn = voxels[first:after]
        assert (labels[tuple(drawn.T)] == value).all()
        assert len(np.unique(drawn, axis=0)) == len(drawn)
        stop = after
    assert len(voxels) == stop
    assert voxels.shape == (stop, 3)
    assert all(len(row) == len(LABEL_COLUMNS) for row in rows)


def test_sampled_voxels_are_spread_over_the_label_and_depend_on_the_case_alone() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:, :10] = 1
    labels[:, 15:] = 2
    _, voxels = index_labels(labels, "a/b", 500)
    np.testing.assert_allclose(voxels[:500].mean(0), np.argwhere(labels == 1).mean(0), atol=1.0)
    np.testing.assert_array_equal(voxels, index_labels(labels.astype(np.int32), "a/b", 500)[1])
    np.testing.assert_array_equal(voxels, index_labels(np.asfortranarray(labels), "a/b", 500)[1])
    assert (voxels != index_labels(labels, "a/c", 500)[1]).any()
    labels[:, 15:] = 0
    np.testing.assert_array_equal(voxels[:500], index_labels(labels, "a/b", 500)[1], "another label moves nothing")


@settings(max_examples=25)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=8), elements=st.integers(-1000, 1000)))
def test_statistics_are_those_of_the_image(array: np.ndarray) -> None:
    found = intensity_statistics(array)
    assert (found["minimum"], found["maximum"]) == (array.min(), array.max())
    assert found["mean"] == pytest.approx(array.mean())
    assert found["percentiles"]["50"] == pytest.approx(np.median(array))
    levels = list(found["percentiles"].values())
    assert levels == sorted(levels)


def test_statistics_of_a_large_image_are_close() -> None:
    array = np.random.default_rng(0).normal(50, 10, (60, 60, 60)).astype(np.float32)
    found = intensity_statistics(array, max_samples=10_000)
    assert found["mean"] == pytest.approx(50, abs=0.5)
    assert found["minimum"] == array.min()


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_voxels_that_are_not_finite_are_a_warning(
    make_catalog: MakeCatalog, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    catalog = make_catalog(count=2)
    image, labels = phantom(0)
    array = (image if kind == "image" else labels).astype(np.float32)
    array[0, 0, :3] = np.nan
    save_nifti(catalog.root / ("images" if kind == "image" else "labels") / "p00.nii.gz", array)
    prepare([catalog], tmp_path / "store", config=StoreConfig(chunk_size=8, block_size=4))
    assert [record.getMessage() for record in caplog.records if "NaN" in record.getMessage()] == [
        f"blobs/p00: 3 voxels of the {kind} are NaN or infinite: taken as "
        + ("the smallest finite value" if kind == "image" else "background")
    ]
