"""Random crops of volumes at any spacing, rotation and deformation, read from a pyramid held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..preprocessing import OUTSIDE, IntensityMapping, PreprocessingConfig
from .fields import smooth_fields
from .randomness import Randomness, RandomSource

if TYPE_CHECKING:
    from .sampler import SamplerConfig
    from .structures import Structure

TISSUE = 2**16
"""Label values from here on are tissue to paint, never an object: what has no term in the catalog, or is ignored."""
IGNORED = TISSUE + 2**14
"""Label values from here on are voxels of which nobody says what they are: neither object nor background."""


@dataclass(frozen=True)
class PyramidLevel:
    """One resolution of a volume.

    Attributes:
        image: (I, J, K) float16 preprocessed intensities.
        spacing_mm: (3,).
        offset_mm: (3,) index-mm position of voxel 0's centre.
    """

    image: np.ndarray
    spacing_mm: np.ndarray
    offset_mm: np.ndarray


@dataclass(frozen=True)
class TrainingVolume:
    """A case in memory: canonical orientation, preprocessed, with coarser copies to crop from.

    Attributes:
        case: name.
        dataset: name of its data set.
        modality: as the data set states it.
        levels: finest first; empty for a label map without an image.
        labels: (I, J, K) label values, or None.
        spacing_mm: (3,) of the labels and the finest level.
        objects: label value -> (V, 3) sampled foreground voxels.
        boxes_mm: label value -> (2, 3) index-mm ends of the box of its voxels.
        names: label value -> name.
        structures: what can be asked for by name, or is certainly not there.
    """

    case: str
    dataset: str
    modality: str
    levels: tuple[PyramidLevel, ...]
    labels: np.ndarray | None
    spacing_mm: np.ndarray
    objects: dict[int, np.ndarray] = field(default_factory=dict)
    boxes_mm: dict[int, np.ndarray] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    structures: tuple[Structure, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.levels[0].image.shape if self.levels else self.labels.shape  # type: ignore[union-attr]

    @cached_property
    def extents_mm(self) -> dict[int, float]:
        """Label value -> largest side of the label's box."""
        return {value: float((high - low).max()) for value, (low, high) in self.boxes_mm.items()}

    @property
    def extent_mm(self) -> float:
        """Largest side of the volume."""
        return float(max(np.array(self.shape) * self.spacing_mm))


def build_pyramid(image: np.ndarray, spacing_mm: np.ndarray, config: PreprocessingConfig) -> tuple[PyramidLevel, ...]:
    """Preprocesses an image and halves it while it is larger than a small tile.

    Args:
        image: (I, J, K) raw intensities, canonical orientation.
        spacing_mm: (3,).
        config: preprocessing.

    Returns:
        Levels, finest first; an axis is halved only once its spacing is near the finest one.
    """
    mapping = IntensityMapping.from_array(image, config)
    current = mapping(torch.from_numpy(np.ascontiguousarray(image.astype(np.float32))))
    spacing, offset = np.asarray(spacing_mm, dtype=np.float64), np.zeros(3)
    levels = [PyramidLevel(current.numpy().astype(np.float16), spacing, offset)]
    while max(np.array(current.shape) * spacing) / spacing.min() > 96:
        factors = np.where(spacing <= 1.5 * spacing.min(), 2, 1)
        factors = np.minimum(factors, np.array(current.shape))
        if (factors == 1).all():
            break
        current = F.avg_pool3d(current[None, None], tuple(int(f) for f in factors))[0, 0]
        offset = offset + (factors - 1) / 2 * spacing
        spacing = spacing * factors
        levels.append(PyramidLevel(current.numpy().astype(np.float16), spacing, offset))
    return tuple(levels)


