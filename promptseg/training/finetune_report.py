"""What a fine-tuning gained on held-out volumes, and what it cost elsewhere, through the predictor as a user has it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from ..adapters import Adapter
from ..data.prompt_simulator import sample_points
from ..models import PromptableModel
from ..predictor import Predictor
from .finetune_data import CasePaths, read_label_map

logger = logging.getLogger(__name__)

CLICKS = (1, 3)
"""Numbers of clicks after which the Dice is reported."""
SMALLEST_REGION = 18
"""Side in voxels from which the depth of a region can be estimated."""


def make_report(
    model: PromptableModel,
    adapter: Adapter,
    cases: list[CasePaths],
    probe: bool = True,
    device: torch.device | str | None = None,
) -> list[dict[str, Any]]:
    """Measures base and adapter on whole volumes.

    Args:
        model: the base.
        adapter: tuned.
        cases: held out; empty for the probe alone.
        probe: also measure organs of the volume that ships, which have nothing to do with the training.
        device: where to compute.

    Returns:
        Rows of ``what``, ``base``, ``adapter`` (Dice, 0 to 1; a dash where it does not apply), ``cases``, ``how``.
    """
    predictor = Predictor(model, device=device, dtype=torch.float32, revision="finetune")
    name = predictor.adapters.add(adapter, "tuned")
    rows: list[dict[str, Any]] = []
    if cases:
        found = {}
        for key, chosen in (("base", None), ("adapter", name)):
            predictor.set_adapter(chosen)
            found[key] = measure_cases(predictor, cases, adapter.config.names, is_adapted=chosen is not None)
        how = "held-out cases, whole volumes; crops of all that are held out told when to stop"
        for what, value in found["adapter"].items():
            rows.append(_row(what, found["base"].get(what), value, len(cases), how))
    if probe:
        from .. import demo

        values = {}
        for key, chosen in (("base", None), ("adapter", name)):
            predictor.set_adapter(chosen)
            values[key] = probe_demo(predictor)
        how = "agreement with another model's labels on the demo volume, after all clicks: what must not get worse"
        rows.append(_row("unrelated organs", values["base"], values["adapter"], len(demo.OBJECTS), how))
    predictor.set_adapter(None)
    return rows


def _row(what: str, base: float | None, adapter: float, cases: int, how: str) -> dict[str, Any]:
    shown = "-" if base is None else round(base, 4)
    return {"what": what, "base": shown, "adapter": round(adapter, 4), "cases": cases, "how": how}


def measure_cases(
    predictor: Predictor, cases: list[CasePaths], names: dict[int, str], is_adapted: bool
) -> dict[str, float]:
    """Mean Dice over labels and cases: after some clicks, each at the deepest place of the error, and automatic."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        predictor.set_image(str(case.image))
        truth = predictor.volume.from_canonical_array(np.ascontiguousarray(read_label_map(case.label).array))
        present = [v for v in names if (truth == v).any()]
        for value in present:
            for count, dice in click_dice(predictor, truth == value, max(CLICKS)).items():
                if count in CLICKS:
                    key = f"Dice after {count} click{'s' * (count > 1)}"
                    scores.setdefault(key, []).append(dice)
        if is_adapted and any(t.numel() for t in predictor.adapters.labels.values()):
            labels = predictor.predict_labels().labels
            automatic = [dice_of(labels == v, truth == v) for v in present]
            scores.setdefault("Dice without a prompt", []).extend(automatic)
    return {what: float(np.mean(values)) for what, values in scores.items()}


def click_dice(predictor: Predictor, truth: np.ndarray, count: int) -> dict[int, float]:
    """Dice after each of ``count`` clicks, placed where the error is deepest: number of clicks -> Dice."""
    points: list[tuple[int, ...]] = []
    labels: list[int] = []
    mask = np.zeros_like(truth)
    found: dict[int, float] = {}
    for number in range(1, count + 1):
        error = truth ^ mask
        if error.any():
            point = deepest_point(error)
            points.append(point)
            labels.append(int(truth[point]))
            mask = predictor.predict(points=points, labels=labels).mask > 0
        found[number] = dice_of(mask, truth)
    return found


def deepest_point(region: np.ndarray) -> tuple[int, ...]:
    """Voxel of a bool array (I, J, K) that lies deepest in it, about."""
    filled = [np.flatnonzero(region.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = np.array([max(0, int(f[0]) - 9) for f in filled])
    part = region[tuple(slice(int(a), int(f[-1]) + 10) for a, f in zip(low, filled, strict=True))]
    even = np.pad(part, [(0, max(SMALLEST_REGION, n + n % 2) - n) for n in part.shape])
    points, _ = sample_points(torch.from_numpy(even)[None], torch.Generator().manual_seed(0), 1.0)
    return tuple(int(v) for v in points[0].numpy() + low)


def dice_of(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two bool arrays; 1 where both are empty."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def probe_demo(predictor: Predictor) -> float:
    """Mean agreement on the organs of the volume that ships, after the last of their prompts."""
    from .. import demo
    from ..io import read_volume

    predictor.set_image(demo.IMAGE)
    reference = read_volume(demo.LABELS).array
    scores = [
        demo.agreement(predictor.predict(**thing.rounds()[-1]).mask, reference == thing.label_value)
        for thing in demo.OBJECTS
    ]
    return float(np.mean(scores))
