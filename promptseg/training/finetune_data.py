"""Images and label maps of two folders, split by case, and the crops that fine-tuning sees of them."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from ..data.reading import Grid, grid_difference, read_grid
from ..data.transforms import acquire, remap
from ..preprocessing import PreprocessingConfig
from ..tiles import TileLattice
from ..volume_checks import check_contrast

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".mgz")
MIN_VOXELS = 8
"""Smallest part of a label in a case that is learned from, and in a crop that is asked for by a prompt."""
WHOLE_WITHIN = 1e-3
"""How far a label value may be from a whole number: files store scaled integers, which give 1.00002 for 1."""

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
        ValueError: if a folder is missing or both are one, two files have one name, or no two names agree.
    """
    if Path(images).resolve() == Path(labels).resolve():
        raise ValueError(f"images={str(images)!r} and labels={str(labels)!r} are one folder; put the label maps apart")
    found = {kind: _named_files(Path(folder), kind) for kind, folder in (("images", images), ("labels", labels))}
    shared = sorted(set(found["images"]) & set(found["labels"]))
    if not shared:
        examples = [", ".join(sorted(names)[:3]) or "nothing" for names in found.values()]
        raise ValueError(
            f"no image in {images} has a label map of its name in {labels}: there are {examples[0]} and {examples[1]}"
            + _hint_at_folders(Path(images), Path(labels))
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
            name = path.name[: -len(suffix)].removesuffix("_0000")
            if name in named:
                raise ValueError(
                    f"{kind}: {named[name].name} and {path.name} in {folder} have one name, {name!r}; keep one of them"
                )
            named[name] = path
    return named


def _hint_at_folders(images: Path, labels: Path) -> str:
    """What to do where the files lie in folders of their own; empty where they do not."""
    for kind, folder in (("images", images), ("labels", labels)):
        if inner := sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            cure = "one file for each image" if kind == "images" else "one label map for each image, with a value for"
            cure += "" if kind == "images" else " each structure"
            return f"; {kind} lie in folders of their own ({', '.join(inner[:3])}): {cure} is read"
    return ""


def read_label_map(path: Path) -> Grid:
    """Reads a label map: (I, J, K) uint8 or int32.

    Raises:
        ValueError: if it has other axes, or values that are not whole or out of range.
    """
    grid = read_grid(path, is_label=True)
    values = np.asarray(grid.array)
    if values.ndim != 3:
        raise ValueError(f"{path}: {values.ndim} axes; give a label map of 3 axes, with a value for each structure")
    if values.dtype.kind == "f":
        given, values = values, np.rint(values)
        if (wrong := np.abs(given - values) > WHOLE_WITHIN).any():
            raise ValueError(f"{path}: label value {given[wrong][0]:g} is not whole; was it resampled? Use nearest")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{path}: label values from {low} to {high}, expected 0 to 65535; is it the image?")
    return replace(grid, array=values.astype(np.uint8 if high < 256 else np.int32))


def load_case(case: CasePaths, config: PreprocessingConfig) -> TrainingVolume:
    """Reads a case: canonical, preprocessed, its labels indexed.

    Raises:
        ValueError: if a file is damaged, the grids differ, nothing can be seen in the image, or label values are not
            whole numbers.
    """
    image, label = read_grid(case.image), read_label_map(case.label)
    if image.array.ndim != 3:
        raise ValueError(f"{case.image}: {image.array.ndim} axes; give one channel, or one frame, of 3 axes")
    check_contrast(image.array, str(case.image))
    if image.nonfinite_count:
        logger.warning("%s: %d voxels are NaN or infinite, and read as the minimum", case.image, image.nonfinite_count)
    if difference := grid_difference(image, label):
        raise ValueError(f"{case.label} does not lie on the grid of {case.image}: {difference}; resample it onto it")
    values = np.ascontiguousarray(label.array)
    spacing = np.asarray(image.spacing_mm, dtype=np.float64)
    objects, boxes = index_objects(values, spacing, np.random.default_rng(0), min_voxels=1)
    objects = {v: found for v, found in objects.items() if len(np.unique(found, axis=0)) >= MIN_VOXELS}
    return TrainingVolume(
        case=case.name,
        dataset="finetune",
        modality="",
        levels=build_pyramid(np.ascontiguousarray(image.array), spacing, config),
        labels=values,
        spacing_mm=spacing,
        objects=objects,
        boxes_mm=boxes,
    )


def patients_of(volumes: Mapping[str, TrainingVolume]) -> dict[str, str]:
    """Case -> what all cases of its patient share: ``sub-NAME`` in front (BIDS), or the very same image."""
    subjects = {name: re.match(r"sub-[A-Za-z0-9]+(?=_)", name) for name in volumes}
    patients = {name: subject[0] if subject else name for name, subject in subjects.items()}
    first: dict[str, str] = {}
    for name, volume in volumes.items():
        same = first.setdefault(hashlib.blake2b(volume.levels[0].image.tobytes()).hexdigest(), name)
        if same != name:
            logger.warning("%s and %s hold the same image: they count as one patient", same, name)
            one, other = patients[same], patients[name]
            patients = {n: one if patient == other else patient for n, patient in patients.items()}
    return patients


def split_cases(
    names: list[str], share: float, seed: int, patients: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Training and validation cases; which is which depends on each patient's name and the seed.

    At least one is held out where there are two patients or more and the share is not 0; more cases than the share only
    where each patient has more.

    Args:
        names: of the cases.
        share: of the cases to hold out.
        seed: of the choice.
        patients: case -> patient, whose cases are all on one side; None: each case is a patient of its own.
    """
    of = {name: name if patients is None else patients[name] for name in names}
    sizes = Counter(of.values())
    room = 0 if share == 0 else max(round(share * len(names)), min(sizes.values(), default=0))
    held_out: set[str] = set()
    for patient in sorted(sizes, key=lambda patient: patient_fraction(f"finetune {seed}", patient)):
        if sizes[patient] <= room and len(held_out) < len(sizes) - 1:  # one is trained on in any case
            held_out.add(patient)
            room -= sizes[patient]
    return [n for n in names if of[n] not in held_out], [n for n in names if of[n] in held_out]


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
