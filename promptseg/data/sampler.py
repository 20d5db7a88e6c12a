"""The stateless sampler: a training sample is a pure function of (seed, step, index)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..preprocessing import PreprocessingConfig
from .batch_synthesis import IMAGE_ONLY, PAINTED, REAL, SYNTHETIC, UNLABELLED, finish_batch
from .counted_labels import CountedLabels
from .crops import IGNORED, TISSUE, CropGeometry, TrainingVolume, crop_image, crop_labels, draw_geometry
from .pool import TrainingPool
from .randomness import Randomness
from .structures import Structure
from .synthesis import FIRST_BACKGROUND
from .text_targets import Words, choose_named_targets, draw_names

MAX_TRIES = 32
"""Crops without an object that is large enough after which another source is drawn: of some, none may have one."""


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are drawn.

    Raises:
        ValueError: for a number out of range; it is named.
    """

    crop_size: int = 64
    """Side of a crop in voxels; the model's tile size."""
    objects_per_crop: int = 1
    """Objects prompted for in each crop."""
    temperature: float = 0.0
    """Balance over modality, data set and label: 1 draws as many as there are, higher more evenly. 0: data sets are
    drawn by their weights as given, cases and labels evenly."""
    synthetic_share: float = 0.2
    """Share of samples that are painted label maps drawn from noise and shapes."""
    painted_share: float = 0.08
    """Share of samples with a real image whose image is replaced by a painting of its labels."""
    recombined_share: float = 0.25
    """Share of paintings of real labels into which objects of another case are set."""
    supervoxel_share: float = 0.03
    """Share of samples with a real image whose objects are supervoxels instead of labels. Images without labels always
    take supervoxels."""
    merge_share: float = 0.15
    """Probability that an object is the union of several labels."""
    min_object_voxels: int = 24
    """Smallest object, in crop voxels."""
    smallest_ratio: float = 0.12
    """Smallest side of an object relative to the crop's, where the volume's resolution allows it."""
    largest_ratio: float = 1.5
    """Largest side of an object relative to the crop's."""
    upright_share: float = 0.5
    """Share of crops whose axes point as the volume's do, but for a small turn and perhaps left and right swapped. Only
    these have objects that are asked for by name."""
    text_share: float = 0.5
    """Share of upright crops of labelled volumes whose objects are asked for by name, where they have one."""
    names_per_crop: int = 12
    """Names of each upright crop, shown in it or not, that the word head is asked for; 0 for none."""
    absent_share: float = 0.3
    """Probability that an object asked for by name, but the first of a crop, is one that the crop does not show."""
    level_share: float = 0.5
    """Share of crops at a spacing of the lattice of tiles that inference reads (finest spacing times a power of two);
    the rest lie anywhere between."""
    rotation_degrees: float = 30.0
    """Largest rotation."""
    augmentation: float = 1.0
    """Strength of intensity augmentation, 0 to 1."""

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self) if f.name.endswith("_share")):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a share from 0 to 1")
        if self.temperature != 0 and not self.temperature >= 1:
            raise ValueError(f"temperature={self.temperature}: expected 0 (by data_weights), or 1 or more")
        for name, smallest in (("objects_per_crop", 1), ("min_object_voxels", 1), ("names_per_crop", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)}: expected {smallest} or more")
        if not 0 < self.smallest_ratio <= self.largest_ratio < math.inf:
            raise ValueError(
                f"smallest_ratio={self.smallest_ratio} and largest_ratio={self.largest_ratio}: expected numbers above "
                "0, in this order"
            )
        if not 0 <= self.augmentation <= 1:
            raise ValueError(f"augmentation={self.augmentation}: expected a strength from 0 to 1")
        if not 0 <= self.rotation_degrees <= 180:
            raise ValueError(f"rotation_degrees={self.rotation_degrees}: expected 0 to 180")


@dataclass(frozen=True)
class Sample:
    """A crop with the objects to prompt for.

    Attributes:
        image: (1, D, H, W) float32 preprocessed.
        targets: (P, D, H, W) bool.
        spacing_mm: (3,) float32.
        source: data set it came from.
        is_known: (D, H, W) bool: voxels of which the labels say what they are.
    """

    image: Tensor
    targets: Tensor
    spacing_mm: Tensor
    source: str
    is_known: Tensor


