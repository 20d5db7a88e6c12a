"""Strokes as voxels: without gaps, as thick in millimetres everywhere, and filled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.strokes import (
    NUM_KEY_POINTS,
    fill_polygon,
    key_points_along,
    key_points_among,
    rasterise_lasso,
    rasterise_scribble,
    walk_polyline,
)

SHAPE = (24, 20, 16)
points = st.lists(st.tuples(*[st.floats(0, n - 1) for n in SHAPE]), min_size=1, max_size=5).map(np.array)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 4.0])] * 3).map(np.array)


def as_array(voxels: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    drawn = np.zeros(shape, bool)
    drawn[tuple(voxels.T)] = True
    return drawn


def distance_mm(shape: tuple[int, ...], line: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Distance of every voxel from a polyline, the slow way."""
    centres = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) * spacing_mm
    corners = line * spacing_mm
    best = np.full(shape, np.inf)
    for a, b in zip(corners, corners[1:] if len(corners) > 1 else corners, strict=False):
        along = (b - a) @ (b - a)
        share = np.clip(((centres - a) @ (b - a)) / along, 0, 1) if along else np.zeros(shape)
        best = np.minimum(best, np.linalg.norm(centres - a - share[..., None] * (b - a), axis=-1))
    return best


@given(points)
def test_a_line_has_no_gaps_and_passes_its_corners(line: np.ndarray) -> None:
    walked = walk_polyline(line)
    assert (np.abs(np.diff(walked, axis=0)).max(axis=1, initial=0) <= 1).all()
    assert {tuple(v) for v in np.rint(line).astype(int)} <= {tuple(v) for v in walked}
    assert np.array_equal(walked[0], np.rint(line[0]))
    voxels = rasterise_scribble(line, SHAPE, np.ones(3))
    assert np.array_equal(as_array(voxels), as_array(walked))
    assert len(np.unique(voxels, axis=0)) == len(voxels)
    assert distance_mm(SHAPE, line, np.ones(3))[as_array(voxels)].max() <= np.sqrt(3) / 2 + 1e-6


@settings(max_examples=30)
@given(points, spacings, st.floats(0.3, 6))
def test_a_brush_is_a_radius_in_millimetres(line: np.ndarray, spacing_mm: np.ndarray, radius_mm: float) -> None:
    drawn = as_array(rasterise_scribble(line, SHAPE, spacing_mm, radius_mm))
    thin = as_array(rasterise_scribble(line, SHAPE, spacing_mm))
    distance = distance_mm(SHAPE, line, spacing_mm)
    assert drawn[distance <= radius_mm * (1 - 1e-6)].all()
    assert not drawn[(distance > radius_mm * (1 + 1e-6)) & ~thin].any()
    assert drawn[thin].all()


@settings(max_examples=20)
@given(points, spacings)
def test_a_list_of_voxels_has_no_lines_between(places: np.ndarray, spacing_mm: np.ndarray) -> None:
    drawn = as_array(rasterise_scribble(places, SHAPE, spacing_mm, connected=False))
    assert {tuple(v) for v in np.argwhere(drawn)} == {tuple(v) for v in np.rint(places).astype(int)}
    dots = as_array(rasterise_scribble(places, SHAPE, spacing_mm, 2.0, connected=False))
    nearest = np.min([distance_mm(SHAPE, p[None], spacing_mm) for p in places], axis=0)
    assert np.array_equal(dots | (np.abs(nearest - 2) < 1e-6), (nearest <= 2) | drawn | (np.abs(nearest - 2) < 1e-6))


def test_a_brush_stroke_through_a_large_image_is_cheap() -> None:
    """The cost is that of the brushed voxels: a diagonal through 512^3 would else need 134 million."""
    line = np.array([(0.0, 0.0, 0.0), (511.0, 511.0, 511.0)])
    voxels = rasterise_scribble(line, (512, 512, 512), np.ones(3), 1.5)
    assert 2000 < len(voxels) < 8000


