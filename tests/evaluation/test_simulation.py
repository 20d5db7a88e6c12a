"""Boxes, scribbles, corrupted masks and jitter: what each promises, and that a seed decides all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptseg.evaluation.metrics import TrueObject, dice
from promptseg.evaluation.simulation import (
    challenge_box,
    corrupt_mask,
    generator_for,
    jitter_box,
    jitter_point,
    next_scribble,
)

from .conftest import ball, smooth_mask

SHAPE = (40, 30, 20)
seeds = st.integers(0, 1000)


def test_a_generator_depends_on_its_names_alone() -> None:
    assert generator_for(0, "a", "b").random() == generator_for(0, "a", "b").random()
    drawn = {generator_for(*key).random() for key in ((0, "a", "b"), (1, "a", "b"), (0, "a", "c"), (0, "ab"))}
    assert len(drawn) == 4


@settings(max_examples=20)
@given(seeds, st.floats(0, 1))
def test_a_jittered_box_stays_in_the_image_and_within_its_share(seed: int, amount: float) -> None:
    low, high = np.array([3, 0, 8]), np.array([20, 30, 12])
    new_low, new_high = jitter_box((low, high), amount, SHAPE, np.random.default_rng(seed))
    assert (new_low >= 0).all()
    assert (new_high <= SHAPE).all()
    assert (new_high > new_low).all()
    assert (np.abs(new_low - low) <= amount * (high - low) + 0.5).all()
    assert (np.abs(new_high - high) <= np.maximum(amount * (high - low) + 0.5, new_low + 1 - high)).all()


def test_no_jitter_leaves_a_box_as_it_is() -> None:
    box = np.array([3, 4, 5]), np.array([10, 9, 8])
    for end, other in zip(box, jitter_box(box, 0.0, SHAPE, np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(end, other)


@settings(max_examples=20)
@given(seeds)
def test_the_challenges_box_is_that_of_the_published_rule(seed: int) -> None:
    shape = (300, 270, 9)
    mask = np.zeros(shape, bool)
    mask[100:130, 90:130, 1:8] = smooth_mask((30, 40, 7), seed)
    low, high = challenge_box(TrueObject(mask, (1, 1, 3)), np.random.default_rng(seed))
    z, y, x = np.nonzero(mask.transpose(2, 1, 0))  # the challenge's arrays are (D, H, W)
    middle = z[len(z) // 2]
    y, x = np.nonzero(mask[:, :, middle].T)
    shift = int(np.random.default_rng(seed).integers(0, 6))
    across, down = int(shift * shape[0] / 256), int(shift * shape[1] / 256)
    assert low.tolist() == [max(0, x.min() - across), max(0, y.min() - down), z.min()]
    assert (high - 1).tolist() == [min(shape[0] - 1, x.max() + across), min(shape[1] - 1, y.max() + down), z.max()]


@settings(max_examples=20)
@given(seeds, st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (4.0, 1.0, 1.0)]))
def test_a_scribble_is_a_connected_line_on_one_slice_of_errors_of_its_kind(
    seed: int, spacing: tuple[float, float, float]
) -> None:
    truth, predicted = smooth_mask((16, 15, 14), seed), smooth_mask((16, 15, 14), seed + 1, 0.2)
    stroke = next_scribble(truth, predicted, spacing, (5, 6, 7))
    assert stroke is not None
    voxels = stroke.voxels - (5, 6, 7)
    assert (truth[tuple(voxels.T)] == bool(stroke.label)).all()
    assert (predicted[tuple(voxels.T)] != bool(stroke.label)).all()
    across = 2 if spacing[0] == spacing[2] else int(np.argmax(spacing))
    assert np.ptp(voxels[:, across]) == 0
    assert (np.abs(np.diff(voxels, axis=0)).max(axis=1) == 1).all() if len(voxels) > 1 else True


def test_a_scribble_runs_along_the_middle_of_the_longer_way() -> None:
    truth = np.zeros((30, 9, 5), bool)
    truth[2:28, 1:8, 1:4] = True
    stroke = next_scribble(truth, np.zeros_like(truth), (1, 1, 1))
    assert stroke is not None
    assert stroke.label == 1
    assert set(stroke.voxels[:, 1]) == {4}
    assert set(stroke.voxels[:, 2]) == {2}
    assert len(stroke.voxels) == pytest.approx(0.6 * 26, abs=2)


@settings(max_examples=10)
@example(428, 0.7, (1.0, 1.0, 1.0))
@given(seeds, st.sampled_from([0.7, 0.9]), st.sampled_from([(1.0, 1.0, 1.0), (0.5, 0.5, 2.0)]))
def test_a_corrupted_mask_has_the_dice_asked_for(seed: int, target: float, spacing: tuple[float, float, float]) -> None:
    mask = ball((36, 34, 12), (17, 16, 6), 8.0, spacing)
    truth = TrueObject(mask, spacing)
    corrupted = corrupt_mask(truth, np.random.default_rng(seed), target)
    assert corrupted.shape == mask.shape
    assert dice(mask, corrupted) == pytest.approx(target, abs=0.03)


def test_a_single_voxel_is_corrupted_without_an_error() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    corrupt_mask(TrueObject(mask, (1, 1, 1)), np.random.default_rng(0), 0.7)


@settings(max_examples=20)
@given(seeds, st.floats(0.1, 10))
def test_a_jittered_click_stays_in_the_object_and_within_reach(seed: int, reach_mm: float) -> None:
    mask = smooth_mask((12, 11, 10), seed)
    truth = TrueObject(mask, (1.0, 2.0, 0.7))
    voxels = np.argwhere(mask)
    i, j, k = (int(v) for v in voxels[seed % len(voxels)])
    moved = jitter_point((i, j, k), truth, reach_mm, np.random.default_rng(seed))
    assert mask[moved]
    assert np.linalg.norm((np.array(moved) - (i, j, k)) * (1.0, 2.0, 0.7)) <= reach_mm + 1e-9


def test_jitter_reaches_other_voxels() -> None:
    truth = TrueObject(np.ones((9, 9, 9), bool), (1, 1, 1))
    generator = np.random.default_rng(0)
    assert len({jitter_point((4, 4, 4), truth, 2.0, generator) for _ in range(60)}) > 15


TRUTH = TrueObject(ball(SHAPE, (15, 14, 9), 6), (1, 1, 1))


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: corrupt_mask(TRUTH, g, 0.7),
        lambda g: np.stack(challenge_box(TrueObject(TRUTH.mask, (1, 1, 1), (150, 150, 0), (300, 300, 13)), g)),
        lambda g: np.stack(jitter_box((TRUTH.low, TRUTH.high), 0.3, SHAPE, g)),
        lambda g: np.array(jitter_point((15, 14, 9), TRUTH, 4.0, g)),
    ],
    ids=["corrupt_mask", "challenge_box", "jitter_box", "jitter_point"],
)
def test_one_seed_one_answer_and_other_seeds_others(draw: Callable[[np.random.Generator], Any]) -> None:
    answers = [draw(np.random.default_rng(seed)).tolist() for seed in range(12)]
    assert draw(np.random.default_rng(3)).tolist() == answers[3]
    assert any(answer != answers[0] for answer in answers)
