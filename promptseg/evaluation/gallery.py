"""Pictures of the best, the median and the worst object of a model, with truth, answer and clicks."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .boxes import grow, slices
from .cases import LoadedCase, objects_of
from .kept_masks import KeptMask, read_mask
from .metrics import TrueObject
from .records import StepRecord
from .work import CaseTask, masks_path

logger = logging.getLogger(__name__)

LEGEND = ("wrongly included", "missed", "right")
"""What the colours 1, 2 and 3 of a picture mean."""
MARGIN_MM = 25.0
"""Shown around truth, answer and clicks."""


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery.

    Attributes:
        rank: ``best``, ``median`` or ``worst``.
        caption: which object, and its scores.
        png: base64.
    """

    rank: str
    caption: str
    png: str


def choose_rows(records: Sequence[StepRecord], count: int) -> list[tuple[str, StepRecord]]:
    """The last rows of the objects with the lowest, middle and highest Dice; no object twice.

    Args:
        records: of one model.
        count: objects of each kind.
    """
    if not records or not count:
        return []
    last = max(r.step for r in records)
    rows = [r for r in records if r.step == last and r.repeat == 0 and not (r.is_failed or r.is_absent)]
    rows.sort(key=lambda r: (r.dice, r.dataset, r.case, r.label, r.name))
    start = max(0, len(rows) // 2 - count // 2)
    groups = (("worst", rows[:count]), ("median", rows[start : start + count]), ("best", rows[::-1][:count]))
    chosen: dict[tuple[str, str, int, str], tuple[str, StepRecord]] = {}
    for rank, members in groups:
        for r in members:
            chosen.setdefault((r.dataset, r.case, r.label, r.name), (rank, r))
    order = {"best": 0, "median": 1, "worst": 2}
    return sorted(chosen.values(), key=lambda entry: order[entry[0]])


def draw_gallery(
    records: Sequence[StepRecord], tasks: Sequence[CaseTask], count: int, tolerance_mm: float
) -> list[Picture]:
    """Draws the objects of :func:`choose_rows`.

    Args:
        records: of one model.
        tasks: of that model.
        count: objects of each kind.
        tolerance_mm: of the run.

    Returns:
        Pictures; without those whose case can no longer be read, which is logged.
    """
    by_case = {(task.case.dataset, task.case.name): task for task in tasks}
    pictures = []
    for rank, row in choose_rows(records, count):
        task = by_case[row.dataset, row.case]
        try:
            kept = read_mask(masks_path(task), row.label, row.name)
            png = _draw(task.case.load(), row, kept, tolerance_mm)
        except (OSError, ValueError, KeyError, ImportError) as error:
            logger.warning("no picture of %s/%s, %s: %s", row.dataset, row.case, row.name, error)
            continue
        caption = (
            f"{row.dataset}/{row.case}, {row.name}: Dice {row.dice:.3f}, NSD {row.nsd:.3f}, {row.volume_ml:.3g} ml"
        )
        pictures.append(Picture(rank, caption, png))
    return pictures


def _draw(loaded: LoadedCase, row: StepRecord, kept: KeptMask, tolerance_mm: float) -> str:
    """A PNG in base64: three slices of the surroundings, through the place where the first click was."""
    from ..render import RenderConfig, render_overlay
    from ..volume import Volume

    truth = next(t.truth for t in objects_of(loaded, tolerance_mm) if (t.label, t.name) == (row.label, row.name))
    shape = np.array(loaded.labels.shape)
    low, high = truth.low, truth.high
    if kept.mask.part.any():
        low, high = np.minimum(low, kept.mask.low), np.maximum(high, kept.mask.low + kept.mask.shape)
    low, high = grow(low, high, np.ceil(MARGIN_MM / truth.spacing_mm).astype(int), shape)
    answer = np.zeros(shape, dtype=bool)
    kept.mask.paste(answer, 1)
    inside, claimed = truth.crop(low, high), answer[slices(low, high)]
    values = np.select([inside & claimed, inside, claimed], [3, 2, 1], 0).astype(np.uint8)
    affine = loaded.image.affine.copy()
    affine[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    volume = Volume.from_image(np.ascontiguousarray(loaded.image.array[slices(low, high)]), affine=affine)
    points = kept.points - low
    shown = ((points >= 0) & (points < high - low)).all(axis=1)
    centre = points[shown][0] if shown.any() else _middle(truth) - low
    picture = render_overlay(
        volume,
        values,
        points[shown],
        kept.labels[shown],
        centre=centre,
        legend=LEGEND,
        config=RenderConfig(width=960, height=340),
    )
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _middle(truth: TrueObject) -> np.ndarray:
    """The voxel of an object nearest to its centre."""
    voxels = np.argwhere(truth.mask)
    nearest = voxels[int(np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)))]
    return nearest + truth.low
