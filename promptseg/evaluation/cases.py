"""The labelled cases that are evaluated, and the objects in each: one small loader for every way they are stored."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .boxes import VoxelBox
from .metrics import TrueObject
from .segmenters import SegmenterImage

if TYPE_CHECKING:
    from ..data.catalog import Case, Catalog

logger = logging.getLogger(__name__)

MAX_UNNUMBERED = 100_000
"""Label values up to this are looked up as they are, larger ones after they were numbered."""


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory.

    Attributes:
        image: as a segmenter gets it.
        labels: (I, J, K) whole numbers on the image's grid.
        objects: (label values, name) of each structure whose presence or absence is known.
        boxes: label value -> half-open box that comes with the case, and only those; None where boxes are simulated.
        absent: names of annotated structures that this case does not have.
        ignore: label values of voxels that are neither object nor background.
    """

    image: SegmenterImage
    labels: np.ndarray
    objects: tuple[tuple[tuple[int, ...], str], ...]
    boxes: Mapping[int, VoxelBox] | None = None
    absent: tuple[str, ...] = ()
    ignore: tuple[int, ...] = ()


class EvaluationCase(Protocol):
    """A case on disk; small, so that it can be sent to a worker."""

    @property
    def dataset(self) -> str:
        """Name of its data set."""
        ...

    @property
    def name(self) -> str:
        """Unique within the data set."""
        ...

    @property
    def patient(self) -> str:
        """The unit that is resampled for confidence intervals."""
        ...

    @property
    def modality(self) -> str:
        """Such as ``CT``."""
        ...

    @property
    def fold(self) -> str:
        """Name of its fold."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of it: a changed one makes results stale."""
        ...

    @property
    def reading(self) -> str:
        """Differs where a catalog says other things of the files, such as a name: results are then stale, too."""
        ...

    def load(self) -> LoadedCase:
        """Reads image and labels.

        Raises:
            ValueError: for files that are missing, damaged, or not on one grid.
        """
        ...


@dataclass(frozen=True)
class CatalogCase:
    """A case of a catalog.

    Attributes:
        catalog: the data set.
        case: which of its cases.
    """

    catalog: Catalog
    case: Case

    @property
    def dataset(self) -> str:
        """Name of its data set."""
        return self.case.dataset

    @property
    def name(self) -> str:
        """Unique within the data set."""
        return self.case.name

    @property
    def patient(self) -> str:
        """The unit that is resampled for confidence intervals."""
        return f"{self.case.dataset}/{self.case.patient}"

    @property
    def modality(self) -> str:
        """Such as ``CT``."""
        return self.case.modality

    @property
    def fold(self) -> str:
        """Name of its fold."""
        return self.case.fold

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and labels."""
        return self.case.files

    @property
    def reading(self) -> str:
        """Digest of what the catalog says of the case, wherever its files lie."""
        catalog, labels = self.catalog, tuple(replace(file, path=Path(file.path.name)) for file in self.case.labels)
        rules = (catalog.label_format, catalog.raters, catalog.threshold, catalog.probability_scale)
        meaning = (catalog.trust_label_affine, catalog.terms, catalog.unions, catalog.ignore)
        case = replace(self.case, image=None, fold="", labels=labels)
        return hashlib.blake2b(repr((rules, meaning, case)).encode(), digest_size=8).hexdigest()

    def load(self) -> LoadedCase:
        """Reads image and labels, both turned to axes closest to RAS.

        Raises:
            ValueError: for files that are missing, damaged, or not on one grid.
        """
        from ..data.label_maps import read_labels
        from ..data.reading import grid_difference, read_grid

        assert self.case.image is not None
        image = read_grid(self.case.image, self.case.frame)
        if image.array.ndim != 3:
            raise ValueError(
                f"{self.case.image}: shape {image.array.shape}, expected 3D; name its 'channels' in the catalog"
            )
        found = read_labels(self.catalog, self.case, image)
        if found is None:
            raise ValueError(f"{self.case.key}: no label file; correct the catalog's 'labels'")
        if difference := grid_difference(image, found.grid):
            raise ValueError(f"{self.case.key}: image and labels lie on different grids: {difference}; resample one")
        names = self.catalog.names
        objects = [((value,), names.get(value, f"label {value}")) for value in self._values(found.grid.array)]
        if not self.case.instances:
            known = set(self.case.annotated)
            objects += [(values, name) for name, values in self.catalog.unions if known.issuperset(values)]
        return LoadedCase(
            SegmenterImage(image.array, image.affine, self.case.modality),
            found.grid.array,
            tuple(objects),
            absent=self._absent(found.grid.array),
            ignore=self.catalog.ignore,
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the structures that the data set labels."""
        return tuple(self.catalog.names.values())

    def _absent(self, labels: np.ndarray) -> tuple[str, ...]:
        """Names of structures that would be labelled, and are not there."""
        if self.case.instances or not self.case.complete:
            return ()
        names, present = self.catalog.names, set(np.unique(labels).tolist())
        found = [names[value] for value in self.case.annotated if value in names and value not in present]
        known = set(self.case.annotated)
        return (*found, *(n for n, v in self.catalog.unions if known.issuperset(v) and present.isdisjoint(v)))

    def _values(self, labels: np.ndarray) -> list[int]:
        """Label values that are objects: the annotated ones, or every instance."""
        present = np.unique(labels).tolist()
        if self.case.instances or not self.catalog.terms:
            return [int(v) for v in present if v and v not in self.catalog.ignore]
        return [value for value in self.case.annotated if value in present]


