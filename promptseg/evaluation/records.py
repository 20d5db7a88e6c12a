"""One row of ``results.csv``: what one step of one object scored."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..io.atomic import atomic_path

TIMING_FIELDS = ("seconds", "peak_memory_mb")
"""Columns that differ from run to run."""
FAILED_CASE = "(unreadable case)"
"""Name of the one object, of label 0, that stands for a case that could not be computed at all."""


@dataclass(frozen=True)
class StepRecord:
    """A prompt, the answer to it and its scores. NaN or empty: not known, or not applicable."""

    model: str
    """Name of the segmenter."""
    dataset: str
    """Name of the data set."""
    case: str
    """Name of the case."""
    patient: str
    """Unit of resampling."""
    modality: str
    """Such as ``CT``."""
    label: int
    """Label value of the object; 0 for a case that could not be read."""
    name: str
    """What the object is."""
    voxels: int
    """Size of the true object."""
    volume_ml: float
    """Volume of the true object."""
    step: int
    """Number of corrections so far; 0 for a box, scribble, mask or text that opens, else the number of clicks."""
    repeat: int
    """0 for the protocol itself; 1, 2, ... for its first prompt jittered."""
    prompt: str
    """What was given at this step: ``box``, ``click+``, ``click-``, ``scribble+``, ``scribble-``, ``mask``, ``text`` or
    ``automatic``; empty where nothing was."""
    ras_x: float
    """Place of a click, or the middle of a box or scribble, in RAS millimetres."""
    ras_y: float
    """See ``ras_x``."""
    ras_z: float
    """See ``ras_x``."""
    dice: float
    """Dice coefficient."""
    iou: float
    """Intersection over union."""
    nsd: float
    """Normalised surface Dice."""
    hd95_mm: float
    """95th percentile of the surface distance."""
    volume_error: float
    """Predicted volume minus true, as a share of the true one."""
    lesion_f1: float
    """F1 of the components."""
    newest_respected: float
    """1 if the newest click lies on the right side of the mask, else 0."""
    all_respected: float
    """Share of all clicks so far that do."""
    predicted_iou: float
    """The segmenter's own estimate."""
    seconds: float
    """From prompt to mask; empty for an answer that was computed together with an earlier one."""
    encoder_calls: float
    """Passes of the image encoder for this answer."""
    peak_memory_mb: float
    """Largest resident memory of the process during the case, image and scorer included; on a GPU, of its tensors."""
    is_carried: bool
    """True where nothing was left to correct, and the answer before stands."""
    is_failed: bool
    """True where the segmenter or the reading of the case failed; all scores are then the worst."""
    presence: float = math.nan
    """The segmenter's own estimate of the probability that the object is in the image."""
    other_side: float = math.nan
    """Of the answer's voxels in this object or in the same one on the other side: the share in that one."""
    is_absent: bool = False
    """True for a name that was asked for although the structure is not in the image: a Dice of 1 for an empty mask,
    else of 0; no mean over objects contains it."""


_INTEGERS = {"label", "voxels", "step", "repeat"}
_BOOLEANS = {"is_carried", "is_failed", "is_absent"}
_TEXTS = {"model", "dataset", "case", "patient", "modality", "name", "prompt"}


def record_from_dict(content: dict[str, Any]) -> StepRecord:
    """A record of what :func:`records_to_json` or a CSV reader made.

    Raises:
        ValueError: for a missing column or a value of another type.
    """
    values: dict[str, Any] = {}
    for field in fields(StepRecord):
        if field.name not in content and field.default is not MISSING:
            continue  # a column that reports of earlier releases do not have
        if field.name not in content:
            raise ValueError(f"results: no column {field.name!r}; expected a results.csv of this version")
        value = content[field.name]
        try:
            if field.name in _TEXTS:
                values[field.name] = str(value)
            elif field.name in _BOOLEANS:
                values[field.name] = value in (True, "True", "true", "1")
            elif field.name in _INTEGERS:
                values[field.name] = int(value)
            else:
                values[field.name] = math.nan if value in ("", None) else float(value)
        except ValueError as error:
            raise ValueError(f"results: column {field.name!r} holds {value!r}, expected a number") from error
    return StepRecord(**values)


def record_to_dict(record: StepRecord) -> dict[str, Any]:
    """A record for JSON or CSV: NaN becomes None."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(record).items()}


def write_csv(records: Iterable[StepRecord], path: Path) -> None:
    """Writes ``results.csv``; it appears when it is complete."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(StepRecord)])
        writer.writeheader()
        writer.writerows(record_to_dict(record) for record in records)


def read_csv(path: Path) -> list[StepRecord]:
    """Reads ``results.csv``.

    Raises:
        ValueError: if it is missing or not one.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected the folder that promptseg evaluate -o wrote")
    with path.open(encoding="utf-8", newline="") as stream:
        return [record_from_dict(row) for row in csv.DictReader(stream)]


def sorted_records(records: Iterable[StepRecord], models: Sequence[str]) -> list[StepRecord]:
    """Records in the order of the report: model as asked for, data set, case, object, repeat, step."""
    order = {name: place for place, name in enumerate(models)}
    return sorted(
        records,
        key=lambda r: (order.get(r.model, len(order)), r.dataset, r.case, r.label, r.name, r.repeat, r.step),
    )
