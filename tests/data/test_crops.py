"""Crops: labels that are counted once, and labels read from any layout in memory."""

from __future__ import annotations

import dataclasses

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.data.counted_labels import CountedLabels
from promptseg.data.crops import CropGeometry, TrainingVolume, crop_labels
from promptseg.data.text_targets import cell_share

label_maps = st.one_of(
    hnp.arrays(np.uint8, (8, 16, 9), elements=st.integers(0, 5)),
    hnp.arrays(np.int32, (9, 8, 8), elements=st.sampled_from([0, 0, 3, 1000, 2_000_000_000])),
    hnp.arrays(np.int32, (8, 8, 8), elements=st.sampled_from([0, -4, 3])),
)


@settings(max_examples=30)
@given(label_maps)
def test_labels_are_counted_as_by_sorting_them(labels: np.ndarray) -> None:
    counted = CountedLabels.of(labels)
    values, voxels = np.unique(labels, return_counts=True)
    np.testing.assert_array_equal(counted.values, values)
    np.testing.assert_array_equal(counted.voxels, voxels)
    np.testing.assert_array_equal(counted.values[counted.numbers], labels)
    np.testing.assert_array_equal(counted.mask([3, 4]), np.isin(labels, [3, 4]))


@settings(max_examples=10)
@given(label_maps)
def test_cells_hold_the_voxels_of_each_value(labels: np.ndarray) -> None:
    counted = CountedLabels.of(labels)
    cells = torch.from_numpy(counted.in_cells(8)).movedim(-1, 0).float()
    masks = torch.from_numpy(np.stack([labels == value for value in counted.values]))
    peaks = cells.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    torch.testing.assert_close(cells / peaks, cell_share(masks), rtol=0, atol=0)


def test_labels_are_the_nearest_whatever_their_layout() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (7, 9, 11)).astype(np.uint8)
    volume = TrainingVolume("case", "set", "CT", (), labels, np.array([1.0, 2.0, 0.5]))
    matrix = np.eye(3) * 0.9 + rng.normal(0, 0.1, (3, 3))
    positions = CropGeometry(np.array([3.0, 8.0, 2.5]), matrix, 12).positions_mm()
    found = crop_labels(volume, positions)
    fortran = dataclasses.replace(volume, labels=np.asfortranarray(labels))
    np.testing.assert_array_equal(found, crop_labels(fortran, positions))
    nearest = np.rint(positions / volume.spacing_mm).astype(int)
    inside = ((nearest >= 0) & (nearest < labels.shape)).all(axis=-1)
    assert inside.any() and not inside.all()
    assert found.dtype == np.int32 and not found[~inside].any()
    np.testing.assert_array_equal(found[inside], labels[tuple(nearest[inside].T)])
