"""Means with confidence intervals, and what is counted from curves of clicks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: over objects.
        low: lower end; NaN where there are fewer than two patients.
        high: upper end.
    """

    mean: float
    low: float
    high: float


class PatientBootstrap:
    """Resamples patients within data sets: objects of one patient are not independent, and data sets are not a sample.

    A data set of one patient says nothing about how patients differ, so data sets of one patient are resampled
    together, and one that is left alone together with the smallest of the others. The interval is then too wide rather
    than too narrow.

    Args:
        datasets: of each object, (N,).
        patients: of each object, (N,).
        resamplings: how many.
        seed: of the draws; one seed, one answer.

    Example:
        >>> bootstrap = PatientBootstrap(["a"] * 4, ["p", "p", "q", "r"], 500)
        >>> bootstrap.mean(np.array([0.5, 0.5, 0.5, 0.5]))
        Estimate(mean=0.5, low=0.5, high=0.5)
    """

    def __init__(
        self, datasets: Sequence[str], patients: Sequence[str], resamplings: int = 1000, seed: int = 0
    ) -> None:
        keys = [f"{d}\x00{p}" for d, p in zip(datasets, patients, strict=True)]
        self._unique, self._group = np.unique(keys, return_inverse=True)
        self._dataset = np.array([key.split("\x00")[0] for key in self._unique])
        strata = _joined_strata(self._dataset.tolist())
        generator = np.random.default_rng(seed)
        self._draws = np.zeros((resamplings, len(self._unique)))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            shares = np.full(len(members), 1 / len(members))
            self._draws[:, members] = generator.multinomial(len(members), shares, size=resamplings)

    @property
    def num_patients(self) -> int:
        """Over all data sets."""
        return len(self._unique)

    def mean(self, values: np.ndarray) -> Estimate:
        """Mean of the objects' values; NaN values are left out.

        Args:
            values: (N,) float.
        """
        return self._estimate(values, np.zeros(len(self._unique), dtype=int))

    def mean_of_datasets(self, values: np.ndarray) -> Estimate:
        """Mean of the data sets' means, so that a large data set counts as much as a small one; NaN left out.

        Args:
            values: (N,) float.
        """
        return self._estimate(values, np.unique(self._dataset, return_inverse=True)[1])

    def _estimate(self, values: np.ndarray, part: np.ndarray) -> Estimate:
        """Mean of the means of parts; ``part`` (P,) numbers the part of each patient."""
        known = np.isfinite(values)
        if not known.any():
            return Estimate(np.nan, np.nan, np.nan)
        sums = np.bincount(self._group, np.where(known, values, 0.0), minlength=len(self._unique))
        counts = np.bincount(self._group, known, minlength=len(self._unique)).astype(float)
        member = np.eye(part.max() + 1)[part]  # (P, parts)
        mean = float(_mean_of_ratios(sums @ member, counts @ member))
        if np.count_nonzero(counts) < 2:
            return Estimate(mean, np.nan, np.nan)
        means = _mean_of_ratios((self._draws * sums) @ member, (self._draws * counts) @ member)
        low, high = np.nanquantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(mean, float(low), float(high))


