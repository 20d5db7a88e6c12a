"""A head of ellipsoids, in any pose: label maps to make an atlas of, and images to register it to."""

from __future__ import annotations

import numpy as np

from promptseg.data.crops import TISSUE, TrainingVolume, index_objects
from promptseg.data.structures import structures_of

PARTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "left cerebral white matter": ((-28, -8, 22), (26, 56, 30)),
    "right cerebral white matter": ((28, -8, 22), (26, 56, 30)),
    "left cerebellar cortex": ((-24, -46, -34), (20, 20, 16)),
    "right cerebellar cortex": ((24, -46, -34), (20, 20, 16)),
    "brainstem": ((0, -18, -34), (10, 10, 22)),
    "left lateral ventricle": ((-14, -6, 24), (6, 30, 8)),
    "right lateral ventricle": ((14, -6, 24), (6, 30, 8)),
    "left thalamus": ((-12, -12, 6), (9, 13, 9)),
    "right thalamus": ((12, -12, 6), (9, 13, 9)),
    "left putamen": ((-26, 8, 4), (7, 16, 10)),
    "right putamen": ((26, 8, 4), (7, 16, 10)),
    "left hippocampus": ((-26, -14, -14), (8, 20, 7)),
    "right hippocampus": ((26, -14, -14), (8, 20, 7)),
}
"""Name -> centre and half axes in mm; later ones lie over earlier ones."""
NAMES = dict(enumerate(PARTS, start=1))
HEAD = ((0, -8, 0), (74, 92, 84))
SHAPE, SPACING_MM = (50, 58, 54), 4.0
CENTRE_MM = SPACING_MM * (np.array(SHAPE) - 1) / 2


def label_map(matrix: np.ndarray | None = None, offset_mm: np.ndarray | None = None) -> np.ndarray:
    """Labels (I, J, K) of the head mapped to ``matrix @ head_mm + offset_mm``; by default upright in the middle."""
    axes = [SPACING_MM * np.arange(n) for n in SHAPE]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    inverse = np.linalg.inv(np.eye(3) if matrix is None else matrix)
    there = (places - (CENTRE_MM if offset_mm is None else offset_mm)) @ inverse.T
    labels = np.zeros(SHAPE, dtype=np.int32)
    labels[_inside(there, HEAD)] = TISSUE
    for value, name in NAMES.items():
        labels[_inside(there, PARTS[name])] = value
    return labels


def _inside(places: np.ndarray, ellipsoid: tuple) -> np.ndarray:
    centre, half_axes = ellipsoid
    return (((places - np.array(centre)) / np.array(half_axes)) ** 2).sum(axis=-1) < 1


def intensities(labels: np.ndarray, seed: int) -> np.ndarray:
    """A mean of its own for what looks alike on both sides, and noise: (I, J, K) float32."""
    rng = np.random.default_rng(seed)
    tissues = sorted({name.removeprefix("left ").removeprefix("right ") for name in PARTS})
    means = dict(zip(["air", "head", *tissues], rng.permutation(len(tissues) + 2), strict=True))
    image = np.full(labels.shape, float(means["air"]))
    image[labels == TISSUE] = means["head"]
    for value, name in NAMES.items():
        image[labels == value] = means[name.removeprefix("left ").removeprefix("right ")]
    return (image + rng.normal(0, 0.3, image.shape)).astype(np.float32)


def training_volume(seed: int) -> TrainingVolume:
    """A label map in a pose of its own."""
    labels = label_map(*pose(seed))
    spacing_mm = np.full(3, SPACING_MM)
    objects, boxes = index_objects(labels * (labels < TISSUE), spacing_mm, np.random.default_rng(seed))
    return TrainingVolume(
        case=f"head{seed}", dataset="heads", modality="none", levels=(), labels=labels, spacing_mm=spacing_mm,
        objects=objects, boxes_mm=boxes, names=NAMES, structures=structures_of(NAMES),
    )  # fmt: skip


def pose(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A small turn, a size and an offset: matrix (3, 3) and offset in mm (3,)."""
    rng = np.random.default_rng(seed)
    pitch, roll = rng.uniform(-0.2, 0.2), rng.uniform(-0.08, 0.08)
    turn = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    lean = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    return turn @ lean * rng.uniform(0.94, 1.06), CENTRE_MM + rng.uniform(-10, 10, 3)
