"""Makes an atlas of label maps: aligns them by where their structures lie, and counts what is where."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from ..boxes import box_slices, filled_box
from ..models.atlas import Atlas, AtlasConfig
from ..registration import RARELY, SURROUNDINGS_MM
from .crops import TISSUE, TrainingVolume, crop_labels
from .structures import Structure

MIN_LANDMARKS = 8
"""Structures that all label maps have to share."""
NUM_ROUNDS = 6
"""Alignments to the mean, each with the mean of the one before."""
OWN_SPREAD_MM = 2.0
"""Deviation of a structure's middle that counts as none."""


def build_atlas(volumes: Sequence[TrainingVolume], name: str, spacing_mm: float = 4.0) -> Atlas:
    """Makes an atlas.

    Each label map is mapped to the mean by the affine map that brings the middles of its structures nearest to their
    means, where a structure counts the less the more its middle strays. The mean has the mean size and pose.

    Args:
        volumes: label maps, axes towards right, anterior and superior.
        name: of the atlas.
        spacing_mm: of its voxels.

    Raises:
        ValueError: for label maps that do not share enough structures.
    """
    structures = _shared(volumes, name)
    middles = np.array([[_middle_mm(volume, s) for s in structures] for volume in volumes])  # (volumes, landmarks, 3)
    means, weights = _aligned_mean(middles)
    maps = [_affine(means, own, weights) for own in middles]
    positions, weight_of = _grid_mm(volumes, maps, spacing_mm), 1 / (len(volumes) * 8)
    shape = positions.shape[:3]
    counts = np.zeros((len(structures) + 1, *shape))
    for volume, affine in zip(volumes, maps, strict=True):
        for offset in itertools.product((-0.25, 0.25), repeat=3):
            places = (positions + spacing_mm * np.array(offset)) @ affine[:3] + affine[3]
            values = crop_labels(volume, places)
            for number, structure in enumerate(structures):
                counts[number] += weight_of * np.isin(values, _values_of(volume, structure))
            counts[-1] += weight_of * ((values > 0) & ~np.isin(values, _all_values(volume, structures)))
    corner, counts = _cropped(counts, round(SURROUNDINGS_MM / spacing_mm) + 1)
    config = AtlasConfig(
        name=name,
        terms=tuple(s.name for s in structures),
        shape=counts.shape[1:],
        origin_mm=tuple(positions[tuple(corner)].tolist()),
        spacing_mm=spacing_mm,
        cases=len(volumes),
    )
    atlas = Atlas(config)
    atlas.shares.copy_(torch.from_numpy(np.rint(255 * counts)).flatten(1))
    return atlas


def _shared(volumes: Sequence[TrainingVolume], name: str) -> list[Structure]:
    """Structures of one label value that all label maps show: each side, and what has none."""
    shown = [
        {s.key: s for s in volume.structures if len(s.values) == 1 and s.values[0] in volume.objects}
        for volume in volumes
    ]
    first = shown[0] if shown else {}
    shared = [structure for key, structure in first.items() if all(key in other for other in shown[1:])]
    if len(shared) < MIN_LANDMARKS:
        raise ValueError(
            f"atlas {name!r}: its {len(volumes)} label maps share {len(shared)} named structures of one value, too few "
            f"to align them by; expected {MIN_LANDMARKS} or more"
        )
    return shared


def _values_of(volume: TrainingVolume, structure: Structure) -> list[int]:
    return [value for s in volume.structures if s.key == structure.key for value in s.values]


def _all_values(volume: TrainingVolume, structures: Sequence[Structure]) -> list[int]:
    return [value for structure in structures for value in _values_of(volume, structure)]


def _middle_mm(volume: TrainingVolume, structure: Structure) -> np.ndarray:
    (value,) = _values_of(volume, structure)
    return volume.objects[value].mean(axis=0) * volume.spacing_mm


def _affine(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(4, 3) map of points (N, 3), weighted least squares: ``source @ map[:3] + map[3]``."""
    joined = np.c_[source, np.ones(len(source))]
    return np.linalg.solve(joined.T @ (weights[:, None] * joined), joined.T @ (weights[:, None] * target))


def _aligned_mean(middles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean middles (landmarks, 3) once affine differences are gone, and the landmarks' weights."""
    means, weights = middles[0] - middles[0].mean(axis=0), np.ones(middles.shape[1])
    for _ in range(NUM_ROUNDS):
        aligned = []
        for own in middles:
            affine = _affine(own, means, weights)
            aligned.append(own @ affine[:3] + affine[3])
        means = np.mean(aligned, axis=0)
        strays = np.sqrt(((np.array(aligned) - means) ** 2).sum(axis=2).mean(axis=0))
        weights = 1 / (strays**2 + OWN_SPREAD_MM**2)
    means = means - np.average(means, axis=0, weights=weights)
    mean_map = np.mean([_affine(means, own, weights)[:3] for own in middles], axis=0)
    return means @ mean_map, weights


def _cropped(counts: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel (3,) and maps (K + 1, ...) of the box around what is often a structure, widened by a margin."""
    box = filled_box(counts[:-1].sum(axis=0) > RARELY)
    assert box is not None
    low = np.maximum(box[0] - margin, 0)
    return low, counts[(slice(None), *box_slices(low, box[1] + margin))]


def _grid_mm(volumes: Sequence[TrainingVolume], maps: Sequence[np.ndarray], spacing_mm: float) -> np.ndarray:
    """Positions (*shape, 3) of a grid around all structures and their surroundings."""
    ends = []
    for volume, affine in zip(volumes, maps, strict=True):
        voxels = np.concatenate([v for value, v in volume.objects.items() if value < TISSUE]).astype(float)
        there = (voxels * volume.spacing_mm - affine[3]) @ np.linalg.inv(affine[:3])
        ends.append((there.min(axis=0), there.max(axis=0)))
    low, high = (np.median(end, axis=0) for end in zip(*ends, strict=True))
    margin = SURROUNDINGS_MM + spacing_mm
    axes = [np.arange(a - margin, b + margin + spacing_mm, spacing_mm) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