def find_cases(catalog: str | Path, fold: str, root: str | Path | None = None) -> list[EvaluationCase]:
    """Finds what is to be evaluated.

    Args:
        catalog: a YAML catalog; a ``dataset.json``; a folder of the challenge's ``.npz`` files; or a folder that holds
            catalogs or data sets, at most two levels deep.
        fold: name of the fold; ``all`` for every case.
        root: folder that the paths in a catalog are relative to; only for a single one.

    Returns:
        Cases with an image and labels, sorted by data set and name.

    Raises:
        ValueError: if nothing is there, or nothing is in that fold; the folds that exist and the option are named.
    """
    path = Path(catalog)
    if not path.exists():
        raise ValueError(f"--catalog {path}: no such file or folder")
    if path.is_dir() and any(path.glob("*.npz")):
        from .npz import ChallengeCase

        return [ChallengeCase(file) for file in sorted(path.glob("*.npz"))]
    catalogs = list(_catalogs(path, root))
    found: list[EvaluationCase] = []
    folds: dict[str, int] = {}
    for data_set in catalogs:
        for case in data_set.cases():
            if case.image is None or not case.labels or not (case.annotated or case.instances or not data_set.terms):
                continue
            folds[case.fold] = folds.get(case.fold, 0) + 1
            if fold in (case.fold, "all"):
                found.append(CatalogCase(data_set, case))
    names = [f"{case.dataset}/{case.name}" for case in found]
    if twice := [name for name, following in pairwise(sorted(names)) if name == following]:
        raise ValueError(
            f"--catalog {path}: {twice[0]} is there twice, in two catalogs of one name; give one of them, or rename it"
        )
    if not found:
        there = ", ".join(f"{name} ({count} cases)" for name, count in sorted(folds.items())) or "none with labels"
        ways = [f"--fold {name}" for name in sorted(folds)] + ["--fold all for every case"]
        cure = f"give {' or '.join(ways)}" if folds else "give images with label maps"
        raise ValueError(f"--fold {fold}: no labelled image of that fold under {path}; folds there: {there}; {cure}")
    return sorted(found, key=lambda c: (c.dataset, c.name))


def _catalogs(path: Path, root: str | Path | None) -> Iterator[Catalog]:
    from ..data.catalog_loader import load_catalog

    if path.is_file():
        yield load_catalog(path, root)
        return
    if root is not None:
        raise ValueError(f"--root {root}: only for a single catalog, and --catalog {path} is a folder")
    patterns = ("dataset.json", "*/dataset.json", "*.yaml", "*.yml", "*/*.yaml", "*/*.yml")
    files = sorted({file for pattern in patterns for file in path.glob(pattern)})
    own = {file.parent for file in files if file.name == "catalog.yaml"}  # says more than the dataset.json beside it
    files = [file for file in files if file.name != "dataset.json" or file.parent not in own]
    usable = 0
    for file in files:
        try:
            found = load_catalog(file)
        except ValueError as error:
            logger.warning("%s is passed over: %s", file, error)
            continue
        usable += 1
        yield found
    if not usable:
        raise ValueError(f"--catalog {path}: no dataset.json, YAML catalog or .npz in this folder or the folders in it")


@dataclass(frozen=True)
class EvaluationObject:
    """One object of a case.

    Attributes:
        label: smallest of its label values.
        name: what it is.
        truth: its ground truth.
        is_union: whether it is made of several label values, each of which may be an object too.
        mirrored: ground truth of the same structure on the other side of the body; None where there is none.
    """

    label: int
    name: str
    truth: TrueObject
    is_union: bool = False
    mirrored: TrueObject | None = None


def objects_of(loaded: LoadedCase, tolerance_mm: float) -> Iterator[EvaluationObject]:
    """The structures that are there, one after the other; a structure without voxels is passed over."""
    spacing = loaded.image.spacing_mm.tolist()
    boxes = _boxes_by_value(loaded.labels)
    unknown = np.isin(loaded.labels, loaded.ignore) if set(loaded.ignore) & set(boxes) else None
    for values, name in loaded.objects:
        present = [boxes[v] for v in values if v in boxes]
        if not present:
            continue
        low = np.stack([b[0] for b in present]).min(axis=0)
        high = np.stack([b[1] for b in present]).max(axis=0)
        part = loaded.labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        first, *others = values
        mask = np.isin(part, values) if others else part == first
        truth = TrueObject(mask, spacing, low.tolist(), loaded.labels.shape, tolerance_mm, unknown)
        yield EvaluationObject(min(values), name, truth, is_union=bool(others))


def _boxes_by_value(labels: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Half-open bounding box of each label value."""
    from scipy.ndimage import find_objects

    values = np.unique(labels)
    values = values[values != 0]
    if len(values) and labels.dtype.kind in "iu" and values[0] > 0 and values[-1] <= MAX_UNNUMBERED:
        found = find_objects(labels)  # numbered as they are: no copy of the volume
        places = [(int(value), found[int(value) - 1]) for value in values]
    else:
        numbered = np.searchsorted(values, labels).astype(np.int32) + 1
        numbered[labels == 0] = 0
        places = [(int(value), box) for value, box in zip(values, find_objects(numbered), strict=True)]
    return {value: (np.array([s.start for s in box]), np.array([s.stop for s in box])) for value, box in places if box}
