"""Intervals, counts of clicks, losses and calibration on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from promptseg.evaluation.statistics import PatientBootstrap, calibration_of, clicks_to_reach, regression_of


def test_the_interval_of_independent_patients_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    estimate = PatientBootstrap(["set"] * 400, [str(n) for n in range(400)], 4000).mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_many_objects_of_one_patient_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 20)
    one = PatientBootstrap(["set"] * 20, [str(n) for n in range(20)]).mean(values)
    ten = PatientBootstrap(["set"] * 200, [str(n % 20) for n in range(200)]).mean(np.tile(values, 10))
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_data_sets_keep_their_size_in_every_resampling() -> None:
    datasets, values = ["a"] * 10 + ["b"] * 10, np.array([0.0] * 10 + [1.0] * 10)
    estimate = PatientBootstrap(datasets, [str(n) for n in range(20)]).mean(values)
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_a_single_patient_has_no_interval_and_two_data_sets_of_one_patient_have_a_wide_one() -> None:
    alone = PatientBootstrap(["a"] * 3, ["p"] * 3).mean(np.array([0.2, 0.4, 0.6]))
    assert alone.mean == pytest.approx(0.4)
    assert np.isnan([alone.low, alone.high]).all()
    for datasets in (["a", "b"], ["a", "b", "b"]):
        values = np.linspace(0, 1, len(datasets))
        estimate = PatientBootstrap(datasets, [f"p{n}" for n in range(len(datasets))]).mean(values)
        assert estimate.high - estimate.low > 0.4


def test_the_mean_of_data_sets_weighs_a_small_one_as_much_as_a_large_one() -> None:
    datasets = ["large"] * 90 + ["small"] * 10
    values = np.array([0.9] * 90 + [0.1] * 10)
    bootstrap = PatientBootstrap(datasets, [str(n) for n in range(100)])
    assert bootstrap.mean(values).mean == pytest.approx(0.82)
    assert bootstrap.mean_of_datasets(values).mean == pytest.approx(0.5)
    noisy = values + np.random.default_rng(0).normal(0, 0.2, 100)
    estimate = bootstrap.mean_of_datasets(noisy)
    half = 1.96 * 0.5 * np.hypot(noisy[:90].std() / np.sqrt(90), noisy[90:].std() / np.sqrt(10))
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.15)


def test_unknown_values_are_left_out_and_one_seed_gives_one_answer() -> None:
    values = np.array([0.5, np.nan, 0.7, np.nan])
    bootstraps = [PatientBootstrap(["a"] * 4, list("pqrs"), seed=3) for _ in range(2)]
    assert bootstraps[0].mean(values).mean == pytest.approx(0.6)
    assert bootstraps[0].mean(values) == bootstraps[1].mean(values)
    assert np.isnan(bootstraps[0].mean(np.full(4, np.nan)).mean)


def test_clicks_to_reach_counts_the_first_step_and_the_last_for_those_that_never_do() -> None:
    curves = np.array([[0.8, 0.7, 0.9], [0.1, 0.2, 0.3], [0.7, 0.79, 0.8]])
    clicks, is_reached = clicks_to_reach(curves, np.array([1, 2, 3]), 0.8)
    assert clicks.tolist() == [1, 3, 3]
    assert is_reached.tolist() == [True, False, True]


def test_losses_are_counted_where_something_was_asked() -> None:
    curves = np.array([[0.5, 0.6, 0.55, 0.54], [0.8, 0.7, 0.7, 0.7]])
    asked = np.array([[True, True, True, True], [True, True, False, False]])
    regression = regression_of(curves, asked)
    assert regression.corrections == 4
    assert regression.share_lower == pytest.approx(3 / 4)
    assert regression.share_much_lower == pytest.approx(2 / 4)
    assert regression.mean_drop == pytest.approx((0.05 + 0.01 + 0.1) / 3)
    assert regression.worst_drop == pytest.approx(0.1)
    assert regression_of(curves[:, :1], asked[:, :1]).corrections == 0


def test_calibration_of_a_model_that_is_always_too_sure_by_a_tenth() -> None:
    true = np.linspace(0.05, 0.85, 81)
    found = calibration_of(np.append(true + 0.1, np.nan), np.append(true, 0.5))
    assert found.count == 81
    assert found.bias == pytest.approx(0.1)
    assert found.mean_error == pytest.approx(0.1)
    assert found.expected_error == pytest.approx(0.1)
    assert found.correlation == pytest.approx(1.0)
    assert sum(count for _, _, count in found.bins) == 81


def test_calibration_in_the_mean_hides_errors_that_cancel_but_not_their_size() -> None:
    true = np.tile([0.2, 0.8], 50)
    found = calibration_of(np.full(100, 0.5), true)
    assert found.bias == pytest.approx(0.0)
    assert found.expected_error == pytest.approx(0.0)
    assert found.mean_error == pytest.approx(0.3)
    assert np.isnan(found.correlation)
    assert calibration_of(np.array([np.nan]), np.array([0.5])).count == 0
