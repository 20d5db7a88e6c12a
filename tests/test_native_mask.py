"""Masks on the image's voxels: parts of boxes behave as the whole arrays they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.boxes import box_slices, filled_box
from promptseg.canvas import Canvas
from promptseg.native_mask import NativeMask
from promptseg.tiles import TileKey, TileLattice

SHAPE = np.array([9, 8, 7])


def whole(mask: NativeMask) -> np.ndarray:
    """The mask on the whole volume."""
    return mask.cut((np.zeros(3, dtype=int), SHAPE))


@st.composite
def masks(draw: st.DrawFn) -> NativeMask:
    """Masks in boxes that are as small as they can be, or not; empty ones among them."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for _ in range(draw(st.integers(0, 3))):
        low = np.array([draw(st.integers(0, n - 1)) for n in SHAPE])
        high = np.array([draw(st.integers(a + 1, n)) for a, n in zip(low, SHAPE, strict=True)])
        array[box_slices(low, high)] = 1
    mask = NativeMask(np.zeros(3, dtype=int), array)
    return mask if draw(st.booleans()) else mask.trimmed()


@st.composite
def regions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    low = np.array([draw(st.integers(0, n - 1)) for n in SHAPE])
    return low, np.array([draw(st.integers(a, n)) for a, n in zip(low, SHAPE, strict=True)])


@given(masks())
def test_trimming_keeps_the_mask(mask: NativeMask) -> None:
    trimmed = mask.trimmed()
    assert np.array_equal(whole(trimmed), whole(mask))
    assert trimmed.is_empty == mask.is_empty == (not whole(mask).any())
    box = filled_box(whole(mask))
    assert trimmed.part.shape == ((0, 0, 0) if box is None else tuple(box[1] - box[0]))


@given(masks(), masks(), regions())
def test_a_region_is_replaced_and_the_rest_kept(
    mask: NativeMask, other: NativeMask, region: tuple[np.ndarray, np.ndarray]
) -> None:
    inside = np.zeros(SHAPE, dtype=bool)
    inside[box_slices(*region)] = True
    new = NativeMask(np.zeros(3, dtype=int), (whole(other) * inside).astype(np.uint8)).trimmed()
    before = whole(mask)
    replaced = mask.replaced(region, new)
    assert np.array_equal(whole(replaced), np.where(inside, whole(other), before))
    assert np.array_equal(whole(mask), before)


@given(masks(), masks())
def test_the_difference_box_is_the_smallest(first: NativeMask, second: NativeMask) -> None:
    expected = filled_box(whole(first) != whole(second))
    found = first.difference_box(second)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert np.array_equal(found, expected)


@given(masks(), st.lists(st.tuples(*[st.integers(0, n - 1) for n in SHAPE]), unique=True, max_size=5), st.data())
def test_every_click_is_respected_and_nothing_else_changes(
    mask: NativeMask, voxels: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    labels = np.array([data.draw(st.integers(0, 1)) for _ in voxels], dtype=int)
    points = np.array(voxels, dtype=float).reshape(-1, 3) + data.draw(st.floats(-0.49, 0.49))
    before = whole(mask)
    clicked = mask.with_clicks(points, labels, SHAPE)
    expected = before.copy()
    for voxel, label in zip(voxels, labels, strict=True):
        expected[voxel] = label
        assert clicked.value(np.array(voxel)) == label
    assert np.array_equal(whole(clicked), expected)
    assert np.array_equal(whole(mask), before)
    if clicked is not mask:
        assert clicked.part.shape == clicked.trimmed().part.shape


@settings(max_examples=20)
@given(st.integers(0, 2), st.integers(0, 5), st.sampled_from([1, 500, 2**22]), st.booleans())
def test_rendering_is_the_sign_of_the_logits(level: int, seed: int, slab: int, has_region: bool) -> None:
    lattice = TileLattice((40, 30, 20), (1.0, 1.2, 2.0), 16)
    tile = lattice.nearest(np.array([20.0, 15.0, 10.0]), min(level, lattice.num_levels - 1))
    coarse = torch.randn(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed)) - 1
    logits = torch.nn.functional.interpolate(coarse, size=(16,) * 3, mode="trilinear")[0]
    canvas = Canvas.from_tiles(lattice, [tile], logits)
    shape = np.array(lattice.shape)
    expected = (canvas.sample(np.zeros(3, dtype=int), shape) > 0).numpy()
    region = (np.array([10, 5, 4]), np.array([30, 20, 12])) if has_region else None
    if region is not None:
        kept = np.zeros_like(expected)
        kept[box_slices(*region)] = True
        expected &= kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("promptseg.native_mask.SLAB_VOXELS", slab)
        mask = NativeMask.of_canvas(canvas, shape, region)
    assert np.array_equal(mask.cut((np.zeros(3, dtype=int), shape)), expected)


def test_a_canvas_without_a_mask_gives_none() -> None:
    lattice = TileLattice((40, 30, 20), (1.0, 1.0, 1.0), 16)
    canvas = Canvas.from_tiles(lattice, [TileKey(0, (0, 0, 0))], torch.full((1, 16, 16, 16), -1.0))
    assert NativeMask.of_canvas(canvas, np.array(lattice.shape)).part.size == 0
    filled = Canvas.from_tiles(lattice, [TileKey(0, (0, 0, 0))], torch.ones(1, 16, 16, 16))
    far = (np.array([30, 20, 10]), np.array([40, 30, 20]))
    assert NativeMask.of_canvas(filled, np.array(lattice.shape), far).part.size == 0
