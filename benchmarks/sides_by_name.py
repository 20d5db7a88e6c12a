"""Left or right? Asks for each of a pair by name, and counts how often the answer lies on the other side.

    python benchmarks/sides_by_name.py --data-root DATA --model promptseg-tiny

No validation image of the data at hand has sides. Their label maps have: each is painted with random intensities, as
the pretraining paints those of its own fold, and each structure of a pair is asked for by its name on the whole volume.
A painted image has no texture of tissue and no gray value to go by, only shapes and where they lie.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from promptseg import Predictor
from promptseg.data.crops import TrainingVolume
from promptseg.data.folder_pool import load_pool
from promptseg.data.randomness import Randomness
from promptseg.data.structures import Structure
from promptseg.data.synthesis import paint, split_background
from promptseg.structures import understand
from promptseg.text.laterality import LEFT, RIGHT

SPACING_MM = 2.0
"""Label maps are thinned to about this."""
MIN_VOXELS = 8


def paint_volume(volume: TrainingVolume, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A painted image of a label map: intensities and labels (I, J, K), and the affine; axes as NIfTI's."""
    assert volume.labels is not None
    labels = np.asarray(volume.labels)
    steps = np.maximum(1, np.floor(SPACING_MM / volume.spacing_mm)).astype(int)
    labels = np.ascontiguousarray(labels[tuple(slice(None, None, step) for step in steps)])
    side = max(labels.shape) + max(labels.shape) % 2
    cube = torch.zeros((1, side, side, side), dtype=torch.long)
    own = tuple(slice(0, n) for n in labels.shape)
    values, numbers = np.unique(labels, return_inverse=True)
    assert values[0] == 0
    cube[0][own] = torch.from_numpy(numbers.reshape(labels.shape))
    randomness = Randomness((seed,))
    image = paint(split_background(cube, randomness), randomness)[0][own].numpy()
    return image, labels, np.diag([*(steps * volume.spacing_mm), 1.0])


def pairs(structures: tuple[Structure, ...], labels: np.ndarray) -> Iterator[tuple[Structure, Structure]]:
    """Structures that lie on one side, each with that of the other side, where the labels show both."""
    sides = {(s.term_id, s.level, s.laterality): s for s in structures if s.values}
    for (term, level, side), structure in sides.items():
        other = sides.get((term, level, {LEFT: RIGHT, RIGHT: LEFT}.get(side, -1)))
        shown = other and min(int(np.isin(labels, s.values).sum()) for s in (structure, other)) >= MIN_VOXELS
        if other and shown:
            yield structure, other


def judge(mask: np.ndarray, own: np.ndarray, other: np.ndarray) -> tuple[str, float]:
    """What an answer is, ``own side``, ``other side`` or ``neither``, and its Dice."""
    overlaps = [int((mask & truth).sum()) for truth in (own, other)]
    dice = 2 * overlaps[0] / max(1, int(mask.sum()) + int(own.sum()))
    shares = [overlap / int(truth.sum()) for overlap, truth in zip(overlaps, (own, other), strict=True)]
    if max(overlaps) == 0:
        return "neither", 0.0
    return "own side" if shares[0] >= shares[1] else "other side", dice


def main() -> None:
    """Paints, asks, counts, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--catalogs", default="configs/catalogs")
    parser.add_argument("--datasets", nargs="*", default=["synthseg_label_maps", "head_neck_organs_at_risk"])
    parser.add_argument("--fold", default="validation")
    parser.add_argument("--model", default="promptseg-tiny")
    parser.add_argument("--paintings", type=int, default=2, help="of each label map")
    parser.add_argument("--json", type=Path, help="also write the counts here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)

    predictor = Predictor.from_pretrained(arguments.model)
    config = predictor.model.config
    weights = dict.fromkeys(arguments.datasets, 1.0)
    pool = load_pool(
        arguments.data_root, weights, config.preprocessing, arguments.fold, skip_empty=True, catalogs=arguments.catalogs
    )
    counts: dict[str, Counter[str]] = {}
    scores: dict[str, list[float]] = {}
    for dataset, volumes in pool.groups.items():
        for number, volume in enumerate(volumes):
            for painting in range(arguments.paintings):
                image, labels, affine = paint_volume(volume, 1000 * number + painting)
                predictor.set_image(image, affine)
                for structure, other in pairs(volume.structures, labels):
                    if not understand(config, structure.name).is_trained:
                        continue
                    mask = predictor.predict(text=structure.name).mask > 0
                    answer, dice = judge(mask, np.isin(labels, structure.values), np.isin(labels, other.values))
                    counts.setdefault(dataset, Counter())[answer] += 1
                    scores.setdefault(dataset, []).append(dice)

    print(f"{arguments.model}, fold {arguments.fold}, {arguments.paintings} paintings of each label map\n")
    print("| data set | asked | own side | other side | neither | confused, of those found | Dice |")
    print("|---|---|---|---|---|---|---|")
    for dataset, found in counts.items():
        right, wrong = found["own side"], found["other side"]
        share = f"{wrong / (right + wrong):.2f}" if right + wrong else "-"
        print(
            f"| {dataset} | {found.total()} | {right} | {wrong} | {found['neither']} | {share} "
            f"| {np.mean(scores[dataset]):.3f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({k: dict(v) for k, v in counts.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
