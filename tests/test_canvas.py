"""Canvases: tiles come back as they were drawn, at every level, without seams, and every click is respected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.canvas import Canvas, depth_inside, fade_window, gaussian_window
from promptseg.tiles import TileKey, TileLattice

SIZE = 32
LATTICE = TileLattice((100, 90, 50), (1.0, 1.0, 2.0), SIZE)
"""Levels of 7 x 6 x 7, 3 x 2 x 3 and 1 tile."""

tile_places = st.tuples(*[st.integers(0, c - 1) for c in LATTICE.counts(0)])


def field(level: int, low: np.ndarray, shape: tuple[int, ...], lattice: TileLattice = LATTICE) -> torch.Tensor:
    """A function of the place in the image, linear, at level voxels."""
    grids = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) + low
    places_mm = lattice.from_level(grids, level) * lattice.spacing_mm
    return torch.from_numpy((places_mm @ [0.1, -0.05, 0.02] - 2.0).astype(np.float32))


def drawn(tile: TileKey) -> torch.Tensor:
    return field(tile.level, LATTICE.tile_low(tile), (SIZE,) * 3)


def ball(level: int, tiles: list[TileKey], centre_vox: tuple[float, ...], radius_mm: float) -> Canvas:
    """A ball drawn on tiles of one level."""
    centre_mm = np.array(centre_vox) * LATTICE.spacing_mm
    logits = []
    for tile in tiles:
        grids = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1) + LATTICE.tile_low(tile)
        places_mm = LATTICE.from_level(grids, level) * LATTICE.spacing_mm
        logits.append(radius_mm - np.linalg.norm(places_mm - centre_mm, axis=-1))
    return Canvas.from_tiles(LATTICE, tiles, torch.from_numpy(np.stack(logits).astype(np.float32)))


@settings(max_examples=15)
@given(tile_places)
def test_one_tile_comes_back_bit_for_bit(place: tuple[int, int, int]) -> None:
    tile = TileKey(0, place)
    canvas = Canvas.from_tiles(LATTICE, [tile], drawn(tile)[None])
    assert torch.equal(canvas.for_tile(tile), drawn(tile))
    assert np.array_equal(canvas.low, LATTICE.tile_low(tile))
    assert np.array_equal(canvas.high, LATTICE.tile_low(tile) + SIZE)


def test_tiles_that_agree_blend_without_a_seam() -> None:
    tiles = [TileKey(0, (i, j, k)) for i in (1, 2, 3) for j in (0, 1) for k in (2, 3)]
    canvas = Canvas.from_tiles(LATTICE, tiles, torch.stack([drawn(t) for t in tiles]))
    torch.testing.assert_close(canvas.logits, field(0, canvas.low, tuple(canvas.logits.shape)), atol=1e-4, rtol=0)


def test_tiles_that_disagree_blend_smoothly() -> None:
    tiles = [TileKey(0, (1, 0, 0)), TileKey(0, (2, 0, 0))]
    logits = torch.stack([torch.full((SIZE,) * 3, -1.0), torch.full((SIZE,) * 3, 1.0)])
    canvas = Canvas.from_tiles(LATTICE, tiles, logits)
    profile = canvas.logits[:, 5, 5]
    assert (profile.diff() >= -1e-6).all()
    assert float(profile.diff().max()) < 0.5  # in one step from one tile to the other it would be 2
    assert float(profile[: SIZE // 2].max()) == -1
    assert float(profile[SIZE:].min()) == 1


def test_corners_that_no_tile_holds_stay_undrawn() -> None:
    tiles = [TileKey(0, (0, 0, 0)), TileKey(0, (2, 2, 0))]
    canvas = Canvas.from_tiles(LATTICE, tiles, torch.ones(2, SIZE, SIZE, SIZE))
    assert canvas.logits[:SIZE, :SIZE].isfinite().all()
    assert canvas.logits[:SIZE, SIZE:].isnan().all()
    undrawn = canvas.sample(np.array([0, 60, 8]), np.array([6, 66, 10]))
    assert (undrawn < 0).all()


@settings(max_examples=15)
@given(tile_places, tile_places)
def test_pasting_what_is_there_changes_nothing(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
    tiles = TileKey(0, first), TileKey(0, second)
    canvas = Canvas.from_tiles(LATTICE, [tiles[0]], drawn(tiles[0])[None])
    for keeps_drawn in (False, True):
        pasted = canvas.paste(tiles[1], drawn(tiles[1]), keeps_drawn)
        for tile in tiles:
            torch.testing.assert_close(pasted.for_tile(tile), drawn(tile), atol=1e-5, rtol=0)
        assert np.array_equal(pasted.low, np.minimum(*map(LATTICE.tile_low, tiles)))


def test_a_pasted_tile_replaces_its_core_and_fades_at_its_border() -> None:
    tile, wide = TileKey(0, (2, 2, 2)), [TileKey(0, (i, j, k)) for i in range(5) for j in range(5) for k in range(5)]
    canvas = Canvas.from_tiles(LATTICE, wide, torch.full((len(wide), SIZE, SIZE, SIZE), -3.0))
    pasted = canvas.paste(tile, torch.full((SIZE,) * 3, 5.0))
    inside = pasted.for_tile(tile)
    edge = SIZE // 8
    core = inside[edge:-edge, edge:-edge, edge:-edge]
    torch.testing.assert_close(core, torch.full_like(core, 5.0))
    assert float(inside[0].max()) < 0  # next to what was there
    untouched = pasted.logits.clone()
    low = LATTICE.tile_low(tile)
    untouched[low[0] : low[0] + SIZE, low[1] : low[1] + SIZE, low[2] : low[2] + SIZE] = -3.0
    torch.testing.assert_close(untouched, torch.full_like(untouched, -3.0))
    torch.testing.assert_close(canvas.logits, untouched)  # canvases do not change


def test_a_pasted_tile_can_keep_what_was_drawn() -> None:
    first, second = TileKey(0, (1, 1, 1)), TileKey(0, (2, 1, 1))
    canvas = Canvas.from_tiles(LATTICE, [first], torch.full((1, SIZE, SIZE, SIZE), -3.0))
    profile = canvas.paste(second, torch.full((SIZE,) * 3, 5.0), keeps_drawn=True).logits[:, 9, 9]
    edge = SIZE // 8
    assert (profile[: SIZE - edge] == -3).all()
    assert (profile[SIZE:] == 5).all()
    assert (profile.diff() >= 0).all()
    assert float(profile.diff().max()) <= 8 / edge + 1e-5


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("other", [0, 1, 2])
def test_linear_logits_pass_from_level_to_level(level: int, other: int) -> None:
    tiles = [LATTICE.nearest(np.array([50.0, 45.0, 25.0]), level)]
    canvas = Canvas.from_tiles(LATTICE, tiles, drawn(tiles[0])[None])
    target = LATTICE.nearest(np.array([50.0, 45.0, 25.0]), other)
    logits, expected = canvas.for_tile(target), drawn(target)
    centres = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1) + LATTICE.tile_low(target)
    at = LATTICE.to_level(LATTICE.from_level(centres, other), level) - canvas.low
    inside = torch.from_numpy(((at >= 0) & (at <= SIZE - 1)).all(axis=-1))
    beyond = torch.from_numpy(((at < -0.51) | (at > SIZE - 0.49)).any(axis=-1))
    assert inside.any()
    torch.testing.assert_close(logits[inside], expected[inside], atol=1e-4, rtol=0)
    assert (logits[beyond] == 0).all()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_linear_logits_are_exact_on_the_images_voxels(level: int) -> None:
    tile = LATTICE.nearest(np.array([50.0, 45.0, 25.0]), level)
    canvas = Canvas.from_tiles(LATTICE, [tile], drawn(tile)[None])
    low, high = np.array([44, 40, 22]), np.array([56, 50, 28])
    voxels = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), axis=-1)
    expected = (voxels * LATTICE.spacing_mm) @ [0.1, -0.05, 0.02] - 2.0
    np.testing.assert_allclose(canvas.sample(low, high).numpy(), expected, atol=1e-4)


def test_voxels_that_were_not_drawn_are_outside() -> None:
    tile = TileKey(0, (2, 2, 2))
    canvas = Canvas.from_tiles(LATTICE, [tile], torch.ones(1, SIZE, SIZE, SIZE))
    whole = canvas.sample(np.zeros(3, dtype=int), np.array(LATTICE.shape))
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in LATTICE.shape], indexing="ij"), axis=-1)
    at = LATTICE.to_level(voxels, 0) - canvas.low
    inside = ((at >= -0.5) & (at <= SIZE - 0.5)).all(axis=-1)
    assert np.array_equal(whole.numpy() > 0, inside)
    nowhere = canvas.sample(np.array([0, 0, 0]), np.array([3, 3, 3]))
    assert (nowhere == -torch.inf).all()


@settings(max_examples=20)
@given(st.integers(0, 2), st.tuples(*[st.floats(0.35, 0.65)] * 3), st.floats(3, 8))
def test_the_box_of_a_mask_is_that_of_its_level_voxels(
    level: int, share: tuple[float, float, float], radius_mm: float
) -> None:
    centre = np.array(share) * LATTICE.shape
    tile = LATTICE.nearest(centre, level)
    canvas = ball(level, [tile], tuple(centre), radius_mm)
    box = canvas.box_vox()
    if box is None:
        assert radius_mm < 2 * LATTICE.level_spacing_mm(level)
        return
    reach = radius_mm / np.array(LATTICE.spacing_mm)
    step = LATTICE.step_vox(level)
    local = LATTICE.to_level(centre, level) - LATTICE.tile_low(tile)
    whole = (local - reach / step > 1).all() and (local + reach / step < SIZE - 2).all()
    if whole:
        assert (np.abs(box[0] - (centre - reach + 0.5)) <= 1.5 * step).all()
        assert (np.abs(box[1] - (centre + reach + 0.5)) <= 1.5 * step).all()


def test_an_empty_mask_has_no_box_and_no_open_tiles() -> None:
    canvas = Canvas.from_tiles(LATTICE, [TileKey(0, (1, 1, 1))], torch.full((1, SIZE, SIZE, SIZE), -1.0))
    assert canvas.box_vox() is None
    assert canvas.open_tiles() == []


def test_a_mask_inside_its_tile_is_not_open() -> None:
    centre = LATTICE.from_level(LATTICE.tile_low(TileKey(0, (2, 2, 2))) + SIZE / 2, 0)
    assert ball(0, [TileKey(0, (2, 2, 2))], tuple(centre), 10.0).open_tiles() == []


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_a_mask_that_reaches_a_side_opens_the_tile_beyond(axis: int, side: int) -> None:
    tile = TileKey(0, (2, 2, 2))
    centre = LATTICE.tile_low(tile) + SIZE / 2 - 0.5
    centre[axis] += side * SIZE / 2
    canvas = ball(0, [tile], tuple(LATTICE.from_level(centre, 0)), 6.0)
    expected = list(tile.place)
    expected[axis] += side
    assert canvas.open_tiles() == [TileKey(0, (expected[0], expected[1], expected[2]))]


def test_a_mask_that_reaches_the_images_end_is_not_open_there() -> None:
    tile = TileKey(0, (0, 0, 0))
    canvas = Canvas.from_tiles(LATTICE, [tile], torch.full((1, SIZE, SIZE, SIZE), -1.0))
    canvas.logits[0] = 1.0
    places = {t.place[0] for t in canvas.open_tiles()}
    assert places <= {0}
    top = Canvas.from_tiles(LATTICE, [TileKey(2, (0, 0, 0))], torch.ones(1, SIZE, SIZE, SIZE))
    assert top.open_tiles() == []


def test_a_wide_opening_needs_several_tiles_and_they_hold_it() -> None:
    tiles = [TileKey(0, (2, j, k)) for j in range(0, 5, 2) for k in range(0, 5, 2)]
    logits = torch.full((len(tiles), SIZE, SIZE, SIZE), -1.0)
    logits[:, -1] = 1.0  # a plate on the far side
    canvas = Canvas.from_tiles(LATTICE, tiles, logits)
    opened = canvas.open_tiles()
    assert 4 <= len(opened) <= 16
    covered = np.zeros((canvas.logits.shape[1], canvas.logits.shape[2]), dtype=bool)
    for tile in opened:
        local = LATTICE.tile_low(tile) - canvas.low
        assert local[0] <= SIZE < local[0] + SIZE or local[0] < SIZE
        if local[0] <= SIZE < local[0] + SIZE:
            covered[max(0, local[1]) : local[1] + SIZE, max(0, local[2]) : local[2] + SIZE] = True
    assert covered.all()


def test_what_moved_tiles_left_undrawn_beyond_the_grid_is_not_open() -> None:
    small = TileLattice((7, 7, 7), (1.0, 1.0, 3.0), 16)
    tile = TileKey(small.num_levels - 1, (0, 0, 0))
    tiles = [tile.moved(by) for by in (-2, 0, 2)]
    canvas = Canvas.from_tiles(small, tiles, [torch.ones(16, 16, 16)] * 3)
    assert canvas.logits.isnan().any()
    assert all(t == tile for t in canvas.open_tiles())


def test_a_gap_between_drawn_parts_is_open() -> None:
    tiles = [TileKey(0, (0, 2, 2)), TileKey(0, (4, 2, 2))]
    canvas = Canvas.from_tiles(LATTICE, tiles, torch.full((2, SIZE, SIZE, SIZE), -1.0))
    canvas.logits[: 5 * SIZE // 2, 12:18, 12:18] = torch.where(
        canvas.logits[: 5 * SIZE // 2, 12:18, 12:18].isnan(), torch.nan, 1.0
    )
    canvas.logits[0] = -1.0
    canvas.logits[-1] = -1.0
    assert {t.place for t in canvas.open_tiles()} & {(1, 2, 2), (2, 2, 2), (3, 2, 2)}


levels = st.integers(0, 2)
clicks = st.lists(st.tuples(*[st.floats(0.3, 0.7)] * 3, st.integers(0, 1)), min_size=1, max_size=4)


@settings(max_examples=40)
@given(levels, clicks, st.integers(0, 10))
def test_the_last_click_is_respected_at_its_place(
    level: int, places: list[tuple[float, float, float, int]], seed: int
) -> None:
    tile = LATTICE.nearest(np.array(LATTICE.shape) / 2, level)
    noise = torch.randn(1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    canvas = Canvas.from_tiles(LATTICE, [tile], noise)
    points = np.array([p[:3] for p in places]) * LATTICE.shape
    labels = np.array([p[3] for p in places])
    enforced = canvas.enforce(points, labels)
    local = LATTICE.to_level(points[-1], level) - canvas.low
    if ((local < 0) | (local > SIZE - 1)).any():
        return
    low = np.floor(local).astype(int)
    value = 0.0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(1 - np.abs(local - low - corner))
        if weight > 0:
            value += weight * float(enforced.logits[tuple(low + corner)])
    assert (value > 0) == bool(labels[-1])
    assert int((enforced.logits != canvas.logits).sum()) <= 8 * len(places)
    assert torch.equal(canvas.logits, noise[0])


def test_clicks_that_are_respected_change_nothing() -> None:
    tile = TileKey(0, (2, 2, 2))
    centre = LATTICE.from_level(LATTICE.tile_low(tile) + SIZE / 2, 0)
    canvas = ball(0, [tile], tuple(centre), 8.0)
    points = np.stack([centre, centre + [12, 0, 0]])
    assert torch.equal(canvas.enforce(points, np.array([1, 0])).logits, canvas.logits)
    assert canvas.enforce(np.zeros((0, 3)), np.zeros(0)) is canvas


def test_a_click_where_nothing_was_drawn_changes_nothing() -> None:
    tile = TileKey(0, (2, 2, 2))
    canvas = Canvas.from_tiles(LATTICE, [tile], torch.ones(1, SIZE, SIZE, SIZE))
    for label in (0, 1):
        enforced = canvas.enforce(np.array([[1.0, 1.0, 1.0], [99.0, 89.0, 49.0]]), np.array([label, label]))
        assert torch.equal(enforced.logits, canvas.logits)


def test_a_local_change_falls_off_with_distance() -> None:
    before = ball(0, [TileKey(0, (1, 1, 1))], (20.0, 20.0, 20.0), 6.0)
    after = Canvas(before.lattice, 0, before.low, before.logits + 4.0)
    changed = after.local(before, before.low + 8.0, reach=3.0).logits
    share = (changed - before.logits) / 4.0
    offsets = torch.arange(before.logits.shape[0]) - 8.0
    torch.testing.assert_close(share[:, 8, 8], torch.exp(-((offsets / 3.0) ** 2)))
    assert share.max() == share[8, 8, 8] == 1.0


def test_a_local_change_adds_what_was_not_drawn_only_near_its_place() -> None:
    part = ball(0, [TileKey(0, (1, 1, 1))], (20.0, 20.0, 20.0), 6.0)
    size = part.logits.shape[0]
    part.logits[-4:] = torch.nan
    logits = torch.full((size + 8, size, size), 3.0)
    logits[-1], logits[-2] = torch.nan, -3.0
    after = Canvas(part.lattice, 0, part.low, logits)
    changed = after.local(part, part.low + np.array([size - 4.0, 8.0, 8.0]), reach=4.0).logits
    assert changed[size - 4, 8, 8] == 3.0
    assert changed[size - 3, 8, 8] > 0  # beside the place
    assert (changed[size + 2 : -2] < 0).all()  # far from it
    assert changed[-1].isnan().all()
    assert (changed[-2] == -3.0).all()


def test_the_distance_to_a_mask_and_out_of_it() -> None:
    canvas = ball(0, [TileKey(0, (1, 1, 1))], (20.0, 20.0, 20.0), 5.0)
    inside = torch.nonzero(canvas.logits > 0).float() + torch.from_numpy(canvas.low)
    outside = torch.nonzero(canvas.logits <= 0).float() + torch.from_numpy(canvas.low)
    for place in (np.array([20.0, 20.0, 20.0]), np.array([20.0, 21.5, 28.0])):
        for voxels, is_inside in ((inside, True), (outside, False)):
            expected = float((voxels - torch.from_numpy(place)).norm(dim=1).min())
            assert canvas.distance_to(place, is_inside) == pytest.approx(expected, abs=1e-4)
    empty = Canvas(canvas.lattice, 0, canvas.low, torch.full_like(canvas.logits, -1.0))
    assert empty.distance_to(np.zeros(3), inside=True) == np.inf


def test_windows() -> None:
    gaussian, fade = gaussian_window(SIZE), fade_window(SIZE)
    for window in (gaussian, fade):
        assert window.shape == (SIZE,) * 3
        assert float(window.min()) > 0
        assert float(window.max()) <= 1
        for axis in range(3):
            assert torch.equal(window, window.flip(axis))
    assert (fade[4:-4, 4:-4, 4:-4] == 1).all()


def test_depth_counts_steps_from_the_end() -> None:
    region = torch.zeros(9, 9, 9, dtype=torch.bool)
    region[:, :, :6] = True
    depth = depth_inside(region, 4)
    assert depth[4, 4].tolist() == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0]
    assert (depth_inside(torch.ones(5, 5, 5, dtype=torch.bool), 4) == 1).all()
