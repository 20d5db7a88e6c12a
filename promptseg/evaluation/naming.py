"""What is measured of names: whether absence is noticed, and whether left and right are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .records import StepRecord


def summarise_names(records: Sequence[StepRecord]) -> dict[str, Any]:
    """What one model made of names.

    Args:
        records: of one model; those of the first step are counted.

    Returns:
        Presence: objects in the image against names that are not in it. Sides: objects whose other side is labelled,
        too; confused are those of which more was drawn on the other side than on their own.
    """
    if not records:
        return {}
    first = min(r.step for r in records)
    asked = [r for r in records if r.step == first and r.repeat == 0 and not r.is_failed]
    present = np.array([r.presence for r in asked if not r.is_absent])
    absent = np.array([r.presence for r in asked if r.is_absent])
    sides = np.array([r.other_side for r in asked if not r.is_absent])
    sides = sides[np.isfinite(sides)]
    falsely = [r.dice < 1 for r in asked if r.is_absent]
    return {
        "present": int(np.isfinite(present).sum()),
        "absent": int(np.isfinite(absent).sum()),
        "presence_auc": area_under_roc(present, absent),
        "presence_of_present": _mean(present),
        "presence_of_absent": _mean(absent),
        "absent_asked": len(falsely),
        "absent_answered": float(np.mean(falsely)) if falsely else float("nan"),
        "sided": len(sides),
        "sides_confused": float((sides > 0.5).mean()) if len(sides) else float("nan"),
        "other_side_share": _mean(sides),
    }


def area_under_roc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a positive's score is larger than a negative's, ties counting half; NaN without both.

    Source: Hanley and McNeil, Radiology 143, 1982 (the area equals the Mann-Whitney statistic).

    Example:
        >>> area_under_roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
        0.875
    """
    positives, negatives = positives[np.isfinite(positives)], negatives[np.isfinite(negatives)]
    if not len(positives) or not len(negatives):
        return float("nan")
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    upto = np.searchsorted(ordered, positives, side="right")
    return float((below + upto).sum() / 2 / len(positives) / len(negatives))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
