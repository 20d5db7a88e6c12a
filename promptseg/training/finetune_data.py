"""Images and label maps of two folders, split by case, and the crops that fine-tuning sees of them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.crops import (
    CropGeometry,
    TrainingVolume,
    build_pyramid,
    crop_image,
    crop_labels,
    index_objects,
    random_rotation,
    smooth_field,
)
from ..data.folds import patient_fraction
from ..data.reading import grid_difference, read_grid
from ..data.transforms import acquire, remap
from ..preprocessing import PreprocessingConfig
from ..tiles import TileLattice

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".mgz")
MIN_VOXELS = 8
"""Smallest part of a label in a crop that is asked for by a prompt."""


OWN_LEVEL_SHARE = 0.9
"""Share of crops at the zoom level that inference draws a label at; the others are coarser."""


@dataclass(frozen=True)
class CasePaths:
    """An image and its label map."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class View:
    """A crop of a case as the model takes it.

    Attributes:
        image: (1, D, H, W) float32 preprocessed.
        labels: (D, H, W) int32 label values.
        spacing_mm: (3,) float32.
    """

    image: Tensor
    labels: Tensor
    spacing_mm: Tensor

    def values(self, min_voxels: int = MIN_VOXELS) -> list[int]:
        """Label values with at least ``min_voxels``."""
        counts = torch.bincount(self.labels.flatten().long())  # a tenth of the time that sorting takes
        return [value for value in (counts >= min_voxels).nonzero()[:, 0].tolist() if value > 0]


def find_cases(images: str | Path, labels: str | Path) -> list[CasePaths]:
    """Pairs of files with one name in two folders, in the order of their names.

    Raises:
        ValueError: if a folder is missing, or no two names agree.
    """
    found = {kind: _named_files(Path(folder), kind) for kind, folder in (("images", images), ("labels", labels))}
    shared = sorted(set(found["images"]) & set(found["labels"]))
    if not shared:
        examples = [", ".join(sorted(names)[:3]) or "nothing" for names in found.values()]
        raise ValueError(
            f"no image in {images} has a label map of its name in {labels}: there are {examples[0]} and {examples[1]}"
        )
    alone = sorted(set(found["images"]) ^ set(found["labels"]))
    if alone:
        logger.warning("%d files without a partner are left out: %s", len(alone), ", ".join(alone[:5]))
    return [CasePaths(name, found["images"][name], found["labels"][name]) for name in shared]


