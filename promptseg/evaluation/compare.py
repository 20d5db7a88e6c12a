"""Compares two reports object by object: a new checkpoint is accepted on evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .protocols import COMPARABLE
from .records import FAILED_CASE, StepRecord, read_csv
from .statistics import PatientBootstrap
from .summary import Curves, case_challenge_scores, without_nan


def _positional(metavar: str) -> Any:
    return field(metadata={"is_positional": True, "metavar": metavar})


def _option(default: Any, metavar: str, short: str | None = None) -> Any:
    return field(default=default, metadata={"metavar": metavar, "short": short})


@dataclass(frozen=True)
class CompareConfig:
    """Compares two reports of promptseg evaluate: mean differences B minus A over the objects that both have.

    Intervals are from resampling patients within data sets. A difference counts when its 95 % interval leaves out 0.
    """

    first: str = _positional("A")
    """folder of a report"""
    second: str = _positional("B")
    """folder of another report; the same one to compare two of its models"""
    model_a: str | None = _option(None, "NAME")
    """which model of A; its first one that is not a baseline, if not given"""
    model_b: str | None = _option(None, "NAME")
    """which model of B; the one that is not a baseline, or the next one if A and B are the same report"""
    bootstrap: int = _option(2000, "N")
    """resamplings for confidence intervals"""
    seed: int = _option(0, "N")
    """of the resampling"""
    output: str | None = _option(None, "FILE.json", short="-o")
    """also write the comparison as JSON"""

    def __post_init__(self) -> None:
        if self.bootstrap < 1:
            raise ValueError(f"--bootstrap {self.bootstrap}: expected 1 or more")


@dataclass(frozen=True)
class Difference:
    """One quantity in both reports.

    Attributes:
        quantity: such as ``Dice, step 1``.
        a: mean in A.
        b: mean in B.
        mean: mean of B minus A over pairs.
        low: lower end of its interval.
        high: upper end.
        higher_is_better: whether more is better.
        verdict: ``better``, ``worse`` or ``undecided``, of B.
    """

    quantity: str
    a: float
    b: float
    mean: float
    low: float
    high: float
    higher_is_better: bool
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two models on the same objects.

    Attributes:
        name_a: of the model in A.
        name_b: of the model in B.
        pairs: objects in both.
        patients: of those.
        only_a: objects that only A has.
        only_b: objects that only B has.
        differences: the headline quantity first.
        by_dataset: final Dice of each data set.
    """

    name_a: str
    name_b: str
    pairs: int
    patients: int
    only_a: int
    only_b: int
    differences: tuple[Difference, ...]
    by_dataset: tuple[Difference, ...]

    @property
    def verdict(self) -> str:
        """Of the headline quantity: the last step's Dice."""
        return self.differences[0].verdict

    def to_markdown(self) -> str:
        """Tables as they are printed."""
        lines = [f"A: {self.name_a}, B: {self.name_b}, {self.pairs} objects of {self.patients} patients in both."]
        if self.only_a or self.only_b:
            lines.append(f"Left out: {self.only_a} objects only in A, {self.only_b} only in B.")
        for title, rows in (("quantity", self.differences), ("Dice, last step", self.by_dataset)):
            lines += ["", f"| {title} | A | B | B - A | 95 % interval | B is |", "|---|---|---|---|---|---|"]
            lines += [
                f"| {d.quantity} | {_text(d.a)} | {_text(d.b)} | {_text(d.mean, '+')} | "
                f"{_text(d.low, '+')} to {_text(d.high, '+')} | {d.verdict} |"
                for d in rows
            ]
        return "\n".join(lines)


