"""Small data sets on disk, in the layouts that people have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from promptseg.data import Catalog

Save = Callable[..., Path]
MakeCatalog = Callable[..., Catalog]


def phantom(
    seed: int, shape: Sequence[int] = (20, 18, 14), values: Sequence[int] = (1, 2)
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy int16 image with bright boxes, and their label map."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-100, 100, shape)
    labels = np.zeros(shape, np.uint8 if max(values, default=0) < 256 else np.int32)
    for value in values:
        low = rng.integers(0, np.array(shape) // 2)
        high = low + rng.integers(3, np.array(shape) // 2)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        labels[box] = value
        image[box] += 300 + 10 * int(value % 50)
    return image.astype(np.int16), labels


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Writes a NIfTI file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.5, 2.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def save() -> Save:
    """Writes a NIfTI file: ``save(path, array, affine)``."""
    return save_nifti


@pytest.fixture
def make_catalog(tmp_path: Path) -> MakeCatalog:
    """Writes ``count`` cases as images/NAME.nii.gz and labels/NAME.nii.gz, and describes them."""

    def make(
        count: int = 3, name: str = "blobs", affine: np.ndarray | None = None, seed: int = 0, **fields: object
    ) -> Catalog:
        root = tmp_path / "source" / name
        for number in range(count):
            image, labels = phantom(seed + number)
            save_nifti(root / "images" / f"p{number:02d}.nii.gz", image, affine)
            save_nifti(root / "labels" / f"p{number:02d}.nii.gz", labels, affine)
        return describe(root, name, **fields)

    return make


def describe(root: Path, name: str = "blobs", **fields: object) -> Catalog:
    """A catalog with the fields that every catalog has; ``images`` and ``labels`` by default."""
    from promptseg.data.catalog_fields import build_catalog

    given = {
        "name": name,
        "licence": "CC0",
        "citation": "none",
        "modality": "CT",
        "images": "images/{case}.nii.gz",
        "labels": "labels/{case}.nii.gz",
        "terms": {1: "liver", 2: "spleen"},
        **fields,
    }
    return build_catalog(root / "catalog.yaml", given, root)
