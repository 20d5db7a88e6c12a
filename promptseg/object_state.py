"""The state of one object: which prompts it has seen, what was drawn, and the mask on the image's voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .canvas import Canvas
from .interaction import Drawing, Interaction
from .prediction import render
from .prompts import PromptSet

Box = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ObjectState:
    """An object between two prompts; immutable, so that undo is keeping the last one.

    Attributes:
        prompts: seen so far.
        drawing: logits and scores.
        low: (3,) canonical voxel of ``part``'s first.
        part: (n0, n1, n2) uint8 mask in a box that holds all of it.
        changed: half-open box of canonical voxels in which the last step changed the mask.
    """

    prompts: PromptSet
    drawing: Drawing
    low: np.ndarray
    part: np.ndarray
    changed: Box

    @property
    def high(self) -> np.ndarray:
        """(3,) one past the last voxel of ``part``."""
        return self.low + np.array(self.part.shape)


def open_object(interaction: Interaction, prompts: PromptSet) -> ObjectState:
    """First drawing for the opening prompts."""
    drawing = interaction.start(prompts)
    return _whole(interaction, drawing, prompts)


def adopt_object(interaction: Interaction, canvas: Canvas, prompts: PromptSet) -> ObjectState:
    """An object drawn before, handed back by its logits."""
    return _whole(interaction, Drawing(canvas, 0.0, 1.0), prompts)


def _whole(interaction: Interaction, drawing: Drawing, prompts: PromptSet) -> ObjectState:
    drawing = replace(drawing, canvas=drawing.canvas.enforce(prompts.points, prompts.labels))
    shape = np.array(interaction.lattice.shape)
    low, part = enforce_clicks(*render(drawing.canvas, shape), prompts, shape)
    return ObjectState(prompts, drawing, low, part, (low, low + np.array(part.shape)))


def correct_object(interaction: Interaction, state: ObjectState, prompts: PromptSet, place: np.ndarray) -> ObjectState:
    """The object after one more prompt at ``place``; only what may have changed is rendered again."""
    drawing = interaction.correct(state.drawing, prompts, place)
    enforced = drawing.canvas.enforce(prompts.points, prompts.labels)
    region = drawing.changed
    drawing = replace(drawing, canvas=enforced, candidates=())
    if region is None or enforced.level != state.drawing.canvas.level:
        new = _whole(interaction, drawing, prompts)
    else:
        shape = np.array(interaction.lattice.shape)
        low, high = (np.clip(r, 0, shape) for r in region)
        changed_low, changed_part = render(enforced, shape, (low, high))
        union_low = np.minimum(state.low, changed_low)
        union_high = np.maximum(state.high, changed_low + changed_part.shape)
        part = np.zeros(union_high - union_low, dtype=np.uint8)
        part[box_slices(state.low - union_low, state.part.shape)] = state.part
        part[box_slices(changed_low - union_low, changed_part.shape)] = changed_part
        low, part = enforce_clicks(union_low, part, prompts, shape)
        new = ObjectState(prompts, drawing, low, part, (low, low))
    return replace(new, changed=changed_box(state, new))


def changed_box(before: ObjectState, after: ObjectState) -> Box:
    """Half-open box of canonical voxels in which two states' masks differ; empty where they do not."""
    low, high = np.minimum(before.low, after.low), np.maximum(before.high, after.high)
    difference = np.zeros(high - low, dtype=np.uint8)
    difference[box_slices(before.low - low, before.part.shape)] = before.part
    difference[box_slices(after.low - low, after.part.shape)] ^= after.part
    bounds_low, bounds_high = [], []
    for axis in range(3):
        places = np.flatnonzero(difference.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(places):
            return after.low, after.low
        bounds_low.append(places[0])
        bounds_high.append(places[-1] + 1)
    return low + np.array(bounds_low), low + np.array(bounds_high)


def enforce_clicks(
    low: np.ndarray, part: np.ndarray, prompts: PromptSet, shape: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sets the voxel of every click to what its label says; grows the box where one lies outside.

    Args:
        low: (3,) first voxel of ``part``.
        part: mask.
        prompts: whose points count.
        shape: (3,) of the volume.

    Returns:
        low and mask.
    """
    if not len(prompts.points):
        return low, part
    voxels = np.clip(np.rint(prompts.points), 0, shape - 1).astype(int)
    included = voxels[prompts.labels == 1]
    high = low + np.array(part.shape)
    if len(included) and ((included < low).any() or (included >= high).any()):
        new_low = np.minimum(low, included.min(axis=0))
        new_high = np.maximum(high, included.max(axis=0) + 1)
        grown = np.zeros(new_high - new_low, dtype=np.uint8)
        grown[box_slices(low - new_low, part.shape)] = part
        low, high, part = new_low, new_high, grown
    for voxel, label in zip(voxels, prompts.labels, strict=True):
        if ((voxel >= low) & (voxel < high)).all():
            part[tuple(voxel - low)] = label
    return low, part


def box_slices(low: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices of a box that starts at ``low``."""
    return tuple(slice(int(a), int(a) + n) for a, n in zip(low, shape, strict=True))


def opening_prompts(prompts: PromptSet) -> PromptSet:
    """What an object is opened with: boxes, mask, text and strokes, and the first point."""
    return replace(prompts, points=prompts.points[:1], labels=prompts.labels[:1])


def rounds_after(seen: PromptSet, prompts: PromptSet) -> list[tuple[PromptSet, np.ndarray]]:
    """Each prompt not in ``seen``, in order: (all prompts up to it, its place in canonical voxels)."""
    rounds = []
    for count in range(len(seen.strokes) + 1, len(prompts.strokes) + 1):
        upto = replace(seen, strokes=prompts.strokes[:count])
        rounds.append((upto, prompts.strokes[count - 1].voxels.mean(axis=0)))
    for count in range(len(seen.points) + 1, len(prompts.points) + 1):
        upto = replace(prompts, points=prompts.points[:count], labels=prompts.labels[:count])
        rounds.append((upto, prompts.points[count - 1]))
    return rounds


def is_continuation(seen: PromptSet, prompts: PromptSet) -> bool:
    """Whether ``prompts`` repeats ``seen`` and perhaps adds points or strokes."""
    count = len(seen.points)
    return (
        count <= len(prompts.points)
        and np.array_equal(seen.points, prompts.points[:count])
        and np.array_equal(seen.labels, prompts.labels[:count])
        and (len(seen.points) > 0)
        >= (len(prompts.points) > 0 and not seen.strokes and not seen.boxes and seen.mask is None)
        and len(seen.strokes) <= len(prompts.strokes)
        and all(
            a.label == b.label and a.kind == b.kind and np.array_equal(a.voxels, b.voxels)
            for a, b in zip(seen.strokes, prompts.strokes, strict=False)
        )
        and len(seen.boxes) == len(prompts.boxes)
        and all(np.array_equal(a, b) for a, b in zip(seen.boxes, prompts.boxes, strict=True))
        and seen.mask_is_logits == prompts.mask_is_logits
        and (seen.mask is prompts.mask or np.array_equal(seen.mask, prompts.mask))  # type: ignore[arg-type]
        and seen.text == prompts.text
    )
