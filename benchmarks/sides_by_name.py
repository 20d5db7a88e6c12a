"""Left or right? Asks for each of a pair by name, and counts how often the answer lies on the other side.

    python benchmarks/sides_by_name.py --data-root DATA --model promptseg-tiny

No validation image of the data at hand has sides. Their label maps have: each is painted with random intensities, as
the pretraining paints those of its own fold, and each structure of a pair is asked for by its name on the whole volume.
A painted image has no texture of tissue and no gray value to go by, only shapes and where they lie.

Where a label map has an image, that is asked and nothing is painted: ``--datasets mricron_atlases --fold train``, the
one real head with sides, which the weights were trained on and which no atlas among them was made of.

A second table says on which side the word head sees each structure, whether it is drawn or not: which of the two lies
nearer to the best cell of each zoom level; ``far`` from 20 mm on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
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
from promptseg.models.word_head import WORD_STRIDE
from promptseg.search import hint_on_tile
from promptseg.structures import text_tokens, understand
from promptseg.text.laterality import LEFT, RIGHT

FAR_MM = 20.0
"""Distance from both of a pair beyond which a place is on neither's side."""
SPACING_MM = 2.0
"""Label maps are thinned to about this."""
MIN_VOXELS = 8
Asked = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Intensities and labels (I, J, K), and the affine."""


def paint_volume(volume: TrainingVolume, seed: int) -> Asked:
    """A painted image of a label map; axes as NIfTI's."""
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


def images_of(volume: TrainingVolume, number: int, paintings: int) -> Iterator[Asked]:
    """A volume's own image, or as many paintings of its labels."""
    if volume.levels:
        assert volume.labels is not None
        affine = np.diag([*volume.spacing_mm, 1.0])
        yield volume.levels[0].image.astype(np.float32), np.asarray(volume.labels), affine
        return
    for painting in range(paintings):
        yield paint_volume(volume, 1000 * number + painting)


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


def nearer(place_mm: np.ndarray, own: np.ndarray, other: np.ndarray, spacing_mm: np.ndarray) -> str:
    """Which of two structures (I, J, K) bool lies nearer to a place."""
    distances = [np.linalg.norm(np.argwhere(mask) * spacing_mm - place_mm, axis=1).min() for mask in (own, other)]
    if min(distances) > FAR_MM:
        return "far"
    return "own side" if distances[0] <= distances[1] else "other side"


def best_places(predictor: Predictor, names: list[str], level: int) -> list[np.ndarray]:
    """Where the word head sees each structure best on the tiles of a zoom level: canonical voxels (3,)."""
    engine, config = predictor._require_engine(), predictor.model.config
    tokens = text_tokens(predictor.model, [understand(config, name) for name in names])
    best = [(-1.0, np.zeros(3))] * len(names)
    for tile in engine.lattice.all_tiles(level):
        hint = hint_on_tile(engine, tile, tokens)
        presence, cells = hint.presence_logits[0].float().sigmoid(), hint.mask_logits[0].float().sigmoid()
        for number, (there, shares) in enumerate(zip(presence, cells, strict=True)):
            sight = float(there * shares.max())
            if sight > best[number][0]:
                cell = np.array(np.unravel_index(int(shares.argmax()), shares.shape))
                middle = engine.lattice.tile_low(tile) + WORD_STRIDE * cell + (WORD_STRIDE - 1) / 2
                best[number] = (sight, engine.lattice.from_level(middle, level))
    return [place for _, place in best]


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
    seen: dict[tuple[str, float], Counter[str]] = {}
    for dataset, volumes in pool.groups.items():
        for number, volume in enumerate(volumes):
            for image, labels, affine in images_of(volume, number, arguments.paintings):
                predictor.set_image(image, affine)
                asked = [p for p in pairs(volume.structures, labels) if understand(config, p[0].name).is_trained]
                spacing_mm = np.diag(affine)[:3]
                for level in range(predictor._require_engine().lattice.num_levels):
                    key = dataset, 2.0 ** round(math.log2(predictor._require_engine().lattice.level_spacing_mm(level)))
                    places = best_places(predictor, [structure.name for structure, _ in asked], level)
                    for (structure, other), place in zip(asked, places, strict=True):
                        masks = [np.isin(labels, s.values) for s in (structure, other)]
                        side = nearer(place * spacing_mm, masks[0], masks[1], spacing_mm)
                        seen.setdefault(key, Counter())[side] += 1
                for structure, other in asked:
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
    print("\n| data set | voxels of about, mm | own side | other side | far |\n|---|---|---|---|---|")
    for (dataset, side_mm), found in sorted(seen.items()):
        print(f"| {dataset} | {side_mm:g} | {found['own side']} | {found['other side']} | {found['far']} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({k: dict(v) for k, v in counts.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
