"""The stateless sampler: a training sample is a pure function of (seed, step, index)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..preprocessing import PreprocessingConfig
from .crops import (
    CropGeometry,
    TrainingVolume,
    crop_image,
    crop_labels,
    random_rotation,
    smooth_field,
)
from .pool import TrainingPool
from .synthesis import paint, shape_labels, split_background
from .transforms import acquire, remap


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are drawn."""

    crop_size: int = 64
    """Side of a crop in voxels; the model's tile size."""
    objects_per_crop: int = 1
    """Objects prompted for in each crop."""
    synthetic_share: float = 0.2
    """Share of samples that are painted label maps drawn from noise and shapes."""
    painted_share: float = 0.08
    """Share of samples with a real image whose image is replaced by a painting of its labels."""
    merge_share: float = 0.15
    """Probability that an object is the union of several labels."""
    min_object_voxels: int = 24
    """Smallest object, in crop voxels."""
    smallest_ratio: float = 0.12
    """Smallest side of an object relative to the crop's, where the volume's resolution allows it."""
    largest_ratio: float = 1.5
    """Largest side of an object relative to the crop's."""
    rotation_degrees: float = 30.0
    """Largest rotation."""
    augmentation: float = 1.0
    """Strength of intensity augmentation, 0 to 1."""


@dataclass(frozen=True)
class Sample:
    """A crop with the objects to prompt for.

    Attributes:
        image: (1, D, H, W) float32 preprocessed.
        targets: (P, D, H, W) bool.
        spacing_mm: (3,) float32.
        source: data set it came from.
    """

    image: Tensor
    targets: Tensor
    spacing_mm: Tensor
    source: str


def draw_geometry(volume: TrainingVolume, value: int, rng: np.random.Generator, config: SamplerConfig) -> CropGeometry:
    """Places a crop so that an object's voxel lies in its central half, at a spacing inference might choose."""
    size = config.crop_size
    finest = float(volume.spacing_mm.min())
    ratio = np.exp(rng.uniform(np.log(config.smallest_ratio), np.log(config.largest_ratio)))
    spacing = volume.extents_mm[value] / (size * ratio)
    spacing = float(np.clip(spacing, 0.85 * finest, max(finest, 1.3 * volume.extent_mm / size)))
    matrix = np.eye(3) * spacing * np.exp(rng.normal(0, 0.06, 3))
    if rng.random() < 0.5:
        matrix = random_rotation(rng, config.rotation_degrees) @ matrix
    if rng.random() < 0.3:
        matrix = matrix[:, rng.permutation(3)]
    matrix = matrix * np.where(rng.random(3) < 0.5, -1, 1)
    samples = volume.objects[value]
    voxel = samples[int(rng.integers(len(samples)))]
    within = rng.uniform(-size / 4, size / 4, 3)
    centre = voxel * volume.spacing_mm - matrix @ within
    warp = None
    if rng.random() < 0.3:
        field = smooth_field(rng, size, int(rng.integers(3, 6)), 3).permute(1, 2, 3, 0).numpy()
        warp = field * float(spacing * rng.uniform(0.5, 3.0))
    return CropGeometry(centre, matrix, size, warp)


def choose_targets(labels: np.ndarray, primary: int, rng: np.random.Generator, config: SamplerConfig) -> np.ndarray:
    """Objects of a crop: (P, D, H, W) bool; the first holds the primary label where it is large enough."""
    values, counts = np.unique(labels, return_counts=True)
    usable = [int(v) for v, c in zip(values, counts, strict=True) if 0 < v < 1000 and c >= config.min_object_voxels]
    if not usable:
        return np.zeros((0, *labels.shape), dtype=bool)
    chosen, used = [], []
    for number in range(config.objects_per_crop):
        fresh = [v for v in usable if v not in used] or usable
        value = primary if number == 0 and primary in usable else fresh[int(rng.integers(len(fresh)))]
        used.append(value)
        members = [value]
        if len(usable) > 1 and rng.random() < config.merge_share:
            extra = rng.permutation([v for v in usable if v != value])
            members += list(extra[: int(rng.integers(1, min(len(usable), 6)))])
        chosen.append(np.isin(labels, members))
    return np.stack(chosen)


