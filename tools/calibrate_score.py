"""Fits the quality estimate of a checkpoint on training cases, and writes it into its ``config.json``.

    python tools/calibrate_score.py --model checkpoints/promptseg-tiny --data-root DATA --cases 12

A simulated user clicks on the objects of some training cases of each data set, as ``promptseg evaluate`` does, and the
true IoU after each click is compared with what the predictor knows of its answer. Validation cases are not touched.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from promptseg import Predictor
from promptseg.data import load_catalog
from promptseg.data.label_maps import read_labels
from promptseg.data.reading import read_grid
from promptseg.evaluation.click_policy import next_click
from promptseg.models.registry import CONFIG_NAME
from promptseg.quality import FEATURES, fit_calibration, quality_features
from promptseg.safe_loading import replacing
from promptseg.volume import Volume


def objects_of(root: Path, count: int, per_case: int, seed: int) -> Iterator[tuple[str, Volume, np.ndarray]]:
    """Data set, image and mask of some objects of ``count`` training cases of each data set."""
    rng = np.random.default_rng(seed)
    for path in sorted(root.glob("*/dataset.json")):
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
                    yield catalog.name, volume, mask


def measure(predictor: Predictor, volume: Volume, truth: np.ndarray, clicks: int) -> list[tuple[np.ndarray, float]]:
    """Features and true IoU after each click on an object."""
    predictor.set_image(volume)
    points: list[tuple[int, int, int]] = []
    labels: list[int] = []
    predicted = np.zeros(truth.shape, dtype=bool)
    rows = []
    for _ in range(clicks):
        click = next_click(truth, predicted, volume.spacing_mm.tolist())
        if click is None:
            break
        points.append(click.voxel)
        labels.append(click.label)
        result = predictor.predict(points=points, labels=labels)
        predicted = result.mask.astype(bool)
        iou = float((predicted & truth).sum() / (predicted | truth).sum())
        drawing = result.logits_lowres.state.drawing
        rows.append((quality_features(drawing.canvas, drawing.score, len(points)), iou))
    return rows


def main() -> None:
    """Measures, fits and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="checkpoint folder")
    parser.add_argument("--data-root", required=True, type=Path, help="folder of data sets with a dataset.json each")
    parser.add_argument("--cases", type=int, default=12, help="training cases of each data set")
    parser.add_argument("--objects", type=int, default=4, help="objects of each case")
    parser.add_argument("--clicks", type=int, default=6, help="clicks on each object")
    arguments = parser.parse_args()
    predictor = Predictor.from_pretrained(arguments.model)
    rows, owners = [], []
    for number, (dataset, volume, truth) in enumerate(
        objects_of(arguments.data_root, arguments.cases, arguments.objects, seed=0)
    ):
        measured = measure(predictor, volume, truth, arguments.clicks)
        rows += measured
        owners += [(number, dataset)] * len(measured)
    features, ious = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
    numbers = np.array([owner[0] for owner in owners])
    datasets = np.array([owner[1] for owner in owners])
    shares = {name: 1 / (datasets == name).sum() for name in set(datasets)}
    held_out = numbers % 4 == 0
    for name, fitted in (("three quarters", ~held_out), ("all", np.ones(len(ious), dtype=bool))):
        weights = np.array([shares[d] for d in datasets[fitted]])
        repeats = np.maximum(1, np.round(weights / weights.min())).astype(int)  # each data set counts the same
        coefficients = fit_calibration(np.repeat(features[fitted], repeats, axis=0), np.repeat(ious[fitted], repeats))
        if name == "three quarters":
            expected = 1 / (1 + np.exp(-features[held_out] @ np.array(coefficients)))
            raw = 1 / (1 + np.exp(-features[held_out, FEATURES.index("estimate")]))
            for what, scores in (("decoder's estimate", raw), ("calibrated", expected)):
                correlation = np.corrcoef(scores, ious[held_out])[0, 1]
                bias = (scores - ious[held_out]).mean()
                print(f"{what}: correlation {correlation:.2f}, bias {bias:+.3f}, on {held_out.sum()} answers held out")
    path = arguments.model / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    content.get("model", content)["score_calibration"] = list(coefficients)
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: score_calibration of {len(ious)} answers on {numbers.max() + 1} objects")


if __name__ == "__main__":
    main()
