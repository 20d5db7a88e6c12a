"""``report.html``: one file with everything a reader needs to believe the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..io.atomic import atomic_path
from .charts import ChartFrame, Line, draw_chart
from .config import EvaluationConfig
from .gallery import draw_gallery
from .html import estimate, number, page, pairs, share, table
from .records import StepRecord
from .work import CaseTask

SHOWN_STEPS = (0, 1, 3, 5, 10)
"""Of the curves, in tables."""

EXPLANATIONS = {
    "clicks": "A simulated user clicks the deepest point of the object, then, up to the number of clicks asked for, "
    "the deepest point of the largest 26-connected error, missing and superfluous voxels together.",
    "cvpr25": "The CVPR 2025 interactive challenge: the box of the object's middle slice with its range of slices, "
    "then five clicks at the deepest point (in voxels) of the largest 26-connected error. AUC is the area under the "
    "five clicks' curve, at most 4. A case's NSD counts as 0 where its mean Dice is not above 0.2.",
    "box": "One tight 3D box around the object.",
    "scribble": "A line along the middle of the object, then of the largest error, on one slice.",
    "mask": "A mask corrupted to a Dice of 0.7 is handed over (step 0), then clicks as in the protocol clicks.",
    "text": "The name of the object, looked for in the whole image; and names of structures that are not there.",
    "named": "The name of the object together with the first click of the protocol clicks, then clicks as there.",
    "auto": "Everything that the model knows by name is looked for at once, and overlaps are resolved; an object that "
    "it does not know counts as zero.",
}


def write_report(
    output: Path,
    records: Sequence[StepRecord],
    summary: dict[str, Any],
    tasks: Sequence[CaseTask],
    config: EvaluationConfig,
) -> Path:
    """Writes the report.

    Args:
        output: folder.
        records: every row.
        summary: content of ``summary.json``.
        tasks: of the run, for the gallery.
        config: options of the run.

    Returns:
        The path of ``report.html``.
    """
    models = {name: m for name, m in summary["models"].items() if m["objects"]}
    body = [*_head(summary, models, config)]
    if models:
        body += [*_overview(models, config), *_curves(models, config), *_interaction(models)]
        body += [*_names(models), *_groups(models)]
        body += _gallery(models, records, tasks, config)
    body += _about(summary)
    path = output / "report.html"
    with atomic_path(path) as partial:
        partial.write_text(page(f"promptseg evaluate: {config.protocol}", body), encoding="utf-8")
    return path


def _head(summary: dict[str, Any], models: dict[str, Any], config: EvaluationConfig) -> list[str]:
    first = next(iter(models.values()), {"objects": 0, "cases": 0, "patients": 0, "datasets": 0})
    counts = [
        (first["objects"], "object"),
        (first["cases"], "case"),
        (first["patients"], "patient"),
        (first["datasets"], "data set"),
    ]
    objects, cases, patients, datasets = (f"{n} {noun}{'s' if n != 1 else ''}" for n, noun in counts)
    skipped = (
        f" Objects of fewer than {config.min_voxels} voxels that were left out: {summary['skipped_objects']}."
        if config.min_voxels > 1
        else ""
    )
    if unnamed := summary["unnamed_objects"]:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unnamed.items()))
        skipped += f" Left out, as the vocabulary does not have their names: {escape(listed)}."
    lines = [
        f"<h1>Interactive segmentation: protocol {escape(config.protocol)}</h1>",
        f"<p>{objects} of {cases}, {patients}, {datasets}, fold <i>{escape(config.fold)}</i>.{skipped}</p>",
        f"<p>{EXPLANATIONS[config.protocol]} Every object is simulated alone. NSD at {config.tolerance_mm:g} mm. "
        "Numbers in grey are 95 % intervals from resampling patients within data sets; baselines and test models are "
        "in italics.</p>",
    ]
    failures = [(name, f) for name, m in summary["models"].items() for f in m["failures"]]
    if failures:
        rows = [[escape(name), escape(f["case"]), escape(f["error"])] for name, f in failures]
        lines.append('<p class="warn">Something failed, and counts as zero in all tables:</p>')
        lines.append(table(["model", "case", "error"], rows))
    return lines


def _overview(models: dict[str, Any], config: EvaluationConfig) -> list[str]:
    first, last = (next(iter(models.values()))[k]["step"] for k in ("first", "final"))
    head = ["model", f"Dice, step {first}"]
    head += [f"Dice, step {last}", f"NSD, step {last}", "HD95 (median, mm)", "|volume error| (median)", "lesion F1"]
    head += ["seconds: first", "later", "memory (MB)"]
    rows = []
    for name, m in models.items():
        final, seconds = m["final"], m["seconds"]
        rows.append(
            [
                escape(name),
                estimate(m["first"]["dice"]),
                estimate(final["dice"]),
                estimate(final["nsd"]),
                number(final["hd95_mm_median"], 1),
                share(final["absolute_volume_error_median"]),
                number(final["lesion_f1"]["mean"]),
                number(seconds["first"]["median"]),
                number(seconds["later"]["median"]),
                number(m["peak_memory_mb"], 0),
            ]
        )
    lines = ["<h2>Summary</h2>", table(head, rows, [m["is_baseline"] for m in models.values()])]
    if config.protocol == "cvpr25":
        keys = ("dsc_auc", "nsd_auc", "dsc_auc_normalised", "nsd_auc_normalised", "dsc_final", "nsd_final")
        rows = [[escape(n), *(estimate(m["challenge"][k]) for k in keys)] for n, m in models.items()]
        head = ["model", "DSC AUC (max 4)", "NSD AUC (max 4)", "DSC AUC / 4", "NSD AUC / 4", "DSC final", "NSD final"]
        lines += [
            "<h3>The challenge's scores, means over cases</h3>",
            table(head, rows, [m["is_baseline"] for m in models.values()]),
        ]
    return lines


def _curves(models: dict[str, Any], config: EvaluationConfig) -> list[str]:
    steps = [point["step"] for point in next(iter(models.values()))["curve"]]
    lines = ["<h2>From click to click</h2>"]
    if len(steps) > 1:
        charts = []
        for metric, title in (("dice", "Dice"), ("nsd", f"NSD at {config.tolerance_mm:g} mm")):
            drawn = [
                Line(
                    name,
                    steps,
                    [_real(point[metric]["mean"]) for point in m["curve"]],
                    [_real(point[metric]["low"]) for point in m["curve"]],
                    [_real(point[metric]["high"]) for point in m["curve"]],
                )
                for name, m in models.items()
            ]
            charts.append(draw_chart(drawn, ChartFrame(title, "number of corrections", title, steps)))
        lines.append(f'<div class="charts">{"".join(charts)}</div>')
    is_marked = [m["is_baseline"] for m in models.values()]
    shown = [step for step in SHOWN_STEPS if step in steps] or [steps[-1]]
    for key, title in (("dice", "mean of all objects"), ("dice_of_datasets", "mean of the data sets' means")):
        rows = [
            [escape(name), *(estimate(point[key]) for point in m["curve"] if point["step"] in shown)]
            for name, m in models.items()
        ]
        head = ["model", *(f"step {step}" for step in shown)]
        lines += [f"<h3>Dice, {title}</h3>", table(head, rows, is_marked)]
    return lines + (_clicks_to_reach(models) if len(steps) > 1 else [])


def _clicks_to_reach(models: dict[str, Any]) -> list[str]:
    head, rows = ["model"], []
    thresholds = list(next(iter(models.values()))["clicks_to_reach"])
    for threshold in thresholds:
        head += [f"NoC@{100 * float(threshold):.0f}", "reached"]
    for name, m in models.items():
        cells = [escape(name)]
        for threshold in thresholds:
            entry = m["clicks_to_reach"][threshold]
            cells += [estimate(entry["mean"], 2), share(entry["share_reached"])]
        rows.append(cells)
    return [
        "<h3>Number of clicks to reach a Dice of 0.80, 0.85, 0.90</h3><p>Objects that never reach it count as the last "
        "step.</p>",
        table(head, rows, [m["is_baseline"] for m in models.values()]),
    ]


def _interaction(models: dict[str, Any]) -> list[str]:
    head = [
        "model",
        "clicks respected: newest",
        "all",
        "corrections that lower Dice",
        "by > 0.02",
        "mean loss",
        "worst loss",
    ]
    head += ["jitter: |change| of Dice", "seconds first, p95", "later, p95", "encoder calls: first", "later"]
    rows = []
    for name, m in models.items():
        respect, regression, seconds = m["clicks_respected"], m["regression"], m["seconds"]
        rows.append(
            [
                escape(name),
                share(respect["newest"]),
                share(respect["all"]),
                share(regression["share_lower"]),
                share(regression["share_much_lower"]),
                number(regression["mean_drop"]),
                number(regression["worst_drop"]),
                number(m["jitter"].get("mean_dice_difference")),
                number(seconds["first"]["p95"]),
                number(seconds["later"]["p95"]),
                number(m["encoder_calls"]["first"], 1),
                number(m["encoder_calls"]["later"], 1),
            ]
        )
    lines = [
        "<h2>Interaction</h2>",
        "<p>A click is respected if its voxel is in the answer, or out of it for a click that excludes. Losses compare "
        "each answer with the one before it. Jitter gives the first prompt again, slightly elsewhere. Encoder calls "
        "are passes of the image encoder for one answer.</p>",
        table(head, rows, [m["is_baseline"] for m in models.values()]),
    ]
    estimating = {
        name: m["calibration"] for name, m in models.items() if m["calibration"]["count"] and not m["is_baseline"]
    }
    if estimating:
        drawn = [Line(n, [b[0] for b in c["bins"]], [b[1] for b in c["bins"]]) for n, c in estimating.items()]
        ticks = (0, 0.2, 0.4, 0.6, 0.8, 1.0)
        frame = ChartFrame("Predicted against true IoU", "predicted", "true", ticks, has_diagonal=True)
        head = ["model", "answers", "mean |error|", "bias", "ECE", "correlation"]
        rows = [
            [
                escape(n),
                str(c["count"]),
                *(number(c[k]) for k in ("mean_error", "bias", "expected_error", "correlation")),
            ]
            for n, c in estimating.items()
        ]
        lines += ["<h3>Calibration of the predicted IoU</h3>", draw_chart(drawn, frame), table(head, rows)]
    return lines


def _names(models: dict[str, Any]) -> list[str]:
    """Presence and sides, where something was asked for by name."""
    asked = {name: m["names"] for name, m in models.items() if m["names"].get("absent") or m["names"].get("sided")}
    if not asked:
        return []
    head = ["model", "presence: AUROC", "objects", "absent names", "mean presence", "of absent names"]
    head += ["absent, yet drawn", "objects with two sides", "sides confused", "share on the other side"]
    rows = [
        [
            escape(name),
            number(n["presence_auc"]),
            str(n["present"]),
            str(n["absent"]),
            number(n["presence_of_present"]),
            number(n["presence_of_absent"]),
            share(n["absent_answered"]),
            str(n["sided"]),
            share(n["sides_confused"]),
            share(n["other_side_share"]),
        ]
        for name, n in asked.items()
    ]
    return [
        "<h2>Names</h2>",
        "<p>Whether the estimated presence tells structures that are in the image from names that are not, at the "
        "first step; and, where the structure of the other side is labelled, too, whether more was drawn there.</p>",
        table(head, rows, [models[name]["is_baseline"] for name in asked]),
    ]


def _groups(models: dict[str, Any]) -> list[str]:
    """Every model side by side, then each that is not a baseline by itself; all sorted by the first of those."""
    main = {name: m for name, m in models.items() if not m["is_baseline"]} or models
    leading = next(iter(main.values()))
    lines = []
    for key, title in (("by_dataset", "By data set, the worst first"), ("by_label", "By structure, the worst first")):
        lines.append(f"<h2>{title}</h2>")
        final = {name: {g["group"]: g["final_dice"]["mean"] for g in m[key]} for name, m in models.items()}
        rows = [
            [escape(g["group"]), str(g["objects"]), *(number(final[name].get(g["group"])) for name in models)]
            for g in leading[key]
        ]
        lines += ["<h3>Dice, last step</h3>", table(["", "objects", *models], rows)]
        for name, m in main.items():
            rows = [
                [
                    escape(g["group"]),
                    str(g["objects"]),
                    str(g["patients"]),
                    estimate(g["first_dice"]),
                    estimate(g["final_dice"]),
                    estimate(g["final_nsd"]),
                ]
                for g in m[key]
            ]
            head = ["", "objects", "patients", "Dice, first", "Dice, last", "NSD, last"]
            lines += [f"<h3>{escape(name)}</h3>", table(head, rows)]
    return lines


def _gallery(
    models: dict[str, Any], records: Sequence[StepRecord], tasks: Sequence[CaseTask], config: EvaluationConfig
) -> list[str]:
    lines = []
    if not config.gallery:
        return lines
    shown = {name: m for name, m in models.items() if not m["is_baseline"]} or models
    for name in shown:
        own = [r for r in records if r.model == name]
        pictures = draw_gallery(own, [t for t in tasks if t.spec.name == name], config.gallery, config.tolerance_mm)
        if pictures:
            lines.append(f"<h2>Best, median and worst: {escape(name)}</h2>")
            lines.append("<p>After the last step. Filled clicks lie on the slice, rings up to 6 mm from it.</p>")
        for picture in pictures:
            lines.append(
                f'<figure><img alt="{escape(picture.caption)}" src="data:image/png;base64,{picture.png}">'
                f"<figcaption><b>{picture.rank}</b> {escape(picture.caption)}</figcaption></figure>"
            )
    return lines


def _about(summary: dict[str, Any]) -> list[str]:
    environment = {k: v for k, v in summary["environment"].items() if k not in ("versions", "command")}
    revisions = {name: f"{m['source']} {m['revision']}" for name, m in summary["models"].items()}
    return [
        "<h2>How these numbers were made</h2>",
        f"<pre>{escape(summary['environment']['command'])}</pre>",
        pairs(environment),
        "<h3>Settings</h3>",
        pairs(summary["settings"]),
        "<h3>Models</h3>",
        pairs(revisions),
        "<h3>Versions</h3>",
        pairs(summary["environment"]["versions"]),
        "<p>Seconds are from prompt to mask, without reading the image or handing it over, which is done once a case: "
        "what a model keeps of it makes the first answers for a case's later objects faster. Of what is looked for all "
        "at once, the search counts once. Memory is the largest resident memory of the "
        "process during a case, image and scorer included, or on a GPU that of its tensors.</p>",
    ]


def _real(value: float | None) -> float:
    return math.nan if value is None else value
