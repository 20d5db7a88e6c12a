"""Fits the quality estimate of a checkpoint on training cases, and writes it into its ``config.json``.

    python tools/calibrate_score.py --model checkpoints/promptseg-tiny --data-root DATA --cases 12

A simulated user clicks on the objects of some training cases of each data set, as ``promptseg evaluate`` does, with a
box around every second one first, and the true IoU after each prompt is compared with what the predictor knows of its
answer. Then the same for objects that are named, with a name alone and with a click or more beside it. Validation cases
are not touched.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptseg import Predictor
from promptseg.data.catalog_loader import find_catalogs, load_catalog
from promptseg.data.label_maps import read_labels
from promptseg.data.reading import read_grid
from promptseg.evaluation.click_policy import next_click
from promptseg.models.registry import CONFIG_NAME
from promptseg.quality import FEATURES, fit_calibration, quality_features
from promptseg.safe_loading import replacing
from promptseg.structures import understand_one
from promptseg.volume import Volume


@dataclass(frozen=True)
class CalibrationObject:
    """One object of a training case.

    Attributes:
        dataset: name.
        name: of the object.
        volume: image.
        truth: (I, J, K) bool.
    """

    dataset: str
    name: str
    volume: Volume
    truth: np.ndarray


@dataclass(frozen=True)
class Answers:
    """What is known of some answers, and how good they were.

    Attributes:
        features: (N, 8), see :func:`promptseg.quality.quality_features`.
        ious: (N,) true IoUs.
        objects: (N,) number of the object.
        datasets: (N,) its data set.
    """

    features: np.ndarray
    ious: np.ndarray
    objects: np.ndarray
    datasets: np.ndarray


def objects_of(root: Path, count: int, per_case: int, seed: int) -> Iterator[CalibrationObject]:
    """Some objects of ``count`` training cases of each data set."""
    rng = np.random.default_rng(seed)
    for path in find_catalogs(root):
        catalog = load_catalog(path)
        cases = [c for c in catalog.cases() if c.fold == "train" and c.image is not None and c.labels]
        for number in rng.permutation(len(cases))[:count]:
            case = cases[int(number)]
            assert case.image is not None
            grid = read_grid(case.image, case.frame)
            found = read_labels(catalog, case, grid)
            if found is None:
                continue
            volume = Volume(np.nan_to_num(grid.array), grid.affine)
            values = [int(v) for v in np.unique(found.grid.array) if v in catalog.names]
            for value in rng.permutation(values)[:per_case]:
                mask = found.grid.array == value
                if mask.sum() >= 30:
                    yield CalibrationObject(catalog.name, catalog.names[int(value)], volume, mask)


def measure(
    predictor: Predictor, thing: CalibrationObject, clicks: int, name: str | None, is_boxed: bool
) -> list[tuple[Any, float]]:
    """Features and true IoU after each click on an object; with a name or a box, of that alone as well."""
    predictor.set_image(thing.volume)
    points: list[tuple[int, int, int]] = []
    labels: list[int] = []
    predicted = np.zeros(thing.truth.shape, dtype=bool)
    voxels = np.argwhere(thing.truth)
    box = (voxels.min(axis=0).tolist(), (voxels.max(axis=0) + 1).tolist()) if is_boxed else None
    rows = []

    def answer() -> np.ndarray:
        given = {"points": points, "labels": labels} if points else {}
        result = predictor.predict(**given, box=box, text=name)
        mask = result.mask.astype(bool)
        if mask.any():  # of an empty one, no calibration is asked
            drawing = result.logits_lowres.state.drawing
            iou = float((mask & thing.truth).sum() / (mask | thing.truth).sum())
            rows.append((quality_features(drawing.canvas, drawing.score, len(points) + is_boxed, is_boxed), iou))
        return mask

    if is_boxed:
        predicted = answer()
    elif name is not None:  # the first click beside it does not wait for what the name draws
        answer()
    for _ in range(clicks):
        click = next_click(thing.truth, predicted, thing.volume.spacing_mm.tolist())
        if click is None:
            break
        points.append(click.voxel)
        labels.append(click.label)
        predicted = answer()
    return rows


def is_trained(predictor: Predictor, name: str) -> bool:
    """Whether the weights were trained to find what a data set calls by this name."""
    try:
        structure = understand_one(predictor.model.config, name)
    except ValueError:  # not in the vocabulary
        return False
    return structure is not None and structure.is_trained


def collect(predictor: Predictor, things: Iterable[CalibrationObject], clicks: int, is_named: bool) -> Answers:
    """Answers on objects; if they are named, on those alone whose name the weights were trained on."""
    rows, owners = [], []
    for number, thing in enumerate(things):
        if is_named and not is_trained(predictor, thing.name):
            continue
        measured = measure(predictor, thing, clicks, thing.name if is_named else None, not is_named and number % 2 == 1)
        rows += measured
        owners += [(number, thing.dataset)] * len(measured)
    features, ious = (np.array([row[part] for row in rows]) for part in (0, 1))
    return Answers(features, ious, np.array([n for n, _ in owners]), np.array([d for _, d in owners]))


def calibrate(answers: Answers) -> tuple[float, ...]:
    """Coefficients fitted on all answers; prints how well those fitted on three quarters do on the others."""
    shares = {name: 1 / (answers.datasets == name).sum() for name in set(answers.datasets)}
    held_out = answers.objects % 4 == 0
    coefficients: tuple[float, ...] = ()
    for fitted in (~held_out, np.ones(len(held_out), dtype=bool)):
        weights = np.array([shares[d] for d in answers.datasets[fitted]])
        repeats = np.maximum(1, np.round(weights / weights.min())).astype(int)  # each data set counts the same
        features, ious = (np.repeat(part[fitted], repeats, axis=0) for part in (answers.features, answers.ious))
        coefficients = fit_calibration(features, ious)
        if not fitted.all():
            true = answers.ious[held_out]
            expected = 1 / (1 + np.exp(-answers.features[held_out] @ np.array(coefficients)))
            raw = 1 / (1 + np.exp(-answers.features[held_out, FEATURES.index("estimate")]))
            for what, scores in (("decoder's estimate", raw), ("calibrated", expected)):
                correlation, bias = np.corrcoef(scores, true)[0, 1], (scores - true).mean()
                error = np.abs(scores - true).mean()
                print(
                    f"{what}: error {error:.3f}, bias {bias:+.3f}, correlation {correlation:.2f}, {len(true)} held out"
                )
    return coefficients


def main() -> None:
    """Measures, fits and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="checkpoint folder")
    parser.add_argument("--data-root", required=True, type=Path, help="folder of data sets with a catalog each")
    parser.add_argument("--cases", type=int, default=12, help="training cases of each data set")
    parser.add_argument("--objects", type=int, default=4, help="objects of each case")
    parser.add_argument("--clicks", type=int, default=6, help="clicks on each object")
    parser.add_argument("--named-clicks", type=int, default=3, help="clicks on each object beside its name")
    parser.add_argument("--only", choices=("clicks", "names"), help="fit one of the two, and keep the other")
    arguments = parser.parse_args()
    predictor = Predictor.from_pretrained(arguments.model)
    path = arguments.model / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    for kind, field, clicks in (
        ("clicks", "score_calibration", arguments.clicks),
        ("names", "named_score_calibration", arguments.named_clicks),
    ):
        is_named = kind == "names"
        if arguments.only not in (None, kind) or is_named and not predictor.understands_text:
            continue
        things = objects_of(arguments.data_root, arguments.cases, arguments.objects, seed=0)
        answers = collect(predictor, things, clicks, is_named)
        content.get("model", content)[field] = list(calibrate(answers))
        print(f"{path}: {field} of {len(answers.ious)} answers on {len(set(answers.objects))} objects")
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
