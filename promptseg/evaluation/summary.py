"""From rows to ``summary.json``: everything that the report shows, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict
from typing import Any

import numpy as np

from .config import EvaluationConfig
from .naming import summarise_names
from .protocols import choose_protocol
from .records import StepRecord
from .registry import SegmenterSpec
from .statistics import Estimate, PatientBootstrap, calibration_of, clicks_to_reach, regression_of

NOC_THRESHOLDS = (0.80, 0.85, 0.90)
CHALLENGE_MIN_DICE = 0.2
"""The challenge scores NSD as 0 for a case whose mean Dice is not above this."""


class Curves:
    """Rows of one model as arrays of objects and steps.

    Args:
        records: of one model; names of structures that are not in the image are left out.

    Attributes:
        objects: (data set, case, label, name) of each object, in the order of the rows.
        steps: (S,) int.
    """

    def __init__(self, records: Sequence[StepRecord]) -> None:
        main = [r for r in records if r.repeat == 0 and not r.is_absent]
        self.objects = list(dict.fromkeys((r.dataset, r.case, r.label, r.name) for r in main))
        self.steps = np.array(sorted({r.step for r in main}))
        place = {key: n for n, key in enumerate(self.objects)}
        column = {int(step): n for n, step in enumerate(self.steps)}
        self._rows: list[list[StepRecord | None]] = [[None] * len(self.steps) for _ in self.objects]
        for r in main:
            self._rows[place[r.dataset, r.case, r.label, r.name]][column[r.step]] = r
        first = [next(r for r in row if r is not None) for row in self._rows]
        self.datasets = np.array([r.dataset for r in first])
        self.patients = np.array([r.patient for r in first])
        self.cases = np.array([f"{r.dataset}/{r.case}" for r in first])
        self.names = np.array([r.name for r in first])

    def choose(self, rows: Sequence[int]) -> Curves:
        """Some of the objects, in the order of ``rows``, which may name one more than once."""
        chosen, places = copy(self), list(rows)
        chosen.objects = [self.objects[n] for n in places]
        chosen._rows = [self._rows[n] for n in places]
        for name in ("datasets", "patients", "cases", "names"):
            setattr(chosen, name, getattr(self, name)[places])
        return chosen

    def __getitem__(self, field: str) -> np.ndarray:
        """(N, S) float of a column; NaN where there is no row."""
        values = [[math.nan if r is None else float(getattr(r, field)) for r in row] for row in self._rows]
        return np.array(values, dtype=np.float64).reshape(len(self.objects), len(self.steps))


def summarise(
    records: Sequence[StepRecord],
    *,
    specs: Sequence[SegmenterSpec],
    config: EvaluationConfig,
    environment: Mapping[str, Any],
    skipped: int,
    unnamed: Mapping[str, int],
    errors: Sequence[tuple[str, str, str]],
    revisions: Mapping[str, str],
) -> dict[str, Any]:
    """Content of ``summary.json``.

    Args:
        records: every row.
        specs: the models, in the order of the report.
        config: options of the run.
        environment: of :func:`.environment.describe_environment`.
        skipped: objects that were too small, and left out.
        unnamed: name -> objects that were left out because the vocabulary does not have it.
        errors: (model, case, what) of each failure.
        revisions: model -> what tells its versions apart.
    """
    models = {}
    for spec in specs:
        own = [r for r in records if r.model == spec.name]
        models[spec.name] = {
            "is_baseline": spec.is_baseline,
            "source": spec.argument,
            "revision": revisions.get(spec.name, ""),
            **summarise_model(own, config),
            "failures": [{"case": case, "error": error} for model, case, error in errors if model == spec.name],
        }
    content = {
        "format": 1,
        "settings": {**config.settings(), "fold": config.fold, "catalog": config.catalog},
        "environment": dict(environment),
        "skipped_objects": skipped,
        "unnamed_objects": dict(unnamed),
        "models": models,
    }
    return without_nan(content)


def summarise_model(records: Sequence[StepRecord], config: EvaluationConfig) -> dict[str, Any]:
    """Everything about one model."""
    names = summarise_names(records)
    records = [record for record in records if not record.is_absent]
    if not records:
        return {"objects": 0, "cases": 0, "names": names}
    curves = Curves(records)
    bootstrap = PatientBootstrap(curves.datasets.tolist(), curves.patients.tolist(), config.bootstrap, config.seed)
    dice, nsd, steps = curves["dice"], curves["nsd"], curves.steps
    asked = ~curves["is_carried"].astype(bool) & ~curves["is_failed"].astype(bool)
    content: dict[str, Any] = {
        "objects": len(curves.objects),
        "cases": len(np.unique(curves.cases)),
        "patients": bootstrap.num_patients,
        "datasets": len(np.unique(curves.datasets)),
        "first": _metrics(curves, bootstrap, 0),
        "final": _metrics(curves, bootstrap, -1),
        "curve": [
            {
                "step": int(s),
                "dice": asdict(bootstrap.mean(dice[:, n])),
                "nsd": asdict(bootstrap.mean(nsd[:, n])),
                "dice_of_datasets": asdict(bootstrap.mean_of_datasets(dice[:, n])),
                "nsd_of_datasets": asdict(bootstrap.mean_of_datasets(nsd[:, n])),
            }
            for n, s in enumerate(steps)
        ],
        "clicks_to_reach": {f"{t:.2f}": _noc(dice, steps, t, bootstrap) for t in NOC_THRESHOLDS},
        "clicks_respected": {
            "newest": _mean(curves["newest_respected"]),
            "all": _mean(curves["all_respected"]),
        },
        "regression": asdict(regression_of(dice, asked)),
        "calibration": asdict(calibration_of(curves["predicted_iou"][asked], curves["iou"][asked])),
        "jitter": _jitter(records, curves),
        "seconds": _seconds(curves["seconds"]),
        "encoder_calls": {name: _mean(values) for name, values in _first_and_later(curves["encoder_calls"]).items()},
        "peak_memory_mb": _largest(curves["peak_memory_mb"]),
        "names": names,
        "by_dataset": _groups(curves, config, curves.datasets),
        "by_label": _groups(
            curves, config, np.array([f"{d}: {n}" for d, n in zip(curves.datasets, curves.names, strict=True)])
        ),
    }
    if choose_protocol(config.protocol, config.clicks).name == "cvpr25":
        content["challenge"] = challenge_scores(curves, config)
    return content


def _metrics(curves: Curves, bootstrap: PatientBootstrap, column: int) -> dict[str, Any]:
    """Means with intervals of bounded metrics, medians of the others, at one step."""
    means = {name: asdict(bootstrap.mean(curves[name][:, column])) for name in ("dice", "iou", "nsd", "lesion_f1")}
    hd95, error = curves["hd95_mm"][:, column], np.abs(curves["volume_error"][:, column])
    return {
        **means,
        "step": int(curves.steps[column]),
        "hd95_mm_median": _median(hd95),
        "absolute_volume_error_median": _median(error),
    }


def _noc(dice: np.ndarray, steps: np.ndarray, threshold: float, bootstrap: PatientBootstrap) -> dict[str, Any]:
    clicks, is_reached = clicks_to_reach(dice, steps, threshold)
    return {"mean": asdict(bootstrap.mean(clicks.astype(float))), "share_reached": float(is_reached.mean())}


def _jitter(records: Sequence[StepRecord], curves: Curves) -> dict[str, Any]:
    """How much the first answer depends on where exactly the first prompt was."""
    first = dict(zip(curves.objects, curves["dice"][:, 0], strict=True))
    groups: dict[tuple[str, str, int, str], list[float]] = {}
    for r in records:
        if r.repeat:
            groups.setdefault((r.dataset, r.case, r.label, r.name), []).append(r.dice)
    if not groups:
        return {"objects": 0}
    differences = [abs(d - first[key]) for key, values in groups.items() for d in values]
    spreads = [float(np.std([first[key], *values])) for key, values in groups.items()]
    return {
        "objects": len(groups),
        "mean_dice": float(np.mean([d for values in groups.values() for d in values])),
        "mean_dice_difference": float(np.mean(differences)),
        "mean_dice_deviation": float(np.mean(spreads)),
        "largest_dice_difference": float(np.max(differences)),
    }


def _seconds(seconds: np.ndarray) -> dict[str, Any]:
    """Median and 95th percentile of the first answer and of later ones."""
    return {
        name: {
            "median": float(np.median(known)) if len(known) else math.nan,
            "p95": float(np.percentile(known, 95)) if len(known) else math.nan,
        }
        for name, known in _first_and_later(seconds).items()
    }


def _first_and_later(values: np.ndarray) -> dict[str, np.ndarray]:
    """(N, S) of each step, NaN where nothing was asked -> what the first answer of each object took, and the others."""
    known = np.isfinite(values)
    is_first = known & (np.cumsum(known, axis=1) == 1)
    return {"first": values[is_first], "later": values[known & ~is_first]}


def _groups(curves: Curves, config: EvaluationConfig, groups: np.ndarray) -> list[dict[str, Any]]:
    """One entry per group, the worst first."""
    dice, nsd = curves["dice"], curves["nsd"]
    found = []
    for group in np.unique(groups):
        inside = groups == group
        own = PatientBootstrap(
            curves.datasets[inside].tolist(), curves.patients[inside].tolist(), config.bootstrap, config.seed
        )
        found.append(
            {
                "group": str(group),
                "objects": int(inside.sum()),
                "patients": own.num_patients,
                "first_dice": asdict(own.mean(dice[inside, 0])),
                "final_dice": asdict(own.mean(dice[inside, -1])),
                "final_nsd": asdict(own.mean(nsd[inside, -1])),
                "dice": [float(value) for value in dice[inside].mean(axis=0)],
            }
        )
    return sorted(found, key=lambda entry: (entry["final_dice"]["mean"], entry["group"]))


def challenge_scores(curves: Curves, config: EvaluationConfig) -> dict[str, Any]:
    """The challenge's scores: means over a case's objects at each step, NSD 0 at low Dice, area under five clicks.

    Source: CVPR25_iter_eval.py, github.com/JunMa11/CVPR-MedSegFMCompetition.
    """
    per_case = case_challenge_scores(curves)
    cases = list(per_case)
    members = [int(np.flatnonzero(curves.cases == case)[0]) for case in cases]
    bootstrap = PatientBootstrap(
        curves.datasets[members].tolist(), curves.patients[members].tolist(), config.bootstrap, config.seed
    )
    found: dict[str, Any] = {"cases": len(cases)}
    for name in ("dsc_auc", "nsd_auc", "dsc_final", "nsd_final"):
        values = np.array([per_case[case][name] for case in cases])
        estimate = bootstrap.mean(values)
        found[name] = asdict(estimate)
        if name.endswith("auc"):
            found[f"{name}_normalised"] = asdict(Estimate(*(v / 4 for v in asdict(estimate).values())))
    return found


def case_challenge_scores(curves: Curves) -> dict[str, dict[str, float]]:
    """``data set/case`` -> dsc_auc, nsd_auc (at most 4), dsc_final, nsd_final."""
    dice, nsd = curves["dice"], curves["nsd"]
    found = {}
    for case in dict.fromkeys(curves.cases.tolist()):
        inside = curves.cases == case
        dsc = dice[inside].mean(axis=0)
        surface = np.where(dsc > CHALLENGE_MIN_DICE, nsd[inside].mean(axis=0), 0.0)
        found[case] = {
            "dsc_auc": _trapezoid(dsc[-5:]),
            "nsd_auc": _trapezoid(surface[-5:]),
            "dsc_final": float(dsc[-1]),
            "nsd_final": float(surface[-1]),
        }
    return found


def _trapezoid(values: np.ndarray) -> float:
    return float(((values[1:] + values[:-1]) / 2).sum())


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _largest(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else math.nan


def without_nan(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
