"""The training pool in memory: cases of described data sets, ready to crop from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..preprocessing import PreprocessingConfig
from .balance import BalancedObjects
from .crops import TrainingVolume, build_pyramid, index_objects

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPool:
    """Volumes grouped by data set, with the weight each group is drawn with.

    Attributes:
        groups: data set (and modality) -> its volumes.
        weights: data set (and modality) -> sampling weight; sums to 1.
    """

    groups: Mapping[str, Sequence[TrainingVolume]]
    weights: dict[str, float]

    def draw(self, rng: np.random.Generator, temperature: float = 0.0) -> tuple[TrainingVolume, int | None]:
        """A volume and one of its labels, or None for a volume without labels.

        Args:
            rng: source of randomness.
            temperature: 0 for a group by its weight, then a case evenly, then a label evenly; 1 or more for
                :class:`~promptseg.data.balance.BalancedObjects`.
        """
        if temperature:
            return self._balanced(temperature).draw(rng)
        names = list(self.groups)
        group = self.groups[names[int(rng.choice(len(names), p=[self.weights[n] for n in names]))]]
        volume = group[int(rng.integers(len(group)))]
        values = list(volume.objects)
        return volume, values[int(rng.integers(len(values)))] if values else None

    def _balanced(self, temperature: float) -> BalancedObjects:
        """The table for a temperature, made once."""
        tables = self.__dict__.setdefault("_tables", {})
        if temperature not in tables:
            tables[temperature] = BalancedObjects.of(self.groups, self.weights, temperature)
        return tables[temperature]


def load_volume(
    root: Path, case: dict[str, Any], dataset: dict[str, Any], config: PreprocessingConfig
) -> TrainingVolume:
    """Reads one case of a ``dataset.json``: canonical, preprocessed, its objects indexed."""
    import nibabel

    images = {
        kind: nibabel.as_closest_canonical(nibabel.load(root / case[kind]))
        for kind in ("image", "label")
        if kind in case
    }
    reference = next(iter(images.values()))
    spacing = np.linalg.norm(reference.affine[:3, :3], axis=0)
    levels = ()
    if "image" in images:
        levels = build_pyramid(np.nan_to_num(np.asarray(images["image"].dataobj)), spacing, config)
    labels = None
    objects, extents = {}, {}
    if "label" in images:
        labels = np.asarray(images["label"].dataobj)
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.int16)
        if not levels:
            labels, spacing = shrink_labels(labels, spacing)
        objects, extents = index_objects(labels, spacing, np.random.default_rng(0))
    return TrainingVolume(
        case=case["case"],
        dataset=dataset["name"],
        modality=case.get("modality", dataset["modality"]),
        levels=levels,
        labels=labels,
        spacing_mm=spacing,
        objects=objects,
        extents_mm=extents,
        names={int(k): v for k, v in dataset["labels"].items()},
    )


def shrink_labels(labels: np.ndarray, spacing: np.ndarray, max_voxels: float = 1.2e7) -> tuple[np.ndarray, np.ndarray]:
    """Crops a label map to its labels (with a margin) and halves in-plane resolution while it is very large."""
    filled = np.nonzero(labels)
    low = [max(0, int(f.min()) - 16) for f in filled]
    high = [int(f.max()) + 17 for f in filled]
    labels = labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    spacing = np.array(spacing, dtype=np.float64)
    while labels.size > max_voxels:
        step = np.where(spacing <= 1.5 * spacing.min(), 2, 1)
        labels = labels[:: step[0], :: step[1], :: step[2]]
        spacing = spacing * step
    return np.ascontiguousarray(labels), spacing


def load_pool(
    root: str | Path,
    weights: dict[str, float],
    config: PreprocessingConfig,
    fold: str = "train",
    max_cases: int | None = None,
    skip_empty: bool = False,
) -> TrainingPool:
    """Loads one fold of the data sets that have a weight.

    Args:
        root: folder of data sets, each with a ``dataset.json``.
        weights: group -> weight; a group is ``name`` or ``name:modality``.
        config: preprocessing.
        fold: which cases; ``validation`` and ``test`` are never trained on.
        max_cases: at most so many cases of a group (for tests and dry runs).
        skip_empty: leave out groups without cases in the fold, and volumes without labels, as validation does.

    Raises:
        ValueError: for a group without cases, unless those are skipped; if nothing is left; for a data set that is not
            there.
    """
    root = Path(root)
    groups: dict[str, list[TrainingVolume]] = {}
    for group in weights:
        name, _, modality = group.partition(":")
        description = root / name / "dataset.json"
        if not description.is_file():
            raise ValueError(f"data set {name!r}: no {description}; set data_root, or take it out of data_weights")
        dataset = json.loads(description.read_text(encoding="utf-8"))
        cases = [c for c in dataset["cases"] if c["fold"] == fold and (not modality or c.get("modality") == modality)][
            :max_cases
        ]
        if skip_empty:
            cases = [c for c in cases if "label" in c]
            if not cases:
                continue
        if not cases:
            raise ValueError(f"data set group {group!r} has no case in fold {fold!r} under {root}")
        groups[group] = [load_volume(root, case, dataset, config) for case in cases]
        logger.info("%s: %d cases", group, len(cases))
    if not groups:
        raise ValueError(f"no case in fold {fold!r} under {root}; name data sets in data_weights")
    total = sum(weights[g] for g in groups)
    return TrainingPool(groups, {g: weights[g] / total for g in groups})
