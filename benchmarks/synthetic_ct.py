"""A CT-sized volume without anyone's data: a body of ellipsoids with noise, made slice by slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPE = (512, 512, 300)
SPACING_MM = (0.8, 0.8, 1.0)


@dataclass(frozen=True)
class Ellipsoid:
    """An organ: centre and half axes in voxels, intensity in Hounsfield units."""

    centre: tuple[float, float, float]
    half_axes: tuple[float, float, float]
    intensity: float


BODY = Ellipsoid((256, 256, 150), (210, 160, 400), 40)
ORGANS = (
    Ellipsoid((170, 230, 160), (85, 75, 70), 110),
    Ellipsoid((350, 250, 180), (40, 35, 45), 150),
    Ellipsoid((256, 330, 90), (22, 24, 30), 220),
)


def make_ct(seed: int = 0) -> tuple[np.ndarray, tuple[Ellipsoid, ...]]:
    """The volume and the organs to click on.

    Returns:
        (512, 512, 300) int16 in Hounsfield units, and the organs.
    """
    rng = np.random.default_rng(seed)
    volume = np.empty(SHAPE, dtype=np.int16)
    i, j = np.ogrid[: SHAPE[0], : SHAPE[1]]
    for k in range(SHAPE[2]):
        plane = np.full(SHAPE[:2], -1000.0, dtype=np.float32)
        for part in (BODY, *ORGANS):
            (ci, cj, ck), (ai, aj, ak) = part.centre, part.half_axes
            plane[((i - ci) / ai) ** 2 + ((j - cj) / aj) ** 2 + ((k - ck) / ak) ** 2 < 1] = part.intensity
        volume[:, :, k] = plane + rng.normal(0, 25, plane.shape)
    return volume, ORGANS


def click_sequence(organ: Ellipsoid, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clicks as an annotator makes them: the centre, then corrections near the border, in and out.

    Returns:
        Points (count, 3) float and labels (count,) int, 1 inside the organ and 0 outside.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    labels = np.where(np.arange(count) % 3 == 2, 0, 1)
    radius = np.where(labels == 1, rng.uniform(0.6, 0.9, count), rng.uniform(1.15, 1.3, count))
    radius[0] = 0
    points = np.array(organ.centre) + direction * radius[:, None] * np.array(organ.half_axes)
    return np.clip(points.round(), 0, np.array(SHAPE) - 1), labels