def compare_reports(a: str | Path, b: str | Path, config: CompareConfig | None = None) -> Comparison:
    """Pairs the objects of two reports.

    Args:
        a: folder of a report.
        b: folder of another one, or the same.
        config: models and resampling; its folders are not used.

    Returns:
        Differences B minus A.

    Raises:
        ValueError: for a folder that is no report, a model that is not in it, reports of different protocols or
            metrics, or without an object in common.
    """
    config = config or CompareConfig(str(a), str(b))
    summary_a, summary_b = _read_summary(Path(a)), _read_summary(Path(b))
    for name in ("protocol", "corrections", "click_depth", "tolerance_mm", "seed"):
        one, other = (summary["settings"].get(name) for summary in (summary_a, summary_b))
        if one != other and not any({one, other} <= group for group in COMPARABLE):
            raise ValueError(f"{a} was made with {name}={one!r} and {b} with {other!r}: evaluate both in the same way")
    name_a = _choose_model(summary_a, config.model_a, Path(a), None)
    same = Path(a).resolve() == Path(b).resolve()
    name_b = _choose_model(summary_b, config.model_b, Path(b), name_a if same else None)
    all_a, all_b = _curves(Path(a), name_a), _curves(Path(b), name_b)
    pairs = _pairs(all_a, all_b)
    if not pairs:
        raise ValueError(f"{a} and {b} have no object in common: evaluate both on the same catalog and fold")
    curves_a, curves_b = (c.choose(rows) for c, rows in zip((all_a, all_b), zip(*pairs, strict=True), strict=True))
    _refuse_other_truth(curves_a, curves_b, f"{a} and {b}")
    bootstrap = PatientBootstrap(curves_a.datasets.tolist(), curves_a.patients.tolist(), config.bootstrap, config.seed)
    differences = [
        _difference(f"{title}, step {int(curves_a.steps[column])}", values_a, values_b, bootstrap, better)
        for title, name, better in (("Dice", "dice", True), ("NSD", "nsd", True), ("HD95 (mm)", "hd95_mm", False))
        for column in ((-1, 0) if len(curves_a.steps) > 1 else (-1,))
        for values_a, values_b in [(curves_a[name][:, column], curves_b[name][:, column])]
    ]
    if len(curves_a.steps) > 1:
        mean_a, mean_b = curves_a["dice"].mean(axis=1), curves_b["dice"].mean(axis=1)
        differences.append(_difference("Dice, mean of all steps", mean_a, mean_b, bootstrap, True))
    if summary_a["settings"]["protocol"] == "cvpr25":
        differences += _challenge(curves_a, curves_b, config)
    differences.append(
        _difference(
            "median seconds, later steps",
            _row_medians(curves_a["seconds"][:, 1:]),
            _row_medians(curves_b["seconds"][:, 1:]),
            bootstrap,
            False,
        )
    )
    return Comparison(
        name_a=name_a,
        name_b=name_b,
        pairs=len(pairs),
        patients=bootstrap.num_patients,
        only_a=len(all_a.objects) - len({n for n, _ in pairs}),
        only_b=len(all_b.objects) - len({n for _, n in pairs}),
        differences=tuple(d for d in differences if math.isfinite(d.mean)),
        by_dataset=tuple(_by_dataset(curves_a, curves_b, config)),
    )


def _pairs(curves_a: Curves, curves_b: Curves) -> list[tuple[int, int]]:
    """Rows of one object in both; that of a case which one model could not compute is paired with each of its objects.

    A model that fails on whole cases would else be measured on those alone that it can do.
    """
    in_a, in_b = ({key: n for n, key in enumerate(curves.objects)} for curves in (curves_a, curves_b))

    def failed(key: tuple[str, str, int, str]) -> tuple[str, str, int, str]:
        return key[0], key[1], 0, FAILED_CASE

    rows = [(n, in_b.get(key, in_b.get(failed(key)))) for key, n in in_a.items()]
    rows += [(in_a.get(failed(key)), n) for key, n in in_b.items() if key not in in_a]
    return [(a, b) for a, b in rows if a is not None and b is not None]


