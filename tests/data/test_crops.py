"""Crops: labels that are counted once, and labels read from any layout in memory."""

from __future__ import annotations

import dataclasses

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.data.counted_labels import CountedLabels
from promptseg.data.crops import CropGeometry, TrainingVolume, crop_labels, draw_geometry, random_rotation
from promptseg.data.randomness import Randomness
from promptseg.data.sampler import SamplerConfig
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


def _geometries(count: int = 300, **changes: float) -> list[CropGeometry]:
    volume = TrainingVolume("case", "set", "CT", (), np.zeros((40, 40, 40), np.uint8), np.ones(3))
    config = SamplerConfig(crop_size=16, **changes)  # type: ignore[arg-type]
    return [draw_geometry(volume, None, Randomness((number,)), config) for number in range(count)]


def _is_turned(geometry: CropGeometry) -> bool:
    directions = geometry.matrix_mm / np.linalg.norm(geometry.matrix_mm, axis=0)
    return bool(np.abs(directions).max(axis=0).min() < 1 - 1e-9)


def test_half_of_the_crops_are_turned_by_up_to_what_is_asked_for() -> None:
    geometries = _geometries(rotation_degrees=20.0, upright_share=1.0)
    assert np.mean([_is_turned(g) for g in geometries]) == pytest.approx(0.5, abs=0.1)
    cosines = []
    for geometry in geometries:
        turn = geometry.matrix_mm / np.linalg.norm(geometry.matrix_mm, axis=0)
        turn[:, 0] *= -1 if geometry.is_mirrored else 1
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        cosines.append((np.trace(turn) - 1) / 2)
    largest = np.degrees(np.arccos(np.clip(cosines, -1, 1))).max()
    assert 15 < largest <= 20
    assert not any(_is_turned(g) for g in _geometries(50, rotation_degrees=0.0))


def test_a_rotation_turns_about_an_axis_by_at_most_its_angle() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        turn = random_rotation(rng, 30.0)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert (np.trace(turn) - 1) / 2 >= np.cos(np.deg2rad(30)) - 1e-12


def test_a_third_of_the_crops_is_warped_smoothly_by_a_few_voxels() -> None:
    geometries = _geometries()
    warped = [g for g in geometries if g.warp_mm is not None]
    assert len(warped) / len(geometries) == pytest.approx(0.3, abs=0.08)
    for geometry in warped:
        assert geometry.warp_mm is not None
        moved = geometry.positions_mm() - dataclasses.replace(geometry, warp_mm=None).positions_mm()
        np.testing.assert_allclose(moved, geometry.warp_mm, atol=1e-3)
        spacing_mm = np.linalg.norm(geometry.matrix_mm, axis=0).mean()
        assert 0.1 < geometry.warp_mm.std() / spacing_mm < 4
        assert np.abs(np.diff(geometry.warp_mm, axis=0)).max() < np.ptp(geometry.warp_mm) / 2