def _mean_of_ratios(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(..., parts) -> (...) mean of ``sums / counts`` over the parts that have a count; NaN where none has."""
    there = counts > 0
    ratios = np.divide(sums, counts, out=np.zeros_like(sums), where=there)
    return np.where(there.any(axis=-1), ratios.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1), np.nan)


def _joined_strata(strata: Sequence[str]) -> np.ndarray:
    """(N,) names of strata, of which none has a single member unless there is only one."""
    names, counts = np.unique(strata, return_counts=True)
    order = np.argsort(counts, kind="stable")
    joined = {str(names[n]) for n in order if counts[n] == 1}
    if len(joined) == 1:
        joined |= {str(names[n]) for n in order[:2]}
    return np.array(["" if stratum in joined else stratum for stratum in strata])


def clicks_to_reach(curves: np.ndarray, steps: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of clicks until a quality is reached (NoC); objects that never reach it count as the last step.

    Args:
        curves: (N, S) quality after each step.
        steps: (S,) number of clicks at each step, rising.
        threshold: quality.

    Returns:
        (N,) number of clicks, and (N,) bool, whether it was reached.

    Source: Sofiiuk et al., "f-BRS", CVPR 2020, which counts in the same way.

    Example:
        >>> clicks_to_reach(np.array([[0.5, 0.9], [0.1, 0.2]]), np.array([1, 2]), 0.8)
        (array([2, 2]), array([ True, False]))
    """
    reached = curves >= threshold
    is_reached = np.asarray(reached.any(axis=1))
    return np.where(is_reached, steps[np.argmax(reached, axis=1)], steps[-1]), is_reached


@dataclass(frozen=True)
class Regression:
    """How often a further prompt makes it worse.

    Attributes:
        corrections: prompts counted: all but the first, without those carried over.
        share_lower: share of them after which the Dice was lower at all.
        share_much_lower: share of them that lost more than 0.02.
        mean_drop: mean loss of those that lost.
        worst_drop: largest loss.
    """

    corrections: int
    share_lower: float
    share_much_lower: float
    mean_drop: float
    worst_drop: float


def regression_of(curves: np.ndarray, is_counted: np.ndarray) -> Regression:
    """Losses of Dice from step to step.

    Args:
        curves: (N, S) Dice.
        is_counted: (N, S) bool, False for steps at which nothing was asked.
    """
    changes = np.diff(curves, axis=1)[is_counted[:, 1:]]
    if not len(changes):
        return Regression(0, np.nan, np.nan, np.nan, np.nan)
    lost = -changes[changes < -1e-9]
    return Regression(
        corrections=len(changes),
        share_lower=len(lost) / len(changes),
        share_much_lower=float((lost > 0.02).sum() / len(changes)),
        mean_drop=float(lost.mean()) if len(lost) else 0.0,
        worst_drop=float(lost.max()) if len(lost) else 0.0,
    )


@dataclass(frozen=True)
class Calibration:
    """How well a predicted IoU fits the true one.

    Attributes:
        count: answers with a prediction.
        mean_error: mean absolute difference.
        bias: mean of predicted minus true.
        expected_error: mean difference of bins' means, weighted by their counts (ECE, 10 bins).
        correlation: Pearson's; NaN where one of both does not vary.
        bins: (mean predicted, mean true, count) of each bin that is not empty.
    """

    count: int
    mean_error: float
    bias: float
    expected_error: float
    correlation: float
    bins: tuple[tuple[float, float, int], ...]


def calibration_of(predicted: np.ndarray, true: np.ndarray, num_bins: int = 10) -> Calibration:
    """Compares predicted and true IoU of (N,) answers; NaN predictions are left out."""
    known = np.isfinite(predicted) & np.isfinite(true)
    predicted, true = predicted[known], true[known]
    if not len(predicted):
        return Calibration(0, np.nan, np.nan, np.nan, np.nan, ())
    place = np.clip((predicted * num_bins).astype(int), 0, num_bins - 1)
    bins = []
    for number in range(num_bins):
        inside = place == number
        if inside.any():
            bins.append((float(predicted[inside].mean()), float(true[inside].mean()), int(inside.sum())))
    varies = len(predicted) > 1 and predicted.std() > 1e-9 and true.std() > 1e-9
    return Calibration(
        count=len(predicted),
        mean_error=float(np.abs(predicted - true).mean()),
        bias=float((predicted - true).mean()),
        expected_error=float(sum(abs(p - t) * n for p, t, n in bins) / len(predicted)),
        correlation=float(np.corrcoef(predicted, true)[0, 1]) if varies else np.nan,
        bins=tuple(bins),
    )
