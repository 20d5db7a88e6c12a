"""Where the simulated user clicks: cases worked out by hand, and the challenge's rule written a second time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.evaluation.click_policy import CHALLENGE_SEED, challenge_click, largest_component, next_click
from promptseg.evaluation.components import number_components

from .conftest import smooth_mask

EMPTY = np.zeros((12, 12, 12), bool)


def block(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = EMPTY.copy()
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_the_first_click_is_the_deepest_point_of_the_object() -> None:
    click = next_click(block((1, 1, 1), (8, 6, 6)), EMPTY, (1, 1, 1))
    assert click is not None
    assert click.label == 1
    assert click.voxel == (4, 3, 3)  # the axis from (3, 3, 3) to (5, 3, 3) is equally deep; its middle is taken
    assert click.depth == pytest.approx(3.0)
    assert click.component_voxels == 7 * 5 * 5


def test_a_user_who_is_not_exact_clicks_anywhere_that_is_deep_enough() -> None:
    error = block((1, 1, 1), (10, 10, 10))
    spread = set()
    for seed in range(60):
        click = next_click(error, EMPTY, (1, 1, 1), (5, 0, 0), 0.6, np.random.default_rng(seed))
        assert click is not None
        assert click.label == 1
        assert click.depth >= 3.0  # of the deepest point's 5
        place = np.array(click.voxel) - (5, 0, 0)
        assert (np.abs(place - 5) <= 2).all()
        spread.add(click.voxel)
        again = next_click(error, EMPTY, (1, 1, 1), (5, 0, 0), 0.6, np.random.default_rng(seed))
        assert again == click
    assert len(spread) > 30  # of 125 that are deep enough
    assert {1, 2} <= {int(np.abs(np.array(v) - (10, 5, 5)).max()) for v in spread}


def test_depth_is_in_millimetres_but_not_for_the_challenge() -> None:
    thick = block((0, 0, 0), (3, 12, 12))  # 3 voxels of 10 mm
    thin = block((5, 0, 0), (12, 5, 12))  # 7 voxels of 1 mm each way
    error = thick | thin
    in_mm = next_click(error, EMPTY, (10, 1, 1))
    assert in_mm is not None
    assert in_mm.voxel[0] in (0, 1, 2)
    alone = next_click(thin, EMPTY, (0.1, 1, 1))
    assert alone is not None
    assert alone.depth == pytest.approx(0.4)
    by_challenge = challenge_click(thin, EMPTY)
    assert by_challenge is not None
    assert by_challenge.depth == pytest.approx(3.0)


def test_the_largest_component_is_clicked_though_a_smaller_one_is_deeper() -> None:
    sheet = block((0, 0, 0), (1, 12, 12))  # 144 voxels, depth 1
    cube = block((5, 5, 5), (10, 10, 10))  # 125 voxels, depth 3
    for click in (next_click(sheet | cube, EMPTY, (1, 1, 1)), challenge_click(sheet | cube, EMPTY)):
        assert click is not None
        assert click.voxel[0] == 0
        assert click.component_voxels == 144


def test_voxels_that_touch_at_a_corner_are_one_component() -> None:
    chain = EMPTY.copy()
    for n in range(9):
        chain[n, n, n] = True
    found = largest_component(chain | block((0, 8, 0), (2, 12, 1)))
    assert found is not None
    assert int(found[1].sum()) == 9


def test_missing_and_superfluous_voxels_are_one_error() -> None:
    truth, predicted = block((2, 2, 2), (6, 7, 7)), block((6, 2, 2), (11, 7, 7))  # side by side: one component
    click = next_click(truth, predicted, (1, 1, 1))
    assert click is not None
    assert click.component_voxels == 9 * 25
    inside = next_click(truth, predicted & block((8, 0, 0), (12, 12, 12)), (1, 1, 1))
    assert inside is not None
    assert (inside.label, inside.voxel[0] < 6) == (1, True)
    beside = next_click(truth & block((4, 0, 0), (12, 12, 12)), predicted | block((2, 2, 2), (4, 7, 7)), (1, 1, 1))
    assert beside is not None
    assert beside.label == int(truth[beside.voxel] and beside.voxel[0] >= 4)


def test_the_images_border_is_outside() -> None:
    click = next_click(np.ones((5, 5, 5), bool), np.zeros((5, 5, 5), bool), (1, 1, 1))
    assert click is not None
    assert click.voxel == (2, 2, 2)
    assert click.depth == pytest.approx(3.0)


def test_nothing_is_clicked_where_nothing_is_wrong() -> None:
    mask = block((1, 1, 1), (4, 4, 4))
    assert next_click(mask, mask, (1, 1, 1)) is None
    assert challenge_click(mask, mask) is None


@settings(max_examples=15)
@given(st.integers(0, 1000), st.tuples(*[st.integers(0, 30)] * 3))
def test_a_click_is_an_error_of_its_kind_and_a_crop_changes_nothing(seed: int, origin: tuple[int, int, int]) -> None:
    truth, predicted = smooth_mask((10, 9, 8), seed), smooth_mask((10, 9, 8), seed + 1)
    wide = tuple((2, 3) for _ in range(3))
    for policy in (lambda t, p, o: next_click(t, p, (1, 2, 0.5), o), challenge_click):
        click = policy(truth, predicted, (0, 0, 0))
        assert click is not None
        assert truth[click.voxel] != predicted[click.voxel]
        assert truth[click.voxel] == bool(click.label)
        again = policy(truth, predicted, (0, 0, 0))
        assert again == click
        moved = policy(truth, predicted, origin)
        assert moved is not None
        assert tuple(np.subtract(moved.voxel, origin)) == click.voxel
        padded = policy(np.pad(truth, wide), np.pad(predicted, wide), (-2, -2, -2))
        assert padded == click


def challenge_rule(truth: np.ndarray, predicted: np.ndarray) -> tuple[int, ...]:
    """The published rule, on arrays (D, H, W), without any of the code under test."""
    from scipy.ndimage import distance_transform_edt, label

    numbered = np.asarray(label(truth != predicted, np.ones((3, 3, 3)))[0])  # type: ignore[index]
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    depth = np.asarray(distance_transform_edt(np.pad(numbered == sizes.argmax(), 1)))[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    np.random.seed(CHALLENGE_SEED)
    return tuple(int(v) for v in deepest[np.random.choice(len(deepest))])


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_the_challenges_click_is_that_of_the_published_rule(seed: int) -> None:
    truth, predicted = smooth_mask((11, 10, 9), seed), smooth_mask((11, 10, 9), seed + 7, 0.2)
    click = challenge_click(truth, predicted)
    assert click is not None
    assert click.voxel[::-1] == challenge_rule(truth.transpose(2, 1, 0), predicted.transpose(2, 1, 0))


@settings(max_examples=25)
@given(st.integers(0, 1000), st.permutations([1, 1, 7]), st.booleans())
def test_components_are_counted_in_single_rows_too(seed: int, shape: list[int], is_row: bool) -> None:
    from scipy.ndimage import label

    mask = np.random.default_rng(seed).random(shape if is_row else (5, 4, 3)) < 0.4
    numbered, count = number_components(mask)
    reference, expected = label(mask, np.ones((3, 3, 3)))  # type: ignore[misc]
    assert count == expected
    assert numbered.shape == mask.shape
    assert len({(int(a), int(b)) for a, b in zip(numbered.ravel(), reference.ravel(), strict=True)}) == len(
        np.unique(numbered)
    )
