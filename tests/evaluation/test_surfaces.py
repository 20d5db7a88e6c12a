"""Distances between surfaces: the transform and the tree agree, and the cheaper one is taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.evaluation import surfaces
from promptseg.evaluation.surfaces import Surface

from .conftest import ball, smooth_mask


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([(1.0, 1.0, 1.0), (0.4, 0.7, 5.0)]))
def test_transform_and_tree_give_the_same_distances(seed: int, spacing: tuple[float, float, float]) -> None:
    one = Surface.from_mask(smooth_mask((9, 8, 7), seed), spacing, origin=(3, 0, 5))
    other = Surface.from_mask(smooth_mask((7, 9, 8), seed + 1), spacing, origin=(0, 6, 1))
    by_transform = one.distances_to(other)
    assert other._map is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surfaces, "MAX_MAP_VOXELS", 0)
        fresh = Surface(other.corners, other.areas_mm2, spacing)
        by_tree = one.distances_to(fresh)
        assert fresh._map is None
    np.testing.assert_allclose(by_transform, by_tree, rtol=1e-5, atol=1e-6)


def test_surfaces_far_apart_are_not_transformed() -> None:
    near = Surface.from_mask(ball((5, 5, 5), (2, 2, 2), 1), (1, 1, 1))
    far = Surface.from_mask(ball((5, 5, 5), (2, 2, 2), 1), (1, 1, 1), origin=(400, 400, 400))
    distances = near.distances_to(far)
    assert far._map is None
    assert distances.min() == pytest.approx(np.sqrt(3 * (400 - 2) ** 2), rel=0.01)


def test_a_transform_is_kept_and_grows() -> None:
    shape = (20, 20, 20)
    truth = Surface.from_mask(ball(shape, (10, 10, 10), 3), (1, 1, 1))
    inner = Surface.from_mask(ball(shape, (10, 10, 10), 2), (1, 1, 1))
    inner.distances_to(truth)
    first = truth._map
    assert first is not None
    inner.distances_to(truth)
    assert truth._map is first
    outer = Surface.from_mask(ball(shape, (10, 10, 10), 7), (1, 1, 1))
    assert outer.distances_to(truth).max() == pytest.approx(4, abs=1)
    assert truth._map is not first
    assert inner.distances_to(truth).max() <= 2


def test_the_area_of_a_box_is_nearly_that_of_its_sides() -> None:
    mask = np.ones((20, 30, 40), bool)
    area = Surface.from_mask(mask, (0.5, 1.0, 2.0)).areas_mm2.sum()
    sides = np.array([10.0, 30.0, 80.0])
    assert area == pytest.approx(2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2]), rel=0.06)


def test_an_empty_mask_has_no_surface() -> None:
    assert len(Surface.from_mask(np.zeros((4, 4, 4), bool), (1, 1, 1))) == 0
