"""Metrics: against MONAI and surface-distance on random and awkward masks; what empty masks score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.evaluation.metrics import TrueObject, dice, lesion_f1, volume_error

from .conftest import awkward_pairs, ball, smooth_mask

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the references

PAIRS = awkward_pairs()
SPACINGS = [(1.0, 1.0, 1.0), (0.4, 0.7, 5.0), (0.5, 0.5, 2.0), (3.0, 0.8, 0.8)]
seeds = st.integers(0, 10_000)
spacings = st.sampled_from(SPACINGS)


def by_surface_distance(truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float], tolerance: float):
    """NSD and HD95 by DeepMind's own functions."""
    import surface_distance

    found = surface_distance.compute_surface_distances(truth, predicted, spacing)
    nsd = surface_distance.compute_surface_dice_at_tolerance(found, tolerance)
    return nsd, surface_distance.compute_robust_hausdorff(found, 95)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_surface_scores_of_awkward_masks_are_those_of_surface_distance(name: str, spacing: Sequence[float]) -> None:
    truth, predicted = PAIRS[name]
    for tolerance in (0.0, 1.0, 2.0):
        scores = TrueObject(truth, spacing, tolerance_mm=tolerance).score(predicted)
        nsd, hd95 = by_surface_distance(truth, predicted, spacing, tolerance)
        assert scores.nsd == pytest.approx(nsd, abs=1e-9)
        assert scores.hd95_mm == pytest.approx(hd95, rel=1e-5, abs=1e-9)


@settings(max_examples=25)
@given(seeds, seeds, spacings, st.sampled_from([0.5, 2.0, 4.0]))
def test_surface_scores_of_random_masks_are_those_of_surface_distance(
    one: int, other: int, spacing: Sequence[float], tolerance: float
) -> None:
    shape = (12, 10, 8)
    truth, predicted = smooth_mask(shape, one, 0.2), smooth_mask(shape, other, 0.35)
    scores = TrueObject(truth, spacing, tolerance_mm=tolerance).score(predicted)
    nsd, hd95 = by_surface_distance(truth, predicted, spacing, tolerance)
    assert scores.nsd == pytest.approx(nsd, abs=1e-9)
    assert scores.hd95_mm == pytest.approx(hd95, rel=1e-5)


def test_overlap_and_surface_scores_are_those_of_monai() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    pairs = [*PAIRS.values(), *((smooth_mask((12, 10, 8), n), smooth_mask((12, 10, 8), n + 50)) for n in range(4))]
    spacing = (0.7, 1.0, 2.5)
    for truth, predicted in pairs:
        one, other = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (predicted, truth))
        scores = TrueObject(truth, spacing, tolerance_mm=2.0).score(predicted)
        assert scores.dice == pytest.approx(float(metrics.compute_dice(one, other)), abs=1e-6)
        assert scores.iou == pytest.approx(float(metrics.compute_iou(one, other)), abs=1e-6)
        nsd = metrics.compute_surface_dice(
            one, other, [2.0], include_background=True, spacing=spacing, use_subvoxels=True
        )
        assert scores.nsd == pytest.approx(float(nsd), abs=1e-5)
        hd95 = metrics.compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=spacing
        )  # of voxels instead of surface elements, which lie half a voxel further out
        assert abs(scores.hd95_mm - float(hd95)) <= np.linalg.norm(spacing)


def test_a_distance_that_equals_the_tolerance_but_for_rounding_is_within_it() -> None:
    truth, predicted = np.zeros((30, 3, 3), bool), np.zeros((30, 3, 3), bool)
    truth[2:12], predicted[7:17] = True, True  # both ends shifted by five voxels of 0.4 mm
    at = TrueObject(truth, (0.4, 50, 50), tolerance_mm=2.0).score(predicted).nsd
    below = TrueObject(truth, (0.4, 50, 50), tolerance_mm=1.99).score(predicted).nsd
    assert at == 1.0
    assert below < 1.0
    assert at == pytest.approx(by_surface_distance(truth, predicted, (0.4, 50, 50), 2.0)[0])


def test_empty_masks_score_as_the_table_says() -> None:
    shape, spacing = (6, 5, 4), (1.0, 2.0, 3.0)
    empty, thing = np.zeros(shape, bool), ball(shape, (3, 2, 2), 1.5)
    diagonal = float(np.linalg.norm(np.array(shape) * spacing))
    both = TrueObject(empty, spacing).score(empty)
    assert (both.dice, both.iou, both.nsd, both.lesion_f1, both.hd95_mm, both.volume_error) == (1, 1, 1, 1, 0, 0)
    missed = TrueObject(thing, spacing).score(empty)
    assert (missed.dice, missed.iou, missed.nsd, missed.lesion_f1, missed.volume_error) == (0, 0, 0, 0, -1)
    assert missed.hd95_mm == pytest.approx(diagonal)
    invented = TrueObject(empty, spacing).score(thing)
    assert (invented.dice, invented.iou, invented.nsd, invented.lesion_f1) == (0, 0, 0, 0)
    assert invented.volume_error == float("inf")
    assert invented.hd95_mm == pytest.approx(diagonal)


