"""``promptseg evaluate``: models and baselines on labelled cases, as a simulated user would work with them."""

from __future__ import annotations

from typing import Any

from ..evaluation.config import EvaluationConfig
from .command import Command
from .loading import check_device


def run(config: EvaluationConfig) -> int:
    """Evaluates, and prints the headline table; 1 if a case failed."""
    check_device(config.device)
    from ..evaluation import run_evaluation

    result = run_evaluation(config)
    models = {name: m for name, m in result.summary["models"].items() if m["objects"]}
    failures = sum(len(m["failures"]) for m in result.summary["models"].values())
    for line in _table(models):
        print(line)
    for name, m in models.items():
        if facts := _about_names(m["names"]):
            print(f"{name}: {facts}")
    print(f"{result.report}: {next(iter(models.values()))['objects'] if models else 0} objects")
    if failures:
        print(f"{failures} failures count as zero; the report lists them")
    return 1 if failures else 0


def _about_names(names: dict[str, Any]) -> str:
    facts = []
    if names.get("presence_auc") is not None:
        counts = f"{names['present']} present, {names['absent']} absent"
        facts.append(f"presence AUROC {names['presence_auc']:.3f} ({counts})")
    if names.get("sides_confused") is not None:
        facts.append(f"left and right confused in {names['sides_confused']:.1%} of {names['sided']}")
    return "; ".join(facts)


def _table(models: dict[str, Any]) -> list[str]:
    if not models:
        return []
    first, last = (next(iter(models.values()))[key]["step"] for key in ("first", "final"))
    lines = [
        f"| model | Dice, step {first} | Dice, step {last} | NSD, step {last} | clicks to 0.80 | s, first | s, later |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in models.items():
        cells = [
            m["first"]["dice"]["mean"],
            m["final"]["dice"]["mean"],
            m["final"]["nsd"]["mean"],
            m["clicks_to_reach"]["0.80"]["mean"]["mean"] if last > first else None,
            m["seconds"]["first"]["median"],
            m["seconds"]["later"]["median"],
        ]
        lines.append(f"| {name} | " + " | ".join("-" if c is None else f"{c:.3f}" for c in cells) + " |")
    return lines


COMMAND = Command(
    EvaluationConfig,
    run,
    example="""\
  promptseg evaluate --catalog data/ -o report/
  promptseg evaluate --catalog data/ --protocol cvpr25 --workers 4 -o report/
  promptseg evaluate --catalog data/ --model new=runs/step_9000 --model promptseg-tiny -o report/""",
)
