"""How good an answer is likely to be: the decoder's own estimate, corrected by how decided the whole mask is.

The decoder estimates the IoU of what it drew on a tile. What a user sees was drawn on several tiles, over several
prompts, with every click enforced; a logistic regression on training cases turns both into one number. Its
coefficients ship with the weights (``score_calibration``, made by ``tools/calibrate_score.py``). Objects that were
named have their own (``named_score_calibration``): of what it drew by a name, the decoder thinks too little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .canvas import Canvas

FEATURES = ("constant", "estimate", "certainty", "overlap", "sharpness", "prompts", "size", "boxes")
"""What the coefficients of a calibration weigh, in this order; earlier calibrations have one less."""
MAX_VOXELS = 2**18
"""Voxels of a canvas that are looked at; of a larger one every second or fourth along each axis."""
SURE = 1.0
"""Logits nearer to zero than this are undecided."""


def quality_features(canvas: Canvas, estimate: float, num_prompts: int, num_boxes: int = 0) -> np.ndarray:
    """What is known of an answer.

    Args:
        canvas: logits of the object.
        estimate: the decoder's estimate of its IoU, 0 to 1.
        num_prompts: points, boxes and strokes given so far.
        num_boxes: boxes among them.

    Returns:
        (8,) float64, see :data:`FEATURES`.
    """
    step = 1
    while canvas.logits.numel() / step**3 > MAX_VOXELS:
        step *= 2
    logits = torch.nan_to_num(canvas.logits[::step, ::step, ::step].float(), nan=-20.0)
    inside = logits > 0
    size = float(inside.sum()) + 1
    probability = logits.sigmoid()
    sure = float(probability[inside].sum()) + 0.5
    undecided = float((logits.abs() < SURE).sum()) + 1
    return np.array([
        1.0,
        _logit(estimate),
        _logit(sure / size),
        _logit(2 * sure / (size + float(probability.sum()) + 1)),
        math.log(undecided / size),
        math.log1p(num_prompts),
        math.log(size * step**3) / 10,
        num_boxes / max(1, num_prompts),
    ])  # fmt: skip


def calibration_for(config: Any, is_named: bool) -> Sequence[float]:
    """Coefficients for :func:`calibrated_score`; foreign weights have none.

    Args:
        config: of the model.
        is_named: whether the object has a name.
    """
    for_any = getattr(config, "score_calibration", ())
    return (getattr(config, "named_score_calibration", ()) or for_any) if is_named else for_any


def calibrated_score(
    coefficients: Sequence[float], canvas: Canvas, estimate: float, num_prompts: int, num_boxes: int = 0
) -> float:
    """Estimated IoU of an answer, 0 to 1; the decoder's own where the weights bring no calibration, 0 for nothing."""
    if not coefficients:
        return estimate
    if not bool((canvas.logits > 0).any()):  # of nothing, no calibration knows anything
        return 0.0
    features = quality_features(canvas, estimate, num_prompts, num_boxes)
    total = float(np.dot(coefficients, features[: len(coefficients)]))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))


def fit_calibration(features: np.ndarray, ious: np.ndarray, ridge: float = 1e-3) -> tuple[float, ...]:
    """Coefficients that predict IoUs from features best, in the sense of the cross entropy.

    Args:
        features: (N, 8), see :func:`quality_features`.
        ious: (N,) true IoUs.
        ridge: weight of the squared coefficients, the constant's left out.
    """
    x, y = torch.from_numpy(features).double(), torch.from_numpy(ious).double()
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights, y)
        loss = loss + ridge * weights[1:].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return tuple(round(float(w), 5) for w in weights.detach())


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share))
