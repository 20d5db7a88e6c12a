"""Every labelled structure of the demo volume, click by click: anatomy that the shipped weights have never seen.

    python benchmarks/demo_structures.py --model promptseg-tiny

The labels are another model's, so the overlap is agreement with it, not accuracy. Clicks lie at the deepest point of
the largest error, as in `promptseg evaluate`. The volume is never trained on, and nothing is chosen by this table.
"""

from __future__ import annotations

import argparse

import numpy as np

from promptseg import Predictor, demo
from promptseg.evaluation.click_policy import next_click
from promptseg.io import read_volume

MIN_VOXELS = 300


def click_through(predictor: Predictor, truth: np.ndarray, count: int) -> list[float]:
    """Overlap after each of so many clicks."""
    spacing_mm = tuple(float(s) for s in predictor.volume.spacing_mm)
    mask, points, labels, overlaps = np.zeros_like(truth), [], [], []
    for _ in range(count):
        click = next_click(truth, mask, spacing_mm)
        if click is None:
            overlaps.append(1.0)
            continue
        points.append(click.voxel)
        labels.append(click.label)
        mask = predictor.predict(points=points, labels=labels).mask > 0
        overlaps.append(demo.agreement(mask, truth))
    return overlaps


def main() -> None:
    """Clicks, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="promptseg-tiny")
    parser.add_argument("--clicks", type=int, default=5)
    arguments = parser.parse_args()
    predictor = Predictor.from_pretrained(arguments.model).set_image(demo.IMAGE)
    labels = read_volume(demo.LABELS).array
    rows = []
    print("| value | ml | " + " | ".join(f"{n + 1}" for n in range(arguments.clicks)) + " |")
    print("|---" * (arguments.clicks + 2) + "|")
    for value in np.unique(labels[labels > 0]):
        truth = labels == value
        if truth.sum() < MIN_VOXELS:
            continue
        rows.append(click_through(predictor, truth, arguments.clicks))
        millilitres = float(truth.sum() * np.prod(predictor.volume.spacing_mm)) / 1000
        print(f"| {value} | {millilitres:.0f} | " + " | ".join(f"{v:.2f}" for v in rows[-1]) + " |", flush=True)
    print(f"| mean of {len(rows)} | | " + " | ".join(f"{v:.3f}" for v in np.mean(rows, axis=0)) + " |")


if __name__ == "__main__":
    main()