def index_objects(
    labels: np.ndarray, spacing_mm: np.ndarray, rng: np.random.Generator, min_voxels: int = 8, max_samples: int = 512
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Foreground samples, and the box's ends (2, 3) in index-mm, of each label value of at least ``min_voxels``."""
    objects: dict[int, np.ndarray] = {}
    boxes: dict[int, np.ndarray] = {}
    flat = labels.reshape(-1)
    where = np.flatnonzero(flat)
    if not len(where):
        return objects, boxes
    values = flat[where]
    order = np.argsort(values, kind="stable")
    where, values = where[order], values[order]
    found, starts = np.unique(values, return_index=True)
    for value, members in zip(found.tolist(), np.split(where, starts[1:]), strict=True):
        if len(members) < min_voxels:
            continue
        voxels = np.stack(np.unravel_index(members, labels.shape), axis=1)
        boxes[int(value)] = np.stack([voxels.min(0), voxels.max(0) + 1]) * spacing_mm
        objects[int(value)] = voxels[rng.integers(0, len(voxels), max_samples)].astype(np.int16)
    return objects, boxes


@dataclass(frozen=True)
class CropGeometry:
    """Where a crop lies: its voxel p maps to index-mm ``centre_mm + matrix_mm @ (p - (size - 1) / 2) + warp``.

    Attributes:
        centre_mm: (3,).
        matrix_mm: (3, 3), columns are the crop's axes, mm per voxel.
        size: voxels along each axis.
        warp_mm: (size, size, size, 3) displacement, or None.
        is_upright: axes point as the volume's do, but for a small turn and perhaps left and right swapped.
        is_mirrored: left and right are swapped.
    """

    centre_mm: np.ndarray
    matrix_mm: np.ndarray
    size: int
    warp_mm: np.ndarray | None = None
    is_upright: bool = False
    is_mirrored: bool = False

    def positions_mm(self) -> np.ndarray:
        """(size, size, size, 3) float32 index-mm positions of the crop's voxels; each axis is contiguous in memory."""
        offsets = np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2
        matrix, centre = self.matrix_mm.astype(np.float32), self.centre_mm.astype(np.float32)
        grid = np.empty((3, self.size, self.size, self.size), dtype=np.float32)
        for plane, (first, second, third), middle in zip(grid, matrix, centre, strict=True):
            face = (offsets * first)[:, None] + offsets * second
            np.add(face[:, :, None], offsets * third, out=plane)
            plane += middle
        positions = np.moveaxis(grid, 0, -1)
        return positions if self.warp_mm is None else positions + self.warp_mm


def crop_image(volume: TrainingVolume, positions_mm: np.ndarray, spacing_mm: float) -> Tensor:
    """Trilinear intensities at positions, from the level that suits the spacing: (D, H, W) float32."""
    level = volume.levels[0]
    for candidate in volume.levels[1:]:
        if candidate.spacing_mm.min() <= 1.2 * spacing_mm:
            level = candidate
    grid = np.moveaxis(positions_mm, -1, 0)[::-1] - level.offset_mm[::-1, None, None, None].astype(np.float32)
    box = []
    for vox, spacing, side in zip(grid[::-1], level.spacing_mm.astype(np.float32), level.image.shape, strict=True):
        vox /= spacing
        low = min(max(int(np.floor(vox.min())) - 1, 0), side - 1)
        high = min(max(int(np.ceil(vox.max())) + 2, low + 1), side)
        box.append(slice(low, high))
        vox -= low
        vox /= max(high - low - 1, 1)
        vox *= 2
        vox -= 1
    part = level.image[tuple(box)].astype(np.float32)
    part -= OUTSIDE
    sampled = F.grid_sample(
        torch.from_numpy(part)[None, None],
        torch.from_numpy(grid).permute(1, 2, 3, 0)[None],
        padding_mode="zeros",
        align_corners=True,
    )
    return sampled[0, 0].add_(OUTSIDE)


def crop_labels(volume: TrainingVolume, positions_mm: np.ndarray) -> np.ndarray:
    """Nearest label values at positions, 0 outside: (D, H, W) int32."""
    assert volume.labels is not None
    shape = volume.labels.shape
    inside = np.ones(positions_mm.shape[:-1], dtype=bool)
    voxels = []
    for axis, (spacing, side) in enumerate(zip(volume.spacing_mm.astype(np.float32), shape, strict=True)):
        vox = positions_mm[..., axis] / spacing
        np.rint(vox, out=vox)
        inside &= vox >= 0
        inside &= vox < side
        voxels.append(np.clip(vox, 0, side - 1, out=vox).astype(np.intp))
    if isinstance(volume.labels, np.ndarray) and volume.labels.flags.c_contiguous:
        index = voxels[0]
        for vox, side in zip(voxels[1:], shape[1:], strict=True):
            index *= side
            index += vox
        values = volume.labels.reshape(-1)[index].astype(np.int32, copy=False)
    else:
        values = volume.labels[voxels[0], voxels[1], voxels[2]].astype(np.int32)
    values *= inside
    return values


def random_rotation(rng: np.random.Generator, max_degrees: float) -> np.ndarray:
    """(3, 3) rotation about a random axis by up to ``max_degrees``."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(-max_degrees, max_degrees))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def smooth_field(source: RandomSource, size: int, cells: int, channels: int) -> Tensor:
    """Smooth random field: (channels, size, size, size) with unit variance at its control points."""
    return smooth_fields(Randomness.of(source, "cpu"), 1, channels, size, cells)[0]


def draw_geometry(
    volume: TrainingVolume, value: int | None, source: RandomSource, config: SamplerConfig
) -> CropGeometry:
    """Places a crop at a spacing inference might choose, turned and deformed.

    Args:
        volume: to crop.
        value: of the label whose voxel shall lie in the crop's central half; None for any place.
        source: of randomness, on the CPU.
        config: how crops are drawn.
    """
    randomness = Randomness.of(source, "cpu")
    rng, size = randomness.host, config.crop_size
    spacing = draw_spacing_mm(volume, value, rng, config)
    matrix = np.eye(3) * spacing * np.exp(rng.normal(0, 0.06, 3))
    if rng.random() < 0.5:
        matrix = random_rotation(rng, config.rotation_degrees) @ matrix
    is_upright = rng.random() < config.upright_share
    flips = rng.random(3) < 0.5
    if is_upright:
        flips[1:] = False
    elif rng.random() < 0.3:
        matrix = matrix[:, rng.permutation(3)]
    matrix = matrix * np.where(flips, -1, 1)
    if value is None:
        voxel = rng.uniform(0, np.array(volume.shape) - 1)
    else:
        samples = volume.objects[value]
        voxel = samples[int(rng.integers(len(samples)))]
    within = rng.uniform(-size / 4, size / 4, 3)
    centre = voxel * volume.spacing_mm - matrix @ within
    warp = None
    if rng.random() < 0.3:
        waves = smooth_field(randomness, size, int(rng.integers(3, 6)), 3).permute(1, 2, 3, 0).numpy()
        warp = waves * float(spacing * rng.uniform(0.5, 3.0))
    return CropGeometry(centre, matrix, size, warp, is_upright, is_upright and bool(flips[0]))


def draw_spacing_mm(
    volume: TrainingVolume, value: int | None, rng: np.random.Generator, config: SamplerConfig
) -> float:
    """The scale in view: from the whole object in a part of the crop to a crop inside the object.

    A share of crops is at the spacings of :class:`~promptseg.tiles.TileLattice`, the finest spacing times a power of
    two, at which the object's largest side is between ``smallest_ratio`` and ``largest_ratio`` of a crop; the rest
    anywhere between. Never much finer than the volume, nor coarser than the volume in one crop.
    """
    finest, size = float(volume.spacing_mm.min()), config.crop_size
    coarsest = max(finest, 1.3 * volume.extent_mm / size)
    extent = volume.extent_mm if value is None else volume.extents_mm[value]
    low, high = extent / (size * config.largest_ratio), extent / (size * config.smallest_ratio)
    spacing = float(np.clip(np.exp(rng.uniform(np.log(low), np.log(high))), 0.85 * finest, coarsest))
    if rng.random() >= config.level_share:
        return spacing
    top = max(0, int(np.ceil(np.log2(max(volume.extent_mm / (size * finest), 1e-9)) - 1e-9)))
    fitting = [finest * 2.0**k for k in range(top + 1) if low <= finest * 2.0**k <= high]
    if not fitting:  # the object is smaller or larger than any level shows well: the level nearest to its range
        fitting = [finest if finest > high else finest * 2.0**top]
    return fitting[int(rng.integers(len(fitting)))]
