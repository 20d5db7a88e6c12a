"""Resampling: constants and ramps come through, at every step, and beyond the array there is the outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.resample import axis_weights, sample_grid, sample_tile


def as_tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


def ramp(shape: tuple[int, int, int], slopes: tuple[float, ...] = (1.0, -2.0, 0.5)) -> np.ndarray:
    """A linear function of the voxel."""
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum(s * g for s, g in zip(slopes, grids, strict=True)).astype(np.float32)


def positions(start: np.ndarray, step: np.ndarray, size: int) -> list[np.ndarray]:
    return [start[a] + step[a] * np.arange(size) for a in range(3)]


steps = st.tuples(*[st.one_of(st.floats(0.1, 9.0), st.integers(1, 12).map(float))] * 3).map(np.array)


@settings(max_examples=30)
@given(steps, st.tuples(*[st.floats(-20, 60)] * 3).map(np.array), st.sampled_from([16, 32]))
def test_a_constant_stays_constant_inside_and_is_bounded_everywhere(
    step: np.ndarray, start: np.ndarray, size: int
) -> None:
    shape = (40, 50, 45)
    tile = sample_tile(np.full(shape, 7, np.int16), start, step, size, as_tensor, outside=-3.0)
    assert tile.shape == (size,) * 3
    assert float(tile.min()) >= -3 - 1e-4
    assert float(tile.max()) <= 7 + 1e-4
    reach = np.maximum(1.0, 2 * step)  # of the filter, voxels that are skipped among them
    where = positions(start, step, size)
    inside = [(p >= r) & (p <= n - 1 - r) for p, r, n in zip(where, reach, shape, strict=True)]
    beyond = [(p <= -r) | (p >= n - 1 + r) for p, r, n in zip(where, reach, shape, strict=True)]
    torch.testing.assert_close(tile[np.ix_(*inside)], torch.full_like(tile[np.ix_(*inside)], 7.0), atol=1e-4, rtol=0)
    for axis in range(3):
        face = tile.index_select(axis, torch.from_numpy(np.flatnonzero(beyond[axis])))
        torch.testing.assert_close(face, torch.full_like(face, -3.0), atol=1e-4, rtol=0)


@settings(max_examples=30)
@given(
    st.tuples(*[st.one_of(st.floats(0.1, 1.0), st.sampled_from([1.0, 2.0, 3.0, 4.0, 6.0, 8.0]))] * 3).map(np.array),
    st.tuples(*[st.floats(0, 1)] * 3).map(np.array),
)
def test_ramps_are_exact_at_fine_and_whole_steps(step: np.ndarray, share: np.ndarray) -> None:
    size, shape = 8, (90, 80, 85)
    reach = 2 * step
    start = reach + share * (np.array(shape) - 1 - 2 * reach - step * (size - 1)).clip(min=0)
    tile = sample_tile(ramp(shape), start, step, size, as_tensor)
    where = positions(start, step, size)
    expected = as_tensor(where[0][:, None, None] - 2 * where[1][None, :, None] + 0.5 * where[2][None, None, :])
    inside = np.ix_(*[(p >= r) & (p <= n - 1 - r) for p, r, n in zip(where, reach, shape, strict=True)])
    torch.testing.assert_close(tile[inside], expected[inside], atol=2e-3, rtol=1e-4)


@settings(max_examples=30)
@given(steps)
def test_ramps_are_close_at_any_step(step: np.ndarray) -> None:
    """A triangle wider than a voxel weighs its samples unevenly: by less than a tenth of its width."""
    size, shape = 6, (90, 90, 90)
    start = np.full(3, 20.3)
    tile = sample_tile(ramp(shape, (1.0, 0.0, 0.0)), start, step, size, as_tensor)
    where = positions(start, step, size)
    inside = np.ix_(*[(p >= 2 * s) & (p <= 89 - 2 * s) for p, s in zip(where, step, strict=True)])
    expected = as_tensor(np.broadcast_to(where[0][:, None, None], (size,) * 3).copy())
    error = (tile - expected)[inside].abs()
    assert not len(error.flatten()) or float(error.max()) < 0.1 * max(1.0, step[0])


def test_voxels_are_read_where_they_lie() -> None:
    array = np.random.default_rng(0).normal(size=(20, 21, 22)).astype(np.float32)
    tile = sample_tile(array, np.array([2.0, 3.0, 4.0]), np.ones(3), 16, as_tensor)
    torch.testing.assert_close(tile, torch.from_numpy(array[2:18, 3:19, 4:20]))
    flipped = sample_tile(array[::-1], np.array([2.0, 3.0, 4.0]), np.ones(3), 16, as_tensor)
    torch.testing.assert_close(flipped, torch.from_numpy(array[::-1][2:18, 3:19, 4:20].copy()))


def test_coarse_tiles_average() -> None:
    """A pattern finer than the tile becomes its mean, not one of its values."""
    stripes = np.zeros((64, 64, 64), np.float32)
    stripes[::2] = 1
    tile = sample_tile(stripes, np.full(3, 8.0), np.full(3, 2.0), 16, as_tensor)
    torch.testing.assert_close(tile, torch.full_like(tile, 0.5), atol=1e-6, rtol=0)


def test_only_the_tiles_part_is_read() -> None:
    read: list[int] = []

    def convert(values: np.ndarray) -> torch.Tensor:
        read.append(values.size)
        return as_tensor(values)

    for step in (0.5, 1.0, 2.0, 5.0, 30.0):
        sample_tile(np.zeros((400, 400, 300), np.int8), np.full(3, 100.0), np.full(3, step), 16, convert)
    assert max(read) <= (3 * 16 + 8) ** 3


@settings(max_examples=30)
@given(st.floats(0, 30), st.integers(1, 12), st.floats(1.0, 4.0))
def test_weights_sum_to_one_inside(position: float, count: int, support: float) -> None:
    places = position + np.arange(count)
    weights, first = axis_weights(places, 60, support)
    assert (weights >= 0).all()
    inside = (places >= support) & (places <= 59 - support)
    np.testing.assert_allclose(weights[inside].sum(axis=1), 1, atol=1e-5)
    assert (weights.sum(axis=1) <= 1 + 1e-5).all()
    assert 0 <= first < first + weights.shape[1] <= 60


@settings(max_examples=30)
@given(st.tuples(*[st.floats(0.3, 5.0)] * 3).map(np.array), st.tuples(*[st.floats(-10, 10)] * 3).map(np.array))
def test_grids_are_interpolated_between_and_held_at_their_ends(step: np.ndarray, start: np.ndarray) -> None:
    shape = (6, 7, 8)
    values = torch.from_numpy(ramp(shape))
    low, high = np.array([-4, -2, 0]), np.array([20, 21, 22])
    sampled = sample_grid(values, start, step, low, high)
    at = [np.clip((np.arange(low[a], high[a]) - start[a]) / step[a], 0, shape[a] - 1) for a in range(3)]
    expected = as_tensor(at[0][:, None, None] - 2 * at[1][None, :, None] + 0.5 * at[2][None, None, :])
    torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 1), (2, 1, 3)])
def test_single_voxels_and_rows_are_kept(shape: tuple[int, int, int]) -> None:
    tile = sample_tile(np.full(shape, 5, np.uint8), np.full(3, -8.0), np.ones(3), 16, as_tensor, outside=-1.0)
    inside = np.ix_(*[(np.arange(16) - 8 >= 0) & (np.arange(16) - 8 < n) for n in shape])
    assert (tile[inside] == 5).all()
    assert int((tile != -1).sum()) == tile[inside].numel()
    assert (sample_grid(torch.full(shape, 5.0), np.zeros(3), np.ones(3), np.zeros(3), np.full(3, 4)) == 5).all()