def _named_files(folder: Path, kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{kind}={str(folder)!r}: no such folder")
    named = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix and path.is_file() and not path.name.startswith("."):
            named[path.name[: -len(suffix)].removesuffix("_0000")] = path
    return named


def label_names(labels: str | Path, stated: str | None = None) -> dict[int, str]:
    """What label values mean: as stated, ``1=liver,2=tumour``, or from a ``dataset.json`` beside or above the labels.

    Understood are value to name (Medical Segmentation Decathlon) and name to value (nnU-Net).

    Raises:
        ValueError: for a statement of another form.
    """
    if stated is not None:
        pairs = [pair.partition("=") for pair in stated.split(",")]
        if not all(value.strip().isdigit() and int(value) > 0 and name.strip() for value, _, name in pairs):
            raise ValueError(f"names={stated!r}: expected such as 1=liver,2=tumour")
        return {int(value): name.strip() for value, _, name in pairs}
    for folder in (Path(labels), Path(labels).resolve().parent):
        path = folder / "dataset.json"
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
            by_name = any(isinstance(v, int) for v in values.values())
            pairs = [(v, k) if by_name else (k, v) for k, v in values.items()]
            return {int(value): str(name) for value, name in pairs if isinstance(value, int) or str(value).isdigit()}
    return {}


def load_case(case: CasePaths, config: PreprocessingConfig) -> TrainingVolume:
    """Reads a case: canonical, preprocessed, its labels indexed.

    Raises:
        ValueError: if a file is damaged, the grids differ, or label values are not whole numbers.
    """
    image, label = read_grid(case.image), read_grid(case.label, is_label=True)
    if image.array.ndim != 3 or label.array.ndim != 3:
        raise ValueError(f"{case.image}: {image.array.ndim} axes, labels {label.array.ndim}; give one channel, 3 axes")
    if difference := grid_difference(image, label):
        raise ValueError(f"{case.label} does not lie on the grid of {case.image}: {difference}; resample it onto it")
    values = np.asarray(label.array)
    if values.min() < 0 or values.max() > 65535 or (values != np.rint(values)).any():
        raise ValueError(
            f"{case.label}: label values from {values.min()} to {values.max()}, expected 0 to 65535, whole"
        )
    values = np.ascontiguousarray(values.astype(np.uint8 if values.max() < 256 else np.int32))
    spacing = np.asarray(image.spacing_mm, dtype=np.float64)
    objects, extents = index_objects(values, spacing, np.random.default_rng(0))
    return TrainingVolume(
        case=case.name,
        dataset="finetune",
        modality="",
        levels=build_pyramid(np.ascontiguousarray(image.array), spacing, config),
        labels=values,
        spacing_mm=spacing,
        objects=objects,
        extents_mm=extents,
    )


def split_cases(names: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Training and validation cases; which is which depends on each case's name and the seed.

    At least one is held out where there are two or more and the share is not 0.
    """
    ordered = sorted(names, key=lambda name: patient_fraction(f"finetune {seed}", name))
    count = 0 if share == 0 or len(names) < 2 else min(len(names) - 1, max(1, round(share * len(names))))
    held_out = set(ordered[:count])
    return [n for n in names if n not in held_out], [n for n in names if n in held_out]


def lattice_of(volume: TrainingVolume, tile_size: int) -> TileLattice:
    """The tiles that inference would read a case through."""
    shape = tuple(int(n) for n in volume.shape)
    return TileLattice(shape, tuple(float(s) for s in volume.spacing_mm), tile_size)  # type: ignore[arg-type]


def draw_view(
    volume: TrainingVolume,
    rng: np.random.Generator,
    tile_size: int,
    preprocessing: PreprocessingConfig,
    augmentation: float = 0.0,
    mirror: bool = False,
    value: int | None = None,
    centred: bool = False,
) -> View:
    """Draws a crop at a spacing and place that inference might choose.

    Args:
        volume: the case.
        rng: source of randomness.
        tile_size: side of the crop.
        preprocessing: of the model.
        augmentation: of geometry and intensities, 0 to 1.
        mirror: also mirrored.
        value: label to look at; None for a place anywhere.
        centred: put the label's middle in the middle, at the finest level that holds it, as an evaluation wants it.
    """
    lattice = lattice_of(volume, tile_size)
    level = _draw_level(volume, lattice, rng, value, centred)
    spacing = lattice.level_spacing_mm(level)
    if value is not None and centred:
        voxels = volume.objects[value].astype(float)
        centre = (voxels.min(axis=0) + voxels.max(axis=0)) / 2 * volume.spacing_mm
    elif value is not None:
        voxels = volume.objects[value]
        within = rng.uniform(-0.35, 0.35, 3) * tile_size * spacing
        centre = voxels[int(rng.integers(len(voxels)))] * volume.spacing_mm + within
    else:
        centre = rng.uniform(0, 1, 3) * (np.array(volume.shape) - 1) * volume.spacing_mm
    centre = centre if centred else _within_lattice(centre, volume, tile_size * spacing, rng)
    matrix = np.eye(3) * spacing
    warp = None
    if augmentation:
        matrix = matrix * np.exp(rng.normal(0, 0.08 * augmentation, 3))
        if rng.random() < 0.7:
            matrix = random_rotation(rng, 20.0 * augmentation) @ matrix
        if rng.random() < 0.3 * augmentation:
            field = smooth_field(rng, tile_size, int(rng.integers(3, 6)), 3).permute(1, 2, 3, 0).numpy()
            warp = field * float(spacing * rng.uniform(0.5, 2.0))
    if mirror:
        matrix = matrix * np.where(rng.random(3) < 0.5, -1, 1)
    positions = CropGeometry(centre, matrix, tile_size, warp).positions_mm()
    steps = np.linalg.norm(matrix, axis=0)
    image = crop_image(volume, positions, float(steps.mean()))
    if augmentation:
        image = remap(acquire(image, rng, 0.5 * augmentation), rng, preprocessing, 0.6 * augmentation)
    labels = torch.from_numpy(crop_labels(volume, positions))
    return View(image[None], labels, torch.from_numpy(steps).float())


def _draw_level(
    volume: TrainingVolume, lattice: TileLattice, rng: np.random.Generator, value: int | None, centred: bool
) -> int:
    """Zoom level: most often the one that inference draws the label at, sometimes a coarser one on the way to it."""
    if value is None:
        return int(rng.integers(lattice.num_levels))
    own = lattice.finest_level_for(volume.extents_mm[value] / np.array(lattice.spacing_mm))
    if centred or rng.random() < OWN_LEVEL_SHARE:
        return own
    return int(rng.integers(own, lattice.num_levels))


def _within_lattice(centre: np.ndarray, volume: TrainingVolume, tile_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Moves a crop's centre to where a tile's may be: tiles reach little beyond the volume."""
    extent = np.array(volume.shape) * volume.spacing_mm
    low = np.minimum(tile_mm / 2, extent / 2) - 0.1 * tile_mm
    high = np.maximum(extent - tile_mm / 2, extent / 2) + 0.1 * tile_mm
    return np.clip(centre, low, high) + rng.normal(0, 0.02 * tile_mm, 3)
