"""The lattice of tiles: it covers every volume at every zoom level, and the levels fit into each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.tiles import TileKey, TileLattice

lattices = st.builds(
    TileLattice,
    st.tuples(*[st.integers(1, 700)] * 3),
    st.tuples(*[st.floats(-3.5, 1.0).map(lambda e: 10.0**e)] * 3).filter(lambda s: max(s) < 60 * min(s)),
    st.sampled_from([32, 64, 96]),
)
shares = st.tuples(*[st.floats(0, 1)] * 3)


def any_level(lattice: TileLattice, share: float) -> int:
    """A level, from the finest for 0 to the coarsest for 1."""
    return min(int(share * lattice.num_levels), lattice.num_levels - 1)


def place_in(lattice: TileLattice, share: tuple[float, ...]) -> np.ndarray:
    """A canonical voxel position in the volume."""
    return np.array(share) * lattice.shape - 0.5


@given(lattices)
def test_the_coarsest_level_is_one_tile_and_the_next_is_not(lattice: TileLattice) -> None:
    top = lattice.num_levels - 1
    assert lattice.counts(top) == (1, 1, 1)
    if top > 0:
        assert max(lattice.counts(top - 1)) > 1
    assert lattice.level_spacing_mm(0) == min(lattice.spacing_mm)
    assert np.isclose(lattice.level_spacing_mm(top), min(lattice.spacing_mm) * 2**top)


@given(lattices, st.floats(0, 1))
def test_the_tiles_of_a_level_cover_the_volume(lattice: TileLattice, share: float) -> None:
    level = any_level(lattice, share)
    faces = np.array([np.full(3, -0.5), np.array(lattice.shape) - 0.5])
    low, high = lattice.to_level(faces, level)
    assert (low >= -0.5 - 1e-4).all()
    assert (high <= lattice.grid_shape(level) - 0.5 + 1e-4).all()
    counts = np.array(lattice.counts(level))
    last = lattice.tile_low(TileKey(level, tuple(int(c) - 1 for c in counts)))  # type: ignore[arg-type]
    assert np.array_equal(last + lattice.tile_size, lattice.grid_shape(level))
    fewer = (counts - 1 + 1) * (lattice.tile_size // 2)  # with a tile less along an axis, it would not
    needed = high - low
    assert (needed[counts > 1] > fewer[counts > 1] - 1e-3).all()


@given(lattices, st.floats(0, 1), shares)
def test_levels_and_voxels_round_trip(lattice: TileLattice, share: float, place: tuple[float, ...]) -> None:
    level = any_level(lattice, share)
    point = place_in(lattice, place)
    np.testing.assert_allclose(lattice.from_level(lattice.to_level(point, level), level), point, atol=1e-9 * 700)
    two = lattice.to_level(np.stack([point, point + 1]), level)
    np.testing.assert_allclose((two[1] - two[0]) * lattice.level_spacing_mm(level), lattice.spacing_mm, rtol=1e-6)


@given(lattices, st.floats(0, 1), shares)
def test_the_nearest_tile_holds_the_point_well_inside(
    lattice: TileLattice, share: float, place: tuple[float, ...]
) -> None:
    level = any_level(lattice, share)
    point = place_in(lattice, place)
    tile = lattice.nearest(point, level)
    assert all(0 <= p < c for p, c in zip(tile.place, lattice.counts(level), strict=True))
    local = lattice.to_level(point, level) - lattice.tile_low(tile)
    size = lattice.tile_size
    assert (local >= -0.5 - 1e-4).all()
    assert (local <= size - 0.5 + 1e-4).all()
    last = np.array(lattice.counts(level)) - 1
    tile_place = np.array(tile.place)
    # A quarter of a tile from its border, but at the end of the lattice.
    assert ((local >= size / 4 - 0.51) | (tile_place == 0)).all()
    assert ((local <= size * 3 / 4 - 0.49) | (tile_place == last)).all()


@given(lattices, st.floats(0, 1), shares, shares)
def test_covering_covers_and_wastes_little(
    lattice: TileLattice, share: float, first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    level = any_level(lattice, share)
    ends = np.sort(lattice.to_level(np.stack([place_in(lattice, first), place_in(lattice, second)]), level), axis=0)
    low, high = ends[0] + 0.5, ends[1] + 0.5  # half-open, in level voxels
    tiles = lattice.covering(low, high, level)
    assert len(set(tiles)) == len(tiles)
    lows = np.stack([lattice.tile_low(t) for t in tiles])
    assert (lows.min(axis=0) <= low + 1e-3).all()
    assert (lows.max(axis=0) + lattice.tile_size >= high - 1e-3).all()
    for axis in range(3):
        places = sorted({t.place[axis] for t in tiles})
        assert places == list(range(places[0], places[-1] + 1))
        assert len(places) <= (high - low)[axis] / (lattice.tile_size / 2) + 1.001
        assert all(0 <= p < lattice.counts(level)[axis] for p in places)


@given(lattices, shares, st.floats(0.1, 1.0), st.integers(1, 3))
def test_the_finest_level_for_a_size_is_the_finest_that_fits(
    lattice: TileLattice, share: tuple[float, ...], fill: float, max_tiles: int
) -> None:
    size_vox = np.array(share) * lattice.shape
    level = lattice.finest_level_for(size_vox, max_tiles=max_tiles, fill=fill)

    def fits(level: int) -> bool:
        return bool((size_vox / lattice.step_vox(level) <= max_tiles * fill * lattice.tile_size + 1e-6).all())

    assert fits(level) or level == lattice.num_levels - 1
    assert (
        level == 0
        or not fits(level - 1)
        or np.isclose((size_vox / lattice.step_vox(level - 1)).max(), max_tiles * fill * lattice.tile_size)
    )


@settings(max_examples=20)
@given(st.tuples(*[st.integers(1, 150)] * 3), st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3))
def test_all_tiles_are_all(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    lattice = TileLattice(shape, spacing, 32)
    for level in range(lattice.num_levels):
        tiles = lattice.all_tiles(level)
        assert len(set(tiles)) == len(tiles) == int(np.prod(lattice.counts(level)))
        for corner in ((0, 0, 0), np.array(shape) - 1, (np.array(shape) - 1) / 2):
            assert lattice.nearest(np.array(corner), level) in tiles


def test_a_turned_volume_has_the_turned_lattice() -> None:
    lattice = TileLattice((100, 60, 30), (1.0, 2.0, 3.0), 32)
    turned = TileLattice((30, 60, 100), (3.0, 2.0, 1.0), 32)
    for level in range(lattice.num_levels):
        assert lattice.counts(level) == turned.counts(level)[::-1]
        point = np.array([70.0, 20.0, 11.0])
        assert np.allclose(lattice.to_level(point, level), turned.to_level(point[::-1], level)[::-1])
        mirrored = np.array(lattice.shape) - 1 - point
        both = lattice.to_level(point, level) + lattice.to_level(mirrored, level)
        assert np.allclose(both, lattice.grid_shape(level) - 1)  # the lattice is centred


@given(lattices, st.floats(0, 1), st.integers(-9, 9))
def test_a_moved_tile_lies_beside_its_place(lattice: TileLattice, share: float, by: int) -> None:
    level = any_level(lattice, share)
    last = [count - 1 for count in lattice.counts(level)]
    tile = TileKey(level, (last[0], last[1], last[2]))
    assert np.array_equal(lattice.tile_low(tile.moved(by)), lattice.tile_low(tile) + by)
    assert tile.moved(by).moved(-by) == tile
