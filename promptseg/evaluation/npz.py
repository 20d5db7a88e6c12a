"""Reads and writes the files of the CVPR 2025 interactive segmentation challenge.

A case is an ``.npz`` with ``imgs`` (D, H, W) 0 to 255, ``spacing`` (3,), ``gts`` (D, H, W) label map, and optionally
``boxes``: one dictionary per label with ``z_min``, ``z_max``, ``z_mid`` and the box on slice ``z_mid``, all ends
included. An answer has ``segs``, the last label map, and ``all_segs``, one per step. Spacing is in the order of the
array's axes, as the challenge's scorer takes it.

The lists of dictionaries are pickles inside the archive. They are read with an unpickler that can build numbers, text,
lists, dictionaries and numpy arrays, and nothing else.

Source: CVPR25_iter_eval.py and get_boxes.py, github.com/JunMa11/CVPR-MedSegFMCompetition.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io.atomic import atomic_path
from .boxes import VoxelBox
from .cases import LoadedCase
from .segmenters import SegmenterImage

_ALLOWED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"it names {module}.{name}, which is not data")
        return super().find_class(module, name)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every array of an ``.npz``, lists of dictionaries included, without running anything in it.

    Args:
        path: the file.

    Raises:
        ValueError: if it is missing, damaged, or holds anything but data.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                Path(name).stem: _read_array(archive.read(name)) for name in archive.namelist() if name.endswith(".npy")
            }
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: not a readable .npz of the challenge ({error})") from error


def _read_array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if not dtype.hasobject:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    array = np.asarray(_DataUnpickler(stream).load(), dtype=object)
    return array.reshape(shape, order="F" if is_fortran else "C")


@dataclass(frozen=True)
class ChallengeCase:
    """A case of the challenge.

    Attributes:
        path: its file, with ground truth.
    """

    path: Path

    @property
    def dataset(self) -> str:
        """The first two words of the file's name, as the challenge names them: ``CT_AMOS``."""
        return "_".join(self.path.stem.split("_")[:2])

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem

    @property
    def patient(self) -> str:
        """The case itself."""
        return f"{self.dataset}/{self.name}"

    @property
    def modality(self) -> str:
        """The first word of the file's name."""
        return self.path.stem.split("_")[0]

    @property
    def fold(self) -> str:
        """The challenge's files have none."""
        return ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    @property
    def reading(self) -> str:
        """The file says it all."""
        return ""

    def load(self) -> LoadedCase:
        """Reads image and labels; axes are turned around, so that slices are along the third.

        Raises:
            ValueError: for a file that lacks an array or whose arrays do not fit.
        """
        content = read_npz(self.path)
        missing = [key for key in ("imgs", "gts", "spacing") if key not in content]
        if missing:
            raise ValueError(f"{self.path}: no {' and no '.join(missing)}; expected imgs, gts and spacing")
        image, labels = content["imgs"].T, content["gts"].T
        if image.ndim != 3 or image.shape != labels.shape:
            raise ValueError(
                f"{self.path}: imgs {content['imgs'].shape} and gts {content['gts'].shape}, expected one 3D shape"
            )
        spacing = np.asarray(content["spacing"], dtype=np.float64)[::-1]
        values = [int(v) for v in np.unique(labels) if v]
        objects = tuple(((value,), f"label {value}") for value in values)
        boxes: dict[int, VoxelBox] = {}
        if "boxes" in content:
            if len(content["boxes"]) != len(values):
                raise ValueError(
                    f"{self.path}: {len(content['boxes'])} boxes for {len(values)} labels; expected one each"
                )
            boxes = {v: box_from_entry(entry) for v, entry in zip(values, content["boxes"], strict=True)}
        image = SegmenterImage(image, np.diag([*spacing, 1.0]), self.modality)
        return LoadedCase(image, labels, objects, boxes)


def write_case(
    path: str | Path,
    image: np.ndarray,
    labels: np.ndarray,
    spacing_mm: Sequence[float],
    boxes: Mapping[int, VoxelBox] | None = None,
) -> Path:
    """Writes a case for the challenge's scorer and submissions.

    Args:
        path: ``.npz``.
        image: (I, J, K), slices along the third axis; intensities are mapped to 0 to 255 between the 0.5th and 99.5th
            percentile of what is not 0, as the challenge does for all modalities but CT.
        labels: (I, J, K) label map, background 0.
        spacing_mm: (3,) along I, J, K.
        boxes: label value -> half-open box; None writes no ``boxes``, and the first prompt is then a click.

    Returns:
        The path.
    """
    values = image[image != 0]
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 1.0)
    scaled = (np.clip(image.astype(np.float32), low, high) - low) / max(float(high - low), 1e-6) * 255
    content: dict[str, Any] = {
        "imgs": scaled.astype(np.uint8).T,
        "gts": labels.T,
        "spacing": np.asarray(spacing_mm, dtype=np.float64)[::-1],
    }
    if boxes is not None:
        content["boxes"] = np.array(
            [_box_entry(boxes[value], labels == value) for value in sorted(boxes)], dtype=object
        )
    return _write(path, content)


def _box_entry(box: VoxelBox, mask: np.ndarray) -> dict[str, int]:
    per_slice = np.count_nonzero(mask, axis=(0, 1))
    low, high = (end.tolist() for end in box)
    return {
        "z_min": low[2],
        "z_max": high[2] - 1,
        "z_mid": int(np.searchsorted(np.cumsum(per_slice), per_slice.sum() // 2, side="right")),
        "z_mid_x_min": low[0],
        "z_mid_y_min": low[1],
        "z_mid_x_max": high[0] - 1,
        "z_mid_y_max": high[1] - 1,
    }


def box_from_entry(entry: Mapping[str, Any]) -> VoxelBox:
    """Half-open box (I, J, K) of one dictionary of ``boxes``."""
    low = [int(entry[key]) for key in ("z_mid_x_min", "z_mid_y_min", "z_min")]
    high = [int(entry[key]) + 1 for key in ("z_mid_x_max", "z_mid_y_max", "z_max")]
    return np.array(low), np.array(high)


def write_answer(path: str | Path, steps: Sequence[np.ndarray]) -> Path:
    """Writes the label maps of a case as the challenge's scorer keeps them.

    Args:
        path: ``.npz``.
        steps: (I, J, K) uint8 label map after each step, the box first.

    Returns:
        The path.
    """
    return _write(path, {"segs": steps[-1].T, "all_segs": np.stack([s.T for s in steps])})


def _write(path: str | Path, content: Mapping[str, Any]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **content)
    return path