def draw_sample(
    pool: TrainingPool, seed: int, step: int, index: int, config: SamplerConfig, preprocessing: PreprocessingConfig
) -> Sample:
    """Draws sample ``index`` of step ``step``; the same arguments give the same sample.

    Returns:
        A crop with ``objects_per_crop`` objects, each of at least ``min_object_voxels``.
    """
    rng = np.random.default_rng((seed, step, index))
    while True:
        if rng.random() < config.synthetic_share:
            sample = _draw_synthetic(rng, config, preprocessing)
        else:
            sample = _draw_real(pool.draw(rng), rng, config, preprocessing)
        if sample is not None:
            return sample


def _draw_synthetic(
    rng: np.random.Generator, config: SamplerConfig, preprocessing: PreprocessingConfig
) -> Sample | None:
    labels = shape_labels(rng, config.crop_size)
    values = np.unique(labels)
    values = values[values > 0]
    # Shapes on top of the blobs are rarer and harder: prefer them.
    special = values[values >= 20]
    preferred = special if len(special) and rng.random() < 0.75 else values
    if not len(preferred):
        return None
    targets = choose_targets(labels, int(rng.choice(preferred)), rng, config)
    if not len(targets):
        return None
    image = remap(acquire(paint(labels, rng), rng, config.augmentation), rng, preprocessing, config.augmentation)
    spacing = float(np.exp(rng.uniform(np.log(0.4), np.log(4.0))))
    return Sample(image[None], torch.from_numpy(targets), torch.full((3,), spacing), "synthetic")


def _draw_real(
    volume: TrainingVolume, rng: np.random.Generator, config: SamplerConfig, preprocessing: PreprocessingConfig
) -> Sample | None:
    if not volume.objects:
        return None
    values = list(volume.objects)
    primary = values[int(rng.integers(len(values)))]
    geometry = draw_geometry(volume, primary, rng, config)
    positions = geometry.positions_mm()
    labels = crop_labels(volume, positions)
    targets = choose_targets(labels, primary, rng, config)
    if not len(targets):
        return None
    spacing = np.linalg.norm(geometry.matrix_mm, axis=0)
    if not volume.levels or rng.random() < config.painted_share:
        image = acquire(paint(split_background(labels, rng), rng), rng, config.augmentation)
        source = f"{volume.dataset} (painted)"
    else:
        image = crop_image(volume, positions, float(spacing.mean()))
        image = acquire(image, rng, 0.5 * config.augmentation)
        source = volume.dataset
    image = remap(image, rng, preprocessing, config.augmentation)
    return Sample(image[None], torch.from_numpy(targets), torch.from_numpy(spacing).float(), source)


class SampleStream(Dataset[dict[str, Tensor]]):
    """Batches by step number, for a DataLoader whose sampler counts steps.

    Args:
        pool: volumes.
        seed: of the run.
        crops_at: step -> (side of a crop, samples in a batch).
        config: how samples are drawn; its ``crop_size`` gives way to ``crops_at``.
        preprocessing: the model's.
        rank: of this process.
        world_size: processes.
    """

    def __init__(
        self,
        pool: TrainingPool,
        seed: int,
        crops_at: Callable[[int], tuple[int, int]],
        config: SamplerConfig,
        preprocessing: PreprocessingConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pool, self.seed, self.crops_at = pool, seed, crops_at
        self.config, self.preprocessing = config, preprocessing
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Batch of step ``step``: image (B, 1, D, H, W), targets (B, P, D, H, W), spacing_mm (B, 3)."""
        crop_size, batch_size = self.crops_at(step)
        config = dataclasses.replace(self.config, crop_size=crop_size)
        first = self.rank * batch_size
        samples = [
            draw_sample(self.pool, self.seed, step, first + i, config, self.preprocessing) for i in range(batch_size)
        ]
        return {
            "image": torch.stack([s.image for s in samples]),
            "targets": torch.stack([s.targets for s in samples]),
            "spacing_mm": torch.stack([s.spacing_mm for s in samples]),
        }
