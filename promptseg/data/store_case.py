"""Writes one case into a store: its arrays, its foreground voxels and the record that describes them."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .catalog import Case, Catalog
from .catalog_check import content_hash
from .label_index import index_labels
from .label_maps import read_labels
from .reading import Grid, grid_difference, read_grid
from .store_files import FOREGROUND, IMAGE, INTENSITY, LABEL, file_checksum, flush, write_array, write_record

if TYPE_CHECKING:
    from ..preprocessing import PreprocessingConfig

logger = logging.getLogger(__name__)

RECORD_VERSION = 1
LABEL_COLUMNS = ("value", "voxels", "low_i", "low_j", "low_k", "high_i", "high_j", "high_k", "samples", "samples_stop")
"""What the numbers of a label are in a record: box half-open in canonical voxels, samples as rows of the foreground."""


@dataclass(frozen=True)
class StoreConfig:
    """How arrays are stored.

    Raises:
        ValueError: for a number out of range.
    """

    chunk_size: int = 64
    """Side of a compressed chunk in voxels."""
    block_size: int = 16
    """Side of the smallest piece that is decompressed on its own, in voxels."""
    compression_level: int = 5
    """0 (none) to 9."""
    foreground_samples: int = 256
    """Voxels sampled of each label for the index; all of them where there are fewer."""
    preprocessing: PreprocessingConfig | None = None
    """The model's intensity preprocessing. With it the store also holds each image's intensity mapping and preprocessed
    coarser copies, which training crops at any scale are read from; without it, images and labels alone."""

    def __post_init__(self) -> None:
        if not 1 <= self.block_size <= self.chunk_size:
            raise ValueError(
                f"block_size={self.block_size} and chunk_size={self.chunk_size}: expected 1 <= block_size <= chunk_size"
            )
        if not 0 <= self.compression_level <= 9 or self.foreground_samples < 1:
            raise ValueError(
                f"compression_level={self.compression_level} (0 to 9) or foreground_samples={self.foreground_samples} "
                "(1 or more) is out of range"
            )


def source_signature(catalog: Catalog, case: Case, config: StoreConfig) -> str:
    """Changes when the arrays of a case would: its files, how labels are read, or how arrays are stored.

    Raises:
        ValueError: if a file is missing.
    """
    files = []
    for path in case.files:
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        status = path.stat()
        files.append([path.name, status.st_size, status.st_mtime_ns])
    values = [[label.value, label.rater] for label in case.labels]
    reading = [catalog.label_format, catalog.raters, catalog.threshold, catalog.probability_scale]
    reading += [catalog.trust_label_affine, case.frame, list(catalog.ignore)]
    if catalog.label_format == "probabilities":
        reading.append([term.value for term in catalog.terms])
    storing: list[Any] = [config.chunk_size, config.block_size, config.compression_level, config.foreground_samples]
    if config.preprocessing is not None:
        storing.append(asdict(config.preprocessing))
    content = [RECORD_VERSION, files, values, reading, storing]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def describe(case: Case) -> dict[str, Any]:
    """The part of a record that comes from the catalog and can change without the arrays."""
    return {
        "dataset": case.dataset,
        "case": case.name,
        "patient": case.patient,
        "fold": case.fold,
        "modality": case.modality,
        "annotated": list(case.annotated),
        "absent": list(case.absent),
        "complete": case.complete,
        "instances": case.instances,
    }


def write_case(folder: Path, catalog: Catalog, case: Case, config: StoreConfig) -> dict[str, Any]:
    """Reads a case and writes it into an empty folder.

    Args:
        folder: exists and is empty.
        catalog: the case's.
        case: what to read.
        config: how to store it.

    Returns:
        The record, which is also written as ``case.json``, last.

    Raises:
        ValueError: if the case cannot be used: a file that is not readable, grids that differ, a constant image.
    """
    signature = source_signature(catalog, case, config)
    image = None if case.image is None else read_grid(case.image, case.frame)
    labels = read_labels(catalog, case, image)
    grid = image if image is not None else labels.grid if labels is not None else None
    if grid is None:
        raise ValueError(f"{case.key} has neither an image nor a label")
    record: dict[str, Any] = {
        **describe(case),
        "version": RECORD_VERSION,
        "signature": signature,
        "shape": list(grid.array.shape[:3]),
        "spacing_mm": grid.spacing_mm.tolist(),
        "affine": grid.affine.tolist(),
        "orientation": grid.orientation,
        "content_hash": content_hash(grid.array),
        "files": {},
        "labels": [],
        "statistics": {},
    }
    if image is not None:
        if image.array.ndim != 3:
            raise ValueError(f"{case.image}: shape {image.array.shape}; list the fourth axis under 'channels'")
        record["statistics"] = intensity_statistics(image.array)
        if record["statistics"]["minimum"] == record["statistics"]["maximum"]:
            raise ValueError(f"{case.image}: every voxel is {image.array.flat[0]}")
        record["nonfinite"] = image.nonfinite_count
        _warn_of_nonfinite(case.key, "image", image.nonfinite_count)
        write_array(folder / IMAGE, image.array, config)
        if config.preprocessing is not None:
            record["pyramid"] = _write_pyramid(folder, image, config)
    if labels is not None:
        if image is not None and (difference := grid_difference(image, labels.grid)):
            raise ValueError(
                f"{case.labels[0].path}: the grid is not the image's: {difference}; resample the label to the image"
            )
        record["labels"], foreground = index_labels(labels.grid.array, case.key, config.foreground_samples)
        record["overlap_voxels"], record["disputed_voxels"] = labels.overlap_voxels, labels.disputed_voxels
        record["nonfinite_labels"] = labels.nonfinite_voxels
        _warn_of_nonfinite(case.key, "labels", labels.nonfinite_voxels)
        write_array(folder / LABEL, labels.grid.array, config)
        np.save(folder / FOREGROUND, foreground)
    for path in sorted(folder.iterdir()):
        flush(path)
        record["files"][path.name] = {"bytes": path.stat().st_size, "checksum": file_checksum(path)}
    write_record(folder, record)
    return record


def _warn_of_nonfinite(key: str, kind: str, count: int) -> None:
    if count:
        filled = "the smallest finite value" if kind == "image" else "background"
        logger.warning("%s: %d voxels of the %s are NaN or infinite: taken as %s", key, count, kind, filled)


def level_file(level: int) -> str:
    """Name of the array that holds a level of the pyramid, 1 or coarser."""
    return f"level{level}.b2nd"


def _write_pyramid(folder: Path, image: Grid, config: StoreConfig) -> dict[str, Any]:
    """Writes the intensity mapping and the coarser levels; level 0 is the mapping of the stored image."""
    from ..preprocessing import IntensityMapping
    from .crops import build_pyramid

    assert config.preprocessing is not None
    mapping = IntensityMapping.from_array(image.array, config.preprocessing)
    np.save(folder / INTENSITY, np.concatenate([[mapping.low, mapping.high], mapping.table]))
    coarser = build_pyramid(image.array, image.spacing_mm, config.preprocessing)[1:]
    for number, level in enumerate(coarser, 1):
        write_array(folder / level_file(number), level.image, config)
    return {
        "preprocessing": asdict(config.preprocessing),
        "levels": [
            {
                "shape": list(level.image.shape),
                "spacing_mm": level.spacing_mm.tolist(),
                "offset_mm": level.offset_mm.tolist(),
            }
            for level in coarser
        ],
    }


def intensity_statistics(array: np.ndarray, max_samples: int = 1_000_000) -> dict[str, Any]:
    """Extremes of an image, and mean, standard deviation and percentiles of voxels at regular steps.

    Args:
        array: (I, J, K) finite.
        max_samples: about how many voxels the latter are taken from.
    """
    step = max(1, int(np.ceil((array.size / max_samples) ** (1 / 3))))
    voxels = array[::step, ::step, ::step].astype(np.float64)
    percents = (0.1, 0.5, 1, 5, 25, 50, 75, 95, 99, 99.5, 99.9)
    return {
        "minimum": array.min().item(),
        "maximum": array.max().item(),
        "mean": float(voxels.mean()),
        "std": float(voxels.std()),
        "percentiles": {f"{p:g}": float(v) for p, v in zip(percents, np.percentile(voxels, percents), strict=True)},
    }