@settings(max_examples=15)
@given(seeds, seeds, st.tuples(*[st.integers(0, 6)] * 3))
def test_a_truth_that_comes_as_a_crop_scores_as_the_whole(one: int, other: int, low: tuple[int, int, int]) -> None:
    shape, spacing = (16, 15, 14), (1.0, 0.5, 2.0)
    crop = smooth_mask((9, 8, 7), one)
    whole = np.zeros(shape, bool)
    whole[tuple(slice(a, a + n) for a, n in zip(low, crop.shape, strict=True))] = crop
    predicted = smooth_mask(shape, other, 0.1)
    assert TrueObject(crop, spacing, low, shape).score(predicted) == TrueObject(whole, spacing).score(predicted)


def test_one_truth_scores_many_predictions_as_if_each_were_the_first() -> None:
    shape = (14, 13, 12)
    truth = TrueObject(ball(shape, (6, 6, 6), 3), (1, 1, 2))
    for seed in range(6):  # near ones, far ones: the truth's distance transform grows on the way
        predicted = smooth_mask(shape, seed, 0.02 + 0.1 * (seed % 3))
        assert truth.score(predicted) == TrueObject(ball(shape, (6, 6, 6), 3), (1, 1, 2)).score(predicted)


def test_a_prediction_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3, 4\).*\(3, 3, 3\)"):
        TrueObject(np.ones((3, 3, 3), bool), (1, 1, 1)).score(np.ones((3, 3, 4), bool))


def test_volume_error_has_the_sign_of_the_excess() -> None:
    assert volume_error(100, 150) == 0.5
    assert volume_error(100, 50) == -0.5


def lesion_f1_by_hand(truth: np.ndarray, predicted: np.ndarray, min_iou: float) -> float:
    """Pairs of components, best first, counted one by one."""
    from scipy.ndimage import label

    (mine, n), (other, m) = (label(x, np.ones((3, 3, 3))) for x in (truth, predicted))  # type: ignore[misc]
    ious = []
    for a in range(1, n + 1):
        for b in range(1, m + 1):
            shared = int(((mine == a) & (other == b)).sum())
            ious.append((shared / int(((mine == a) | (other == b)).sum()), a, b))
    hits, used = 0, set()
    for iou, a, b in sorted(ious, key=lambda entry: -entry[0]):
        if iou >= min_iou and ("a", a) not in used and ("b", b) not in used:
            used |= {("a", a), ("b", b)}
            hits += 1
    return 2 * hits / (n + m)


@settings(max_examples=15)
@given(seeds, st.floats(0.05, 0.3))
def test_lesion_f1_counts_pairs_of_components(seed: int, share: float) -> None:
    truth, predicted = smooth_mask((14, 12, 10), seed, 0.15), smooth_mask((14, 12, 10), seed + 1, share)
    predicted = predicted | (truth & smooth_mask((14, 12, 10), seed + 2, 0.6))
    for min_iou in (0.1, 0.5):
        assert lesion_f1(truth, predicted, min_iou) == pytest.approx(lesion_f1_by_hand(truth, predicted, min_iou))


def test_lesion_f1_of_two_found_one_missed_and_one_invented() -> None:
    truth, predicted = np.zeros((20, 5, 5), bool), np.zeros((20, 5, 5), bool)
    truth[0:2], truth[5:7], truth[10:12] = True, True, True
    predicted[0:2], predicted[5:6], predicted[16:18] = True, True, True
    assert lesion_f1(truth, predicted) == pytest.approx(2 * 2 / (3 + 3))


@given(seeds, seeds)
@settings(max_examples=10)
def test_dice_is_symmetric_and_one_only_for_equal_masks(one: int, other: int) -> None:
    a, b = smooth_mask((6, 6, 6), one), smooth_mask((6, 6, 6), other)
    assert dice(a, b) == dice(b, a)
    assert (dice(a, b) == 1.0) == bool((a == b).all())


def test_a_prediction_is_neither_right_nor_wrong_where_nobody_knows_the_truth() -> None:
    mask, unknown = np.zeros((2, 12, 12, 12), dtype=bool)
    mask[2:6, 2:6, 2:6], unknown[6:] = True, True
    predicted = mask.copy()
    predicted[6:10, 2:6, 2:6] = True
    spacing = (1.0, 1.0, 1.0)
    assert TrueObject(mask, spacing).score(predicted).dice < 0.7
    assert TrueObject(mask, spacing, unknown=unknown).score(predicted) == TrueObject(mask, spacing).score(mask)
