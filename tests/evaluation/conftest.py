"""Masks of every awkward kind, and a small pool of labelled cases on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from promptseg.evaluation.cases import EvaluationObject, LoadedCase
from promptseg.evaluation.metrics import TrueObject
from promptseg.evaluation.segmenters import SegmenterImage

SHAPE = (22, 18, 14)
AFFINE = np.array([[-1.5, 0.0, 0.0, 30.0], [0.0, -1.0, 0.0, 12.0], [0.0, 0.0, 2.0, -50.0], [0.0, 0.0, 0.0, 1.0]])
"""LPS, as scanners write it: the cases are turned to RAS."""


def ball(shape: Sequence[int], centre: Sequence[float], radius: float, spacing: Sequence[float] = (1, 1, 1)):
    """(I, J, K) bool."""
    grid = np.indices(shape).reshape(3, -1).T
    distance = np.linalg.norm((grid - np.asarray(centre)) * np.asarray(spacing), axis=1)
    return (distance <= radius).reshape(shape)


def smooth_mask(shape: Sequence[int], seed: int, share: float = 0.3) -> np.ndarray:
    """A random mask with smooth and ragged parts, holes and islands."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    noise = gaussian_filter(generator.normal(size=shape), 1.5) + 0.05 * generator.normal(size=shape)
    return noise > np.quantile(noise, 1 - share)


def awkward_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of masks, none empty, on which distances and components are easily got wrong."""
    shape = (13, 11, 9)
    empty = np.zeros(shape, dtype=bool)
    one, other, sheet, line, corners = (empty.copy() for _ in range(5))
    one[0, 0, 0] = True
    other[-1, -1, -1] = True
    sheet[:, 5, :] = True
    line[6, :, 4] = True
    corners[0, 0, 0] = corners[-1, 0, -1] = corners[0, -1, -1] = True
    board = np.indices(shape).sum(axis=0) % 2 == 0
    cube = ball(shape, (6, 5, 4), 3.2)
    return {
        "equal": (cube, cube),
        "opposite corners": (one, other),
        "single voxel": (cube, one),
        "thin sheet and line": (sheet, line),
        "touches the border": (corners, cube),
        "checkerboard": (board, ~board),
        "whole image": (np.ones(shape, dtype=bool), cube),
        "shifted": (cube, np.roll(cube, 2, axis=0)),
        "nested": (cube, ball(shape, (6, 5, 4), 1.5)),
    }


@dataclass(frozen=True)
class MemoryCase:
    """A case that is made of arrays."""

    loaded: LoadedCase | None = None
    name: str = "case"
    dataset: str = "set"
    patient: str = "set/patient"
    modality: str = "CT"
    fold: str = "validation"
    files: tuple[Path, ...] = ()
    reading: str = ""

    def load(self) -> LoadedCase:
        """The arrays."""
        assert self.loaded is not None
        return self.loaded


def make_target(mask: np.ndarray, spacing: Sequence[float] = (1, 1, 1), name: str = "thing") -> EvaluationObject:
    """An object of label 1."""
    return EvaluationObject(1, name, TrueObject(mask, spacing))


def make_image(array: np.ndarray, spacing: Sequence[float] = (1, 1, 1)) -> SegmenterImage:
    """On a RAS grid."""
    return SegmenterImage(array, np.diag([*spacing, 1.0]), "CT")


def write_pool(folder: Path) -> Path:
    """Two data sets: ``alpha`` with four validation cases of three patients and a training case, ``beta`` with one.

    Each case has a bright ball (label 1, ``ball``) and a dark one (label 2, ``hole``) in noise, in other places.
    """
    for dataset, names in (("alpha", ("a0", "a1", "a2", "a3", "a4")), ("beta", ("b0",))):
        cases = []
        for number, name in enumerate(names):
            generator = np.random.default_rng(len(dataset) * 10 + number)
            labels = np.zeros(SHAPE, dtype=np.uint8)
            labels[ball(SHAPE, (6 + number % 3, 7, 6), 6.0, (1.5, 1, 2))] = 1
            labels[ball(SHAPE, (16, 11, 8 - number % 2), 4.0, (1.5, 1, 2))] = 2
            image = generator.normal(100, 5, SHAPE) + 80 * (labels == 1) - 60 * (labels == 2)
            paths = {}
            for kind, array in (("image", image.astype(np.int16)), ("label", labels)):
                path = folder / dataset / f"{kind}s" / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, AFFINE), path)
                paths[kind] = str(path.relative_to(folder))
            patient = "p1" if name in ("a1", "a2") else name
            fold = "train" if name == "a0" else "validation"
            cases.append({"case": name, "patient": patient, "fold": fold, **paths})
        content = {
            "name": dataset,
            "licence": "CC0",
            "citation": "none",
            "modality": "CT",
            "labels": {"1": "ball", "2": "hole"},
            "cases": cases,
        }
        (folder / dataset / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of :func:`write_pool`; tests only read it."""
    return write_pool(tmp_path_factory.mktemp("pool"))
