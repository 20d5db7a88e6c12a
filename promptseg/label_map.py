"""One label map of several objects' logits, drawn slab by slab: memory does not grow with the number of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .boxes import Box, box_slices, intersect_box
from .canvas import Canvas

SLAB = 32
"""Voxels along the first axis that are written at a time, so that memory does not grow with the volume."""


def render_labels(
    shape: Sequence[int],
    canvases: Mapping[int, Canvas],
    parts: Mapping[int, Sequence[int]] | None = None,
    advantages: Mapping[int, float] | None = None,
) -> tuple[np.ndarray, dict[int, int]]:
    """Draws objects into one label map.

    Where objects overlap, a part has the voxel before the whole that it is part of, and of all others the one with the
    largest logit has it, which is the one that the model is surest of; objects may be given an advantage in that.

    Args:
        shape: (3,) of the canonical volume.
        canvases: label value -> logits.
        parts: label value of a whole -> label values of its parts; None for none.
        advantages: label value -> what is added to an object's logits where it overlaps others, 0 or more; None for 0.

    Returns:
        (n0, n1, n2) canonical voxels, uint8, or uint16 where a value needs it; and label value -> voxels of the
        object alone, covered or not. Cost: linear in the objects' boxes.
    """
    whole = tuple(int(n) for n in shape)
    found = np.zeros(whole, dtype=np.uint8 if max(canvases, default=0) < 256 else np.uint16)
    sizes = dict.fromkeys(canvases, 0)
    boxes = {value: _reach(canvas, whole) for value, canvas in canvases.items()}
    for first in range(0, whole[0], SLAB):
        slab = (np.array([first, 0, 0]), np.array([min(first + SLAB, whole[0]), *whole[1:]]))
        best = np.zeros(tuple(slab[1] - slab[0]), dtype=np.float16)
        for value, canvas in canvases.items():
            region = intersect_box(boxes[value], slab)
            if region is None:
                continue
            logits = canvas.sample(*region).clamp(max=3e4).numpy().astype(np.float16)
            sizes[value] += int(np.count_nonzero(logits > 0))
            for part in (parts or {}).get(value, ()):
                _leave_out(logits, region, canvases.get(part), boxes.get(part))
            logits[logits > 0] += np.float16((advantages or {}).get(value, 0.0))
            view = best[box_slices(region[0] - slab[0], region[1] - slab[0])]
            wins = logits > view
            view[wins] = logits[wins]
            found[box_slices(*region)][wins] = value
    return found, sizes


def _reach(canvas: Canvas, shape: tuple[int, ...]) -> Box:
    """Half-open box of whole voxels in which a canvas's interpolated logits may be positive."""
    low, high = canvas.box_vox() or (np.zeros(3), np.zeros(3))
    margin = np.ceil(canvas.lattice.step_vox(canvas.level)) if (high > low).all() else np.zeros(3)
    return np.clip(np.floor(low - margin), 0, shape).astype(int), np.clip(np.ceil(high + margin), 0, shape).astype(int)


def _leave_out(logits: np.ndarray, region: Box, canvas: Canvas | None, reach: Box | None) -> None:
    """Makes logits in a region negative where another object is."""
    shared = None if canvas is None or reach is None else intersect_box(region, reach)
    if canvas is None or shared is None:
        return
    view = logits[box_slices(shared[0] - region[0], shared[1] - region[0])]
    view[(canvas.sample(*shared) > 0).numpy()] = -1.0
