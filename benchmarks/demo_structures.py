"""Every labelled structure of the demo volume, click by click: anatomy that the shipped weights have never seen.

    python benchmarks/demo_structures.py

The labels are another model's, so the overlap is agreement with it, not accuracy. Clicks lie at the deepest point of
the largest error, as in `promptseg evaluate`, and the classical baselines answer the same way, with the parameters they
have there. The volume is never trained on, and nothing that ships is chosen by this table.
"""

from __future__ import annotations

import argparse

import numpy as np

from promptseg import demo
from promptseg.data.reading import read_grid
from promptseg.evaluation.click_policy import next_click
from promptseg.evaluation.prompts import ObjectPrompts
from promptseg.evaluation.registry import parse_spec
from promptseg.evaluation.segmenters import InteractiveSegmenter, SegmenterImage

MODELS = ("promptseg-tiny", "random-walker", "region-growing")
MIN_VOXELS = 300
SHOWN_CLICKS = (1, 3, 5, 10)


def click_through(
    segmenter: InteractiveSegmenter, truth: np.ndarray, spacing_mm: tuple[float, ...], count: int
) -> list[float]:
    """Overlap after each of so many clicks."""
    segmenter.start_object()
    mask, prompts, overlaps = np.zeros_like(truth), ObjectPrompts(), []
    for _ in range(count):
        click = next_click(truth, mask, spacing_mm)
        if click is not None:
            prompts = prompts.with_point(click.voxel, click.label)
            mask = segmenter.predict(prompts).mask > 0
        overlaps.append(demo.agreement(mask, truth))
    return overlaps


def main() -> None:
    """Clicks, and prints one table of the means, and one of each structure for the first model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help=f"repeatable; without any: {', '.join(MODELS)}")
    parser.add_argument("--clicks", type=int, default=10)
    arguments = parser.parse_args()
    image, labels = read_grid(demo.IMAGE), read_grid(demo.LABELS).array
    given = SegmenterImage(image.array, image.affine, "CT")
    spacing_mm = tuple(float(s) for s in given.spacing_mm)
    values = [v for v in np.unique(labels[labels > 0]) if (labels == v).sum() >= MIN_VOXELS]
    shown = [n for n in SHOWN_CLICKS if n <= arguments.clicks]
    head = " | ".join(f"{n} click{'s' * (n > 1)}" for n in shown)
    print(f"| mean of {len(values)} structures | {head} |\n|---{'|---:' * len(shown)}|")
    found = []
    for name in arguments.model or MODELS:
        segmenter = parse_spec(name).build()
        segmenter.set_image(given)
        found.append([click_through(segmenter, labels == v, spacing_mm, arguments.clicks) for v in values])
        means = np.mean(found[-1], axis=0)
        print(f"| {name} | " + " | ".join(f"{means[n - 1]:.3f}" for n in shown) + " |", flush=True)
    print(f"\n| value | ml | {head} |\n|---|---:{'|---:' * len(shown)}|")
    for value, overlaps in zip(values, found[0], strict=True):
        millilitres = float((labels == value).sum() * np.prod(spacing_mm)) / 1000
        print(f"| {value} | {millilitres:.0f} | " + " | ".join(f"{overlaps[n - 1]:.2f}" for n in shown) + " |")


if __name__ == "__main__":
    main()