@dataclass(frozen=True)
class RawSample:
    """A crop as it was read, before painting and augmentation.

    Attributes:
        image: (1, D, H, W) float32; zeros where it is still to be painted.
        labels: (D, H, W) uint8 numbered from 1, for painting.
        targets: (P, D, H, W) bool; nothing where they are still to be chosen.
        spacing_mm: (3,) float32.
        kind: see :mod:`promptseg.data.batch_synthesis`.
        source: data set it came from.
        words: names of the P objects; None where they have none.
        names: see :func:`~promptseg.data.text_targets.draw_names`; empty where the word head is not asked.
        is_known: (D, H, W) bool: voxels of which the labels say what they are; None for all.
    """

    image: Tensor
    labels: Tensor
    targets: Tensor
    spacing_mm: Tensor
    kind: int
    source: str
    words: Words | None = None
    names: dict[str, Tensor] = field(default_factory=dict)
    is_known: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What :func:`finish_batch` takes, for a batch of one without its first axis."""
        names = ("image", "labels", "targets", "spacing_mm")
        words = Words.none(len(self.targets)) if self.words is None else self.words
        return {
            **{n: getattr(self, n) for n in names},
            "kind": torch.tensor(self.kind),
            "is_known": torch.ones_like(self.labels, dtype=torch.bool) if self.is_known is None else self.is_known,
            **words.tensors(),
            **self.names,
        }


def choose_targets(labels: CountedLabels, primary: int, rng: np.random.Generator, config: SamplerConfig) -> np.ndarray:
    """Objects of a crop: (P, D, H, W) bool; the first holds the primary label where it is large enough."""
    is_usable = (labels.values > 0) & (labels.values < TISSUE) & (labels.voxels >= config.min_object_voxels)
    usable = labels.values[is_usable].tolist()
    if not usable:
        return np.zeros((0, *labels.numbers.shape), dtype=bool)
    chosen, used = [], []
    for number in range(config.objects_per_crop):
        fresh = [v for v in usable if v not in used] or usable
        value = primary if number == 0 and primary in usable else fresh[int(rng.integers(len(fresh)))]
        used.append(value)
        members = [value]
        if len(usable) > 1 and rng.random() < config.merge_share:
            extra = rng.permutation([v for v in usable if v != value])
            members += list(extra[: int(rng.integers(1, min(len(usable), 6)))])
        chosen.append(labels.mask(members))
    return np.stack(chosen)


def draw_raw(
    pool: TrainingPool, seed: int, step: int, index: int, config: SamplerConfig, images_only: bool = False
) -> RawSample:
    """Reads sample ``index`` of step ``step``; the same arguments give the same sample.

    Args:
        pool: volumes.
        seed: of the run.
        step: of the optimiser.
        index: within the step.
        config: how samples are drawn.
        images_only: a crop of any image, without objects.
    """
    randomness = Randomness((seed, step, index, 0))
    rng = randomness.host
    if not images_only and rng.random() < config.synthetic_share:
        return _blank(rng, config)
    while True:
        source = pool.draw_source(rng, config.temperature)
        for _ in range(MAX_TRIES):
            volume, value = pool.draw_from(source, rng, config.temperature)
            if images_only:
                sample = _draw_image(volume, randomness, config, IMAGE_ONLY)
            elif value is None or (volume.levels and rng.random() < config.supervoxel_share):
                sample = _draw_image(volume, randomness, config, UNLABELLED)
            else:
                sample = _draw_labelled(pool, volume, value, randomness, config)
            if sample is not None:
                return sample


def draw_sample(
    pool: TrainingPool, seed: int, step: int, index: int, config: SamplerConfig, preprocessing: PreprocessingConfig
) -> Sample:
    """Draws sample ``index`` of step ``step``, finished; the same arguments give the same sample.

    Returns:
        A crop with ``objects_per_crop`` objects, each of at least ``min_object_voxels`` where there are such.
    """
    raw = draw_raw(pool, seed, step, index, config)
    finished = finish_alone(raw, (seed, step, index), config, preprocessing)
    image, targets, spacing_mm, is_known = (finished[n][0] for n in ("image", "targets", "spacing_mm", "is_known"))
    return Sample(image, targets, spacing_mm, raw.source, is_known)


def finish_alone(
    raw: RawSample, key: tuple[int, int, int], config: SamplerConfig, preprocessing: PreprocessingConfig
) -> dict[str, Tensor]:
    """A raw sample, finished as a batch of one; ``key`` is (seed, step, index)."""
    batch = {k: v[None] for k, v in raw.tensors().items()}
    return finish_batch(batch, Randomness((*key, 1)), config, preprocessing)


def _blank(rng: np.random.Generator, config: SamplerConfig) -> RawSample:
    """A sample that is drawn from nothing later on."""
    grid = (config.crop_size,) * 3
    spacing = torch.full((3,), float(np.exp(rng.uniform(np.log(0.4), np.log(4.0)))))
    targets = torch.zeros(config.objects_per_crop, *grid, dtype=torch.bool)
    return RawSample(
        torch.zeros(1, *grid),
        torch.zeros(grid, dtype=torch.uint8),
        targets,
        spacing,
        SYNTHETIC,
        "synthetic",
        names=_no_names(rng, config),
    )


def _draw_image(volume: TrainingVolume, randomness: Randomness, config: SamplerConfig, kind: int) -> RawSample | None:
    if not volume.levels:
        return None
    geometry = draw_geometry(volume, None, randomness, config)
    spacing = np.linalg.norm(geometry.matrix_mm, axis=0)
    image = crop_image(volume, geometry.positions_mm(), float(spacing.mean()))
    grid = image.shape
    targets = torch.zeros(config.objects_per_crop, *grid, dtype=torch.bool)
    return RawSample(
        image[None],
        torch.zeros(grid, dtype=torch.uint8),
        targets,
        torch.from_numpy(spacing).float(),
        kind,
        f"{volume.dataset} (supervoxels)" if kind == UNLABELLED else volume.dataset,
        names=_no_names(randomness.host, config),
    )


def _draw_labelled(
    pool: TrainingPool, volume: TrainingVolume, value: int, randomness: Randomness, config: SamplerConfig
) -> RawSample | None:
    rng = randomness.host
    geometry = draw_geometry(volume, value, randomness, config)
    positions = geometry.positions_mm()
    values = crop_labels(volume, positions)
    is_painted = not volume.levels or rng.random() < config.painted_share
    structures = pool.askable(volume) if geometry.is_upright else ()
    elsewhere = pool.elsewhere(volume) if structures else ()
    strangers = pool.strangers(volume) if structures else ()
    if is_painted and rng.random() < config.recombined_share:
        values = _recombine(values, pool, randomness, config)
        structures = elsewhere = strangers = ()  # the guests' values and names are not the volume's
    labels, named = CountedLabels.of(values), None
    if structures and rng.random() < config.text_share:
        named = choose_named_targets(
            labels,
            value,
            structures,
            geometry.is_mirrored,
            rng,
            config.objects_per_crop,
            config.min_object_voxels,
            config.absent_share,
        )
    targets, words = named or (choose_targets(labels, value, rng, config), None)
    if not len(targets):
        return None
    spacing = np.linalg.norm(geometry.matrix_mm, axis=0)
    image = torch.zeros(values.shape) if is_painted else crop_image(volume, positions, float(spacing.mean()))
    return RawSample(
        image[None],
        number_labels(labels),
        torch.from_numpy(targets),
        torch.from_numpy(spacing).float(),
        PAINTED if is_painted else REAL,
        f"{volume.dataset} (painted)" if is_painted else volume.dataset,
        words,
        _draw_names(labels, structures, geometry.is_mirrored, rng, config, elsewhere, strangers),
        None if is_painted else torch.from_numpy(values < IGNORED),  # a painting shows where each object ends
    )


def _draw_names(
    labels: CountedLabels,
    structures: Sequence[Structure],
    is_mirrored: bool,
    rng: np.random.Generator,
    config: SamplerConfig,
    elsewhere: Sequence[tuple[Structure, tuple[int, ...]]] = (),
    strangers: Sequence[Structure] = (),
) -> dict[str, Tensor]:
    if not config.names_per_crop:
        return {}
    count, smallest = config.names_per_crop, config.min_object_voxels
    return draw_names(labels, structures, is_mirrored, rng, count, smallest, elsewhere, strangers)


def _no_names(rng: np.random.Generator, config: SamplerConfig) -> dict[str, Tensor]:
    return _draw_names(CountedLabels.of(np.zeros((config.crop_size,) * 3, dtype=np.uint8)), (), False, rng, config)


def _recombine(labels: np.ndarray, pool: TrainingPool, randomness: Randomness, config: SamplerConfig) -> np.ndarray:
    """Sets one to three objects of another case into a label map, so that strangers touch."""
    other, value = pool.draw(randomness.host, config.temperature)
    if value is None or other.labels is None:
        return labels
    guests: CropGeometry = draw_geometry(other, value, randomness, config)
    found = crop_labels(other, guests.positions_mm())
    values = CountedLabels.of(found).values
    values = values[(values > 0) & (values < TISSUE)]
    if not len(values):
        return labels
    taken = randomness.host.choice(values, size=min(len(values), int(randomness.host.integers(1, 4))), replace=False)
    joined, highest = labels.copy(), int(labels[labels < TISSUE].max(initial=0))
    for number, guest in enumerate(taken, start=1):
        joined[found == guest] = highest + number
    return joined


def number_labels(labels: CountedLabels) -> Tensor:
    """Label values as small numbers, 0 staying 0: (D, H, W) uint8 below :data:`FIRST_BACKGROUND`."""
    order = np.arange(len(labels.values)) + (0 if labels.values[0] == 0 else 1)
    small = np.where(order > 0, (order - 1) % (FIRST_BACKGROUND - 1) + 1, 0).astype(np.uint8)
    return torch.from_numpy(small[labels.numbers])