@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), min_size=3, max_size=8).map(np.array))
def test_polygons_are_filled_by_their_winding_number(contour: np.ndarray) -> None:
    filled = fill_polygon(contour.astype(float), (10, 9))
    for row in range(10):
        for column in range(9):
            place = np.array([row, column], float)
            on_edge, turns = _winding(contour.astype(float), place)
            if not on_edge:
                assert filled[row, column] == (turns != 0), (row, column)


def _winding(contour: np.ndarray, place: np.ndarray) -> tuple[bool, int]:
    """Whether a place lies on the contour, and the angle it winds around it in turns."""
    total = 0.0
    for a, b in zip(contour, np.roll(contour, -1, axis=0), strict=True):
        u, v = a - place, b - place
        cross, dot = u[0] * v[1] - u[1] * v[0], u @ v
        if abs(cross) < 1e-9 and dot <= 1e-9:
            return True, 0
        total += np.arctan2(cross, dot)
    return False, int(np.rint(total / (2 * np.pi)))


@pytest.mark.parametrize("axis", range(3))
def test_a_lasso_holds_its_outline_and_what_it_encloses(axis: int) -> None:
    plane = [a for a in range(3) if a != axis]
    contour = np.zeros((4, 3))
    contour[:, axis] = 5
    contour[:, plane] = [(3, 4), (10, 4), (10, 12), (3, 12)]
    drawn = as_array(rasterise_lasso(contour, axis, SHAPE))
    expected = np.zeros(SHAPE, bool)
    region: list[slice] = [slice(0)] * 3
    region[axis], region[plane[0]], region[plane[1]] = slice(5, 6), slice(3, 11), slice(4, 13)
    expected[tuple(region)] = True
    assert np.array_equal(drawn, expected)
    assert np.array_equal(as_array(rasterise_lasso(contour[::-1], axis, SHAPE)), expected)  # either way round


def test_a_loop_whose_ends_cross_has_no_hole() -> None:
    circle = np.linspace(0, 2 * np.pi * 1.1, 60)  # drawn a little further than once around
    contour = np.stack([8 + 6 * np.cos(circle), 8 + 6 * np.sin(circle), np.full(60, 3.0)], axis=1)
    drawn = as_array(rasterise_lasso(contour, 2, SHAPE))[:, :, 3]
    inside = np.hypot(*np.meshgrid(np.arange(24) - 8, np.arange(20) - 8, indexing="ij")) < 5.5
    assert drawn[inside].all()


def test_a_lasso_is_cut_off_at_the_images_end() -> None:
    contour = np.array([(-10.0, -10, 3), (40, -10, 3), (40, 40, 3), (-10, 40, 3)])
    assert as_array(rasterise_lasso(contour, 2, SHAPE))[:, :, 3].all()
    assert len(rasterise_lasso(contour + [0, 0, 90], 2, SHAPE)) == 0
    assert len(rasterise_lasso(contour + [90, 90, 0], 2, SHAPE)) == 0


@given(points, spacings)
def test_key_points_lie_on_the_stroke(line: np.ndarray, spacing_mm: np.ndarray) -> None:
    along = key_points_along(line, spacing_mm)
    assert len(along) in (1, NUM_KEY_POINTS)
    assert distance_mm(SHAPE, line, np.ones(3))[tuple(np.rint(along).astype(int).T)].max() <= np.sqrt(3) / 2 + 1e-6
    np.testing.assert_allclose(along[0], line[0])
    np.testing.assert_allclose(along[-1], line[-1] if len(along) > 1 else line[0])
    voxels = rasterise_scribble(line, SHAPE, spacing_mm, 2.0)
    among = key_points_among(voxels, spacing_mm)
    assert len(among) == min(NUM_KEY_POINTS, len(voxels))
    drawn = as_array(voxels)
    assert drawn[tuple(among.astype(int).T)].all()


def test_key_points_spread_along_the_longest_direction() -> None:
    bar = np.argwhere(np.ones((40, 4, 4)))
    places = sorted(key_points_among(bar, np.ones(3))[:, 0])
    np.testing.assert_allclose(places, [4.5, 14.5, 24.5, 34.5], atol=0.6)
    thick = sorted(key_points_among(bar, np.array([0.05, 4.0, 1.0]))[:, 1])  # in mm the second axis is the longest
    assert thick == [0, 1, 2, 3]
