"""Makes a checkpoint folder that ships out of a training run and the reports of its evaluation.

    python tools/export_checkpoint.py --run runs/pretrain-tiny --config configs/pretrain_tiny.yaml --data-root DATA \\
        --report report/clicks --report report/box -o checkpoints/promptseg-tiny

Beside the weights (float16) and ``config.json`` it writes the recipe, the log, the curves, the list of training cases,
and the model card. An atlas is added afterwards, by tools/add_atlas.py. Every number on the card is read from the
reports; without a report the card has none. Reports of one protocol on several data sets are read as one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from promptseg.cards import CardFacts, TrainingData
from promptseg.evaluation.charts import ChartFrame, Line, draw_chart
from promptseg.evaluation.naming import summarise_names
from promptseg.evaluation.records import StepRecord, read_csv
from promptseg.models.pretrained import load_pretrained, save_pretrained
from promptseg.training.config import PretrainConfig

SHOWN_CLICKS = (1, 3, 5, 10)


def training_data(config: PretrainConfig, root: Path) -> list[dict[str, Any]]:
    """What the run's configuration trains on: data sets with licence, citation and the names of the training cases."""
    found: dict[str, dict[str, Any]] = {}
    for group in config.data_weights:
        name, _, modality = group.partition(":")
        dataset = json.loads((root / name / "dataset.json").read_text(encoding="utf-8"))
        cases = [
            c["case"]
            for c in dataset["cases"]
            if c["fold"] == "train" and (not modality or c.get("modality") == modality)
        ]
        entry = found.setdefault(name, {k: dataset[k] for k in ("name", "title", "modality", "licence", "citation")})
        entry.setdefault("cases", []).extend(cases)
    return list(found.values())


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_curves(rows: list[dict[str, float]], width: int = 5) -> str:
    """Dice in training after each number of prompts against the step, as SVG; a mean over ``width`` rows."""
    last = int(rows[-1]["step"])
    ticks = tuple(float(t) for t in range(0, last + 1, max(1, last // 500) * 100))
    lines = []
    for count in (1, 3, 5):
        known = [(r["step"], r[f"dice{count}"]) for r in rows if r.get(f"dice{count}") is not None]
        groups = [known[i : i + width] for i in range(0, len(known) - width + 1, width)]
        x, y = ([sum(p[axis] for p in group) / len(group) for group in groups] for axis in (0, 1))
        lines.append(Line(f"after prompt {count}", x, y))
    return draw_chart(lines, ChartFrame("Dice on training crops", "step", "Dice", ticks))


def dice_by_step(records: list[StepRecord]) -> dict[str, dict[str, dict[int, tuple[float, int]]]]:
    """Model -> data set -> step -> (mean Dice, objects)."""
    values: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for r in records:
        if r.repeat == 0 and not r.is_absent:
            values[r.model][r.dataset][r.step].append(r.dice)
    return {
        model: {name: {s: (sum(v) / len(v), len(v)) for s, v in steps.items()} for name, steps in datasets.items()}
        for model, datasets in values.items()
    }


def by_protocol(reports: list[Path]) -> dict[tuple[str, str], list[StepRecord]]:
    """(Protocol, fold) -> records of all its reports, in the order of the reports."""
    found: dict[tuple[str, str], list[StepRecord]] = {}
    for report in reports:
        settings = json.loads((report / "summary.json").read_text(encoding="utf-8"))["settings"]
        found.setdefault((settings["protocol"], settings["fold"]), []).extend(read_csv(report / "results.csv"))
    return found


def accuracy_tables(reports: list[Path]) -> str:
    """One markdown table for each protocol: mean Dice per data set and model, and the mean over data sets."""
    parts = []
    for (protocol, fold), records in by_protocol(reports).items():
        found = dice_by_step(records)
        steps = sorted({s for datasets in found.values() for by_step in datasets.values() for s in by_step})
        shown = [s for s in steps if s in SHOWN_CLICKS or s == 0] or steps
        parts.append(f"### Protocol `{protocol}`, fold `{fold}`: mean Dice\n")
        heads = ["opening" if s == 0 else f"{s} click{'s' if s > 1 else ''}" for s in shown]
        rows = [f"| data set | objects | model | {' | '.join(heads)} |", "|---|---:|---|" + "---:|" * len(shown)]
        names = sorted({name for datasets in found.values() for name in datasets})
        for name in names:
            for model, datasets in found.items():
                if name in datasets:
                    cells = [f"{datasets[name][s][0]:.3f}" if s in datasets[name] else "" for s in shown]
                    objects = max(n for _, n in datasets[name].values())
                    rows.append(f"| {name} | {objects} | {model} | {' | '.join(cells)} |")
        for model, datasets in found.items():
            means = [[d[s][0] for d in datasets.values() if s in d] for s in shown]
            cells = [f"**{sum(m) / len(m):.3f}**" if m else "" for m in means]
            rows.append(f"| **mean of data sets** | | {model} | {' | '.join(cells)} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def names_table(reports: list[Path], model: str) -> str:
    """A markdown table of each structure's mean Dice by its name alone and with all names at once; else nothing."""
    heads = {"text": "by name", "auto": "all names at once"}
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (protocol, _), records in by_protocol(reports).items():
        for r in records:
            if protocol in heads and r.model == model and r.repeat == 0 and r.step == 0 and not r.is_absent:
                found[r.dataset, r.name][protocol].append(r.dice)
    shown = [p for p in heads if any(p in values for values in found.values())]
    if not shown:
        return ""
    rows = [
        f"| data set | structure | images | {' | '.join(heads[p] for p in shown)} |",
        "|---|---|---:" + "|---:" * len(shown) + "|",
    ]
    for (dataset, name), values in sorted(found.items()):
        count = max(len(v) for v in values.values())
        cells = [f"{sum(values[p]) / len(values[p]):.3f}" if values[p] else "" for p in shown]
        rows.append(f"| {dataset} | {name} | {count} | {' | '.join(cells)} |")
    return "### Each structure by its name: mean Dice\n\n" + "\n".join(rows) + "\n"


def behaviour(report: Path, model: str) -> list[str]:
    """Sentences on regressions, calibration and time of one model in a report."""
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))["models"][model]
    regression, calibration, seconds = summary["regression"], summary["calibration"], summary["seconds"]
    respected = summary["clicks_respected"]
    return [
        f"- Clicks respected: the newest {respected['newest']:.3f}, all so far {respected['all']:.3f}.",
        f"- Share of corrections that lowered Dice: {regression['share_lower']:.3f}; by more than 0.02: "
        f"{regression['share_much_lower']:.3f}.",
        f"- Predicted against true IoU: mean error {calibration['mean_error']:.3f}, bias {calibration['bias']:+.3f}, "
        f"correlation {calibration['correlation']:.2f}.",
        f"- Seconds there, median and 95th percentile: first click {seconds['first']['median']:.2f} and "
        f"{seconds['first']['p95']:.2f}, later ones {seconds['later']['median']:.2f} and "
        f"{seconds['later']['p95']:.2f}.",
    ]


def presence(reports: list[Path], model: str) -> list[str]:
    """A sentence on how well absence was noticed for each protocol that asked by name for what is not there."""
    sentences = []
    for (protocol, _), records in by_protocol(reports).items():
        names = summarise_names([r for r in records if r.model == model])
        if names["presence_auc"] != names["presence_auc"]:  # nothing absent was asked for
            continue
        drawn = round(names["absent_answered"] * names["absent_asked"])
        sentences.append(
            f"- Presence, protocol `{protocol}`: AUROC {names['presence_auc']:.3f} ({names['present']} present; "
            f"{names['absent']} absent, of which {drawn} were drawn)."
        )
    return sentences


def main() -> None:
    """Reads the command line and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--config", type=Path, required=True, help="its YAML file")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets it read")
    parser.add_argument("--report", type=Path, action="append", default=[], help="folder of promptseg evaluate")
    parser.add_argument("--description", default="", help="one or two sentences for the card")
    parser.add_argument("--note", type=Path, help="markdown that ends the card: what the weights are bad at")
    parser.add_argument("--min-cases", type=int, default=2, help="training cases from which a term counts as known")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    config = PretrainConfig.from_file(options.config)
    model, _ = load_pretrained(options.run / "weights")
    known = tuple(term for term in model.config.text_terms if term.cases >= options.min_cases)
    model.config = dataclasses.replace(model.config, text_terms=known)
    rows = read_log(options.run / "metrics.jsonl")
    data = training_data(config, options.data_root)
    facts = CardFacts(
        description=options.description,
        licence="Apache-2.0",
        training_data=tuple(
            TrainingData(f"{d['title']} (`{d['name']}`)", d["licence"], len(d["cases"]), d["citation"]) for d in data
        ),
    )
    step = int(rows[-1]["step"])
    options.output.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, options.output, extra={"step": step, "seed": config.seed}, card=facts, dtype=torch.float16)
    shutil.copy(options.config, options.output / "pretrain.yaml")
    shutil.copy(options.run / "metrics.jsonl", options.output / "training_log.jsonl")
    (options.output / "training_data.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (options.output / "curves.svg").write_text(draw_curves(rows), encoding="utf-8")
    card = options.output / "README.md"
    steps = [0.0, *(r["step"] for r in rows)]
    hours = sum(r["seconds_per_step"] * (b - a) for r, a, b in zip(rows, steps, steps[1:], strict=False)) / 3600
    text = card.read_text(encoding="utf-8")
    recipe = (
        f"{step} steps in {hours:.1f} hours, the main part by `pretrain.yaml` (seed {config.seed}). Cases: "
        "`training_data.json`; log: `training_log.jsonl`; curves: `curves.svg`.\n"
    )
    text = text.replace("## Measured\n", f"## Training\n\n{recipe}\n## Measured\n", 1)
    if options.report:
        name = config.model.name
        lines = [accuracy_tables(options.report), names_table(options.report, name)]
        lines += ["On the first table's prompts:\n", *behaviour(options.report[0], name), ""]
        lines += presence(options.report, name)
        text = text.replace("Nothing was measured.", "\n".join(lines), 1)
    if options.note:
        text += "\n" + options.note.read_text(encoding="utf-8").strip() + "\n"
    card.write_text(text, encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