def _refuse_other_truth(curves_a: Curves, curves_b: Curves, folders: str) -> None:
    """Objects of one name whose true sizes differ were evaluated against different labels."""
    one, other = curves_a["voxels"][:, 0], curves_b["voxels"][:, 0]
    differs = (one != other) & (one > 0) & (other > 0)  # a case that could not be computed has none
    if differs.any():
        place = int(np.flatnonzero(differs)[0])
        dataset, case, _, name = curves_a.objects[place]
        raise ValueError(
            f"{folders}: {name} of {dataset}/{case} has {one[place]:.0f} voxels in one and {other[place]:.0f} in the "
            "other; evaluate both against the same labels"
        )


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Writes a comparison as JSON."""
    Path(path).write_text(json.dumps(without_nan(asdict(comparison)), indent=1) + "\n", encoding="utf-8")
    return Path(path)


def _difference(
    quantity: str, a: np.ndarray, b: np.ndarray, bootstrap: PatientBootstrap, higher_is_better: bool
) -> Difference:
    both = np.isfinite(a) & np.isfinite(b)
    found = bootstrap.mean(np.where(both, b - a, np.nan))
    verdict = "undecided"
    if found.low > 0 or found.high < 0:
        verdict = "better" if (found.mean > 0) == higher_is_better else "worse"
    mean_a, mean_b = (float(v[both].mean()) if both.any() else math.nan for v in (a, b))
    return Difference(quantity, mean_a, mean_b, found.mean, found.low, found.high, higher_is_better, verdict)


def _by_dataset(curves_a: Curves, curves_b: Curves, config: CompareConfig) -> list[Difference]:
    """Final Dice of each data set, the largest loss first."""
    dice_a, dice_b = curves_a["dice"][:, -1], curves_b["dice"][:, -1]
    found = []
    for dataset in np.unique(curves_a.datasets):
        inside = curves_a.datasets == dataset
        patients = curves_a.patients[inside].tolist()
        bootstrap = PatientBootstrap([str(dataset)] * len(patients), patients, config.bootstrap, config.seed)
        found.append(_difference(str(dataset), dice_a[inside], dice_b[inside], bootstrap, True))
    return sorted(found, key=lambda d: d.mean)


def _challenge(curves_a: Curves, curves_b: Curves, config: CompareConfig) -> list[Difference]:
    """The challenge's scores of the cases that both have, over the objects that both have."""
    scores_a, scores_b = case_challenge_scores(curves_a), case_challenge_scores(curves_b)
    cases = list(scores_a)
    members = [int(np.flatnonzero(curves_a.cases == case)[0]) for case in cases]
    bootstrap = PatientBootstrap(
        curves_a.datasets[members].tolist(), curves_a.patients[members].tolist(), config.bootstrap, config.seed
    )
    titles = {"dsc_auc": "DSC AUC", "nsd_auc": "NSD AUC", "dsc_final": "DSC final", "nsd_final": "NSD final"}
    return [
        _difference(
            f"challenge's {title}",
            np.array([scores_a[case][name] for case in cases]),
            np.array([scores_b[case][name] for case in cases]),
            bootstrap,
            True,
        )
        for name, title in titles.items()
    ]


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no summary.json; expected a folder that promptseg evaluate -o wrote")
    return json.loads(path.read_text(encoding="utf-8"))


def _choose_model(summary: dict[str, Any], wanted: str | None, folder: Path, taken: str | None) -> str:
    names = [name for name, m in summary["models"].items() if m["objects"]]
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"{folder}: no model {wanted!r} in it; it has {', '.join(names)}")
        return wanted
    own = [name for name in names if not summary["models"][name]["is_baseline"]]
    for name in [*own, *names]:
        if name != taken:
            return name
    raise ValueError(f"{folder}: it has one model only, {taken!r}; give another report to compare with")


def _curves(folder: Path, model: str) -> Curves:
    records: Sequence[StepRecord] = [r for r in read_csv(folder / "results.csv") if r.model == model]
    return Curves(records)


def _row_medians(values: np.ndarray) -> np.ndarray:
    """Median of what is known in each row; NaN in a row without."""
    return np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else math.nan for row in values])


def _text(value: float, sign: str = "") -> str:
    return "-" if not math.isfinite(value) else f"{value:{sign}.3f}"
