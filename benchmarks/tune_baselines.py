"""Tunes the classical baselines on training cases, and writes their parameters beside their code.

    python benchmarks/tune_baselines.py --catalog ../shared/data

Each parameter in turn is set to the value that scores best with the others held, twice over. The score is the mean
over data sets of the mean Dice after clicks 1 to --clicks (and, for `core`, of the Dice in a box), on the fold `train`
alone, with the clicks that the benchmark makes. The training fold is drawn from with a fixed seed, so the result is
repeatable. All four take about five minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptseg.evaluation.baselines import BASELINES, TUNED_PATH, ClassicalSegmenter
from promptseg.evaluation.cases import EvaluationObject, find_cases, objects_of
from promptseg.evaluation.click_policy import next_click
from promptseg.evaluation.metrics import dice
from promptseg.evaluation.prompts import ObjectPrompts
from promptseg.evaluation.segmenters import SegmenterImage
from promptseg.evaluation.simulation import generator_for

GRIDS: dict[str, dict[str, list[Any]]] = {
    "box-as-mask": {"radius_mm": [3.0, 5.0, 8.0, 12.0, 20.0, 30.0]},
    "region-growing": {
        "multiplier": [1.0, 1.5, 2.0, 2.5, 3.0],
        "margin_mm": [25.0, 40.0, 80.0, 120.0],
        "iterations": [0, 1, 3],
        "radius": [1, 2],
        "smoothing": [0, 2, 5],
        "closing": [0, 1, 2, 3],
        "core": [0.1, 0.3, 0.6],
    },
    "fast-marching": {
        "reach_mm": [8.0, 12.0, 20.0, 40.0, 60.0],
        "margin_mm": [25.0, 40.0, 80.0],
        "tolerance": [0.25, 0.5, 1.0, 2.0],
        "edge": [0.0, 0.5, 1.0, 2.0],
        "core": [0.3, 0.6, 0.8],
    },
    "random-walker": {
        "threshold": [0.02, 0.05, 0.1, 0.2],
        "margin_mm": [25.0, 40.0, 60.0],
        "beta": [300.0, 1000.0, 3000.0, 10000.0],
        "seed_radius": [1, 2],
        "core": [0.1, 0.3, 0.6],
    },
}


@dataclass(frozen=True)
class Sample:
    """An object to tune on."""

    dataset: str
    image: SegmenterImage
    target: EvaluationObject


def draw_samples(catalog: str, seed: int, cases: int, objects: int, min_voxels: int) -> list[Sample]:
    """At most so many cases of each data set's training fold, and objects of each case."""
    by_dataset: dict[str, list[Any]] = {}
    for case in find_cases(catalog, "train"):
        by_dataset.setdefault(case.dataset, []).append(case)
    samples = []
    for dataset, found in by_dataset.items():
        for place in generator_for(seed, dataset).permutation(len(found))[:cases]:
            loaded = found[place].load()
            targets = [t for t in objects_of(loaded, 2.0) if t.truth.num_voxels >= min_voxels]
            order = generator_for(seed, dataset, found[place].name).permutation(len(targets))[:objects]
            samples += [Sample(dataset, loaded.image, targets[n]) for n in order]
    return samples


def click_score(segmenter: ClassicalSegmenter, sample: Sample, clicks: int) -> float:
    """Mean Dice after clicks 1 to ``clicks``."""
    truth, scores = sample.target.truth, []
    segmenter.set_image(sample.image)
    low, true_crop, predicted = truth.low, truth.mask, np.zeros_like(truth.mask)
    prompts = ObjectPrompts()
    for _ in range(clicks):
        click = next_click(true_crop, predicted, truth.spacing_mm.tolist(), low.tolist())
        if click is None:
            scores.append(1.0)
            continue
        prompts = prompts.with_point(click.voxel, click.label)
        low, true_crop, predicted = truth.union_crops(segmenter.predict(prompts).mask)
        scores.append(dice(true_crop, predicted))
    return float(np.mean(scores))


def box_score(segmenter: ClassicalSegmenter, sample: Sample) -> float:
    """Dice in the object's box."""
    truth = sample.target.truth
    segmenter.set_image(sample.image)
    answer = segmenter.predict(ObjectPrompts(box=(truth.low, truth.high)))
    return dice(*truth.union_crops(answer.mask)[1:])


def score(name: str, parameters: dict[str, Any], samples: Sequence[Sample], clicks: int, uses_box: bool) -> float:
    """Mean over data sets."""
    segmenter = BASELINES[name](**parameters)
    by_dataset: dict[str, list[float]] = {}
    for sample in samples:
        value = box_score(segmenter, sample) if uses_box else click_score(segmenter, sample, clicks)
        by_dataset.setdefault(sample.dataset, []).append(value)
    return float(np.mean([np.mean(values) for values in by_dataset.values()]))


def tune(name: str, samples: Sequence[Sample], clicks: int) -> dict[str, Any]:
    """Parameters of a baseline and what they score, one parameter at a time, twice over."""
    started = time.perf_counter()
    best = BASELINES[name]().parameters()
    tried: dict[str, float] = {}

    def measured(parameters: dict[str, Any], uses_box: bool) -> float:
        key = json.dumps([uses_box, parameters], sort_keys=True)
        if key not in tried:
            tried[key] = score(name, parameters, samples, clicks, uses_box)
        return tried[key]

    for _ in range(2):
        for parameter, values in GRIDS[name].items():
            uses_box = parameter == "core"
            options = [{**best, parameter: v} for v in dict.fromkeys([best[parameter], *values])]
            best = max(options, key=lambda o: measured(o, uses_box))
    print(f"{name}: {best}, {len(tried)} settings, {time.perf_counter() - started:.0f} s", flush=True)
    return {
        "parameters": best,
        "clicks_dice": round(measured(best, False), 4),
        "untuned_clicks_dice": round(measured(BASELINES[name]().parameters(), False), 4),
        "box_dice": round(measured(best, True), 4),
        "settings_tried": len(tried),
    }


def main() -> None:
    """Tunes, prints one markdown table, and writes the parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", required=True, help="folder of data sets, as for promptseg evaluate")
    parser.add_argument("--only", nargs="+", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--cases", type=int, default=2, help="of each data set")
    parser.add_argument("--objects", type=int, default=2, help="of each case")
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--min-voxels", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    samples = draw_samples(options.catalog, options.seed, options.cases, options.objects, options.min_voxels)
    objects = {d: sum(s.dataset == d for s in samples) for d in sorted({s.dataset for s in samples})}
    print(f"{len(samples)} objects: {objects}", flush=True)
    content = json.loads(TUNED_PATH.read_text(encoding="utf-8")) if TUNED_PATH.is_file() else {"baselines": {}}
    content["how"] = {
        "script": "benchmarks/tune_baselines.py",
        "fold": "train",
        "objects": objects,
        "score": f"mean over data sets of the mean Dice after clicks 1 to {options.clicks}",
        "seed": options.seed,
    }
    print("\n| baseline | untuned | tuned | in a box |\n|---|---|---|---|")
    for name in options.only:
        found = content["baselines"][name] = tune(name, samples, options.clicks)
        print(f"| {name} | {found['untuned_clicks_dice']:.3f} | {found['clicks_dice']:.3f} | {found['box_dice']:.3f} |")
        TUNED_PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
