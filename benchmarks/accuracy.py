"""Accuracy of models and classical baselines with simulated clicks, as one markdown table.

    python benchmarks/accuracy.py --catalog ../shared/data -o runs/accuracy
    python benchmarks/accuracy.py --report runs/accuracy --per-dataset

The first line runs `promptseg evaluate` (or goes on with it) and prints the table; the second prints that of a report
that is there, one row for each data set and model. Dice and NSD are means over objects, or with `--mean datasets` means
of the data sets' means, with 95 % intervals from resampling patients within data sets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptseg.evaluation import EvaluationConfig, run_evaluation
from promptseg.evaluation.config import DEFAULT_MODELS


def estimate(entry: dict[str, float | None]) -> str:
    """A mean with its interval."""
    if entry["low"] is None:
        return "-" if entry["mean"] is None else f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def number(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def markdown(summary: dict[str, Any], steps: Sequence[int], mean: str = "objects") -> str:
    """The table of models.

    Args:
        summary: content of ``summary.json``.
        steps: Dice is shown after these; those that the protocol does not have are left out.
        mean: over ``objects`` or ``datasets``.
    """
    dice, nsd = ("dice", "nsd") if mean == "objects" else ("dice_of_datasets", "nsd_of_datasets")
    models = {name: m for name, m in summary["models"].items() if m["objects"]}
    if not models:
        return "no objects were evaluated"
    there = [point["step"] for point in next(iter(models.values()))["curve"]]
    shown = [step for step in steps if step in there] or [there[-1]]
    is_challenge = summary["settings"]["protocol"] == "cvpr25"
    head = ["model", *(f"Dice, {step}" for step in shown), f"NSD, {there[-1]}", "NoC@80", "reached"]
    head += ["DSC AUC", "NSD AUC"] if is_challenge else []
    head += ["lowers Dice", "s, first", "s, later"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, m in models.items():
        curve = {point["step"]: point for point in m["curve"]}
        reach = m["clicks_to_reach"]["0.80"]
        cells = [name, *(estimate(curve[step][dice]) for step in shown), estimate(curve[there[-1]][nsd])]
        cells += [number(reach["mean"]["mean"], 1), f"{100 * reach['share_reached']:.0f} %"]
        if is_challenge:
            cells += [estimate(m["challenge"]["dsc_auc"]), estimate(m["challenge"]["nsd_auc"])]
        lowered = m["regression"]["share_much_lower"]
        cells.append("-" if lowered is None else f"{100 * lowered:.0f} %")
        cells += [number(m["seconds"][key]["median"], 2) for key in ("first", "later")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def per_dataset(summary: dict[str, Any], steps: Sequence[int]) -> str:
    """The table of data sets: mean Dice of each model after each step, and NSD after the last.

    Args:
        summary: content of ``summary.json``.
        steps: as for :func:`markdown`.
    """
    models = {name: m for name, m in summary["models"].items() if m["objects"]}
    if not models:
        return "no objects were evaluated"
    there = [point["step"] for point in next(iter(models.values()))["curve"]]
    shown = [step for step in steps if step in there] or [there[-1]]
    head = ["data set", "model", "objects", "patients", *(f"Dice, {step}" for step in shown), f"NSD, {there[-1]}"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for dataset in sorted(group["group"] for group in next(iter(models.values()))["by_dataset"]):
        for name, m in models.items():
            for group in (g for g in m["by_dataset"] if g["group"] == dataset):
                cells = [dataset, name, str(group["objects"]), str(group["patients"])]
                cells += [number(group["dice"][there.index(step)], 3) for step in shown]
                lines.append("| " + " | ".join([*cells, number(group["final_nsd"]["mean"], 3)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Evaluates if asked to, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", help="as for promptseg evaluate")
    parser.add_argument("--report", help="folder of a report: print its table and compute nothing")
    parser.add_argument("-o", "--output", default="runs/accuracy", help="folder of the report")
    parser.add_argument("--fold", default="validation")
    parser.add_argument("--protocol", default="clicks")
    parser.add_argument("--model", nargs="+", default=list(DEFAULT_MODELS))
    parser.add_argument("--click-depth", type=float, default=1.0, help="less than 1 for a user who is not exact")
    parser.add_argument("--max-cases", type=int)
    parser.add_argument("--max-objects", type=int)
    parser.add_argument("--min-voxels", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 3, 5, 10], help="Dice is shown after these")
    parser.add_argument("--mean", choices=["objects", "datasets"], default="objects", help="what means are over")
    parser.add_argument("--per-dataset", action="store_true", help="one row for each data set and model")
    options = parser.parse_args()
    if options.report:
        folder = Path(options.report)
    elif options.catalog:
        config = EvaluationConfig(
            catalog=options.catalog,
            output=options.output,
            model=tuple(options.model),
            fold=options.fold,
            protocol=options.protocol,
            click_depth=options.click_depth,
            max_cases=options.max_cases,
            max_objects=options.max_objects,
            min_voxels=options.min_voxels,
            workers=options.workers,
        )
        folder = run_evaluation(config).output
    else:
        parser.error("give --catalog to evaluate, or --report to print what is there")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    print(
        per_dataset(summary, options.steps) if options.per_dataset else markdown(summary, options.steps, options.mean)
    )


if __name__ == "__main__":
    main()
