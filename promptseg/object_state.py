"""The state of one object: which prompts it has seen, what was drawn, and the mask on the image's voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .boxes import Box, union_box
from .drawing import Drawing
from .interaction import Interaction
from .native_mask import NativeMask
from .prompts import PromptSet
from .strokes import Stroke
from .tiles import TileLattice


@dataclass(frozen=True)
class ObjectState:
    """An object between two prompts; immutable, so that undo is keeping the last one.

    Attributes:
        prompts: seen so far.
        drawing: logits and scores.
        mask: on the image's canonical voxels.
        changed: half-open box of canonical voxels outside which the last step left the mask as it was.
    """

    prompts: PromptSet
    drawing: Drawing
    mask: NativeMask
    changed: Box


@dataclass(frozen=True)
class Round:
    """One more prompt.

    Attributes:
        prompts: all so far, the new one among them.
        box: half-open box of canonical voxels around the new one.
        includes: whether it marks the object, and not what lies beside it.
    """

    prompts: PromptSet
    box: Box
    includes: bool


def advance(
    interaction: Interaction,
    last: ObjectState | None,
    prompts: PromptSet,
    handed_over: ObjectState | None = None,
    history: History | None = None,
) -> ObjectState:
    """Plays the prompts that an object has not seen yet, or all of them.

    Args:
        interaction: of the image.
        last: the object before; None for none.
        prompts: all of them.
        handed_over: an object to go on from instead: its own prompts stay, and those that it has not seen are played,
            the newest in any case.
        history: earlier states to go back to; the new ones are added.

    Returns:
        The object; ``changed`` bounds where its mask differs from the one before.

    Raises:
        ValueError: if no prompt says where the object is, or none but a name goes on from what is handed over.
    """
    history = History() if history is None else history
    if handed_over is not None:
        state = last = handed_over
        prompts = joined(last.prompts, prompts)
        is_continued = is_continuation(last.prompts, prompts)
        rounds = (rounds_after(last.prompts, prompts) if is_continued else []) or [newest_round(prompts)]
        history.clear()  # of the same prompts, other masks
    elif last is not None and is_continuation(last.prompts, prompts):
        state, rounds = last, rounds_after(last.prompts, prompts)
    else:
        state = history.find(prompts) or open_object(interaction, opening_prompts(prompts))
        rounds = rounds_after(state.prompts, prompts)
    goes_on = last is not None and state.mask is last.mask
    history.add(state)
    for new in rounds:
        state = correct_object(interaction, state, new)
        history.add(state)
    if not goes_on:
        changed = covering_box(last, state)
    elif len(rounds) == 1:
        changed = state.changed
    else:
        assert last is not None
        changed = changed_box(last, state)
    return replace(state, changed=changed)


class History:
    """Earlier states of the objects of an image, the newest last: what it takes to undo a prompt, or turn to another
    object and back, without playing everything again.

    Args:
        max_states: that are kept.
        max_bytes: that their masks may take; the newest stays however large.
    """

    def __init__(self, max_states: int = 64, max_bytes: int = 2**28) -> None:
        self.max_states, self.max_bytes = max_states, max_bytes
        self._states: list[ObjectState] = []

    def __len__(self) -> int:
        return len(self._states)

    def add(self, state: ObjectState) -> None:
        """Keeps a state, and lets the oldest go where there is no room."""
        self._states = [s for s in self._states if s is not state] + [state]
        while len(self) > 1 and (len(self) > self.max_states or sum(map(_num_bytes, self._states)) > self.max_bytes):
            del self._states[0]

    def find(self, prompts: PromptSet) -> ObjectState | None:
        """The state that has seen most of some prompts, in their order, and nothing else; None where there is none."""
        found = [s for s in self._states if is_continuation(s.prompts, prompts)]
        return max(found, key=lambda s: len(s.prompts.points) + len(s.prompts.strokes), default=None)

    def clear(self) -> None:
        """Forgets all of them."""
        self._states = []


def _num_bytes(state: ObjectState) -> int:
    canvases = [state.drawing.canvas, *(canvas for _, canvas in state.drawing.candidates)]
    return state.mask.part.nbytes + sum(canvas.logits.nbytes for canvas in canvases)


def open_object(interaction: Interaction, prompts: PromptSet) -> ObjectState:
    """First drawing for the opening prompts.

    Raises:
        ValueError: if no prompt says where the object is.
    """
    drawing = interaction.start(prompts)
    if prompts.mask is None:
        return state_of(interaction.lattice, drawing, prompts)
    mask = NativeMask.of_prompt(prompts)  # what the user has drawn stays as it is
    return ObjectState(prompts, interaction.keep(drawing, prompts), mask, mask.box)


def state_of(lattice: TileLattice, drawing: Drawing, prompts: PromptSet) -> ObjectState:
    """The state of an object that was drawn as a whole, with every click respected."""
    drawing = replace(
        drawing,
        canvas=drawing.canvas.enforce(prompts.points, prompts.labels),
        candidates=tuple((s, c.enforce(prompts.points, prompts.labels)) for s, c in drawing.candidates),
    )
    shape = np.array(lattice.shape)
    mask = NativeMask.of_canvas(drawing.canvas, shape).trimmed().with_clicks(prompts.points, prompts.labels, shape)
    return ObjectState(prompts, drawing, mask, mask.box)


def correct_object(interaction: Interaction, state: ObjectState, new: Round) -> ObjectState:
    """The object after one more prompt; only what may have changed is rendered again."""
    prompts = new.prompts
    drawing = interaction.correct(state.drawing, prompts, new.box, new.includes)
    reach = drawing.changed if drawing.canvas.level == state.drawing.canvas.level else None
    if reach is None and prompts.mask is None:
        after = state_of(interaction.lattice, drawing, prompts)
        return replace(after, changed=changed_box(state, after))
    shape = np.array(interaction.lattice.shape)
    canvas = drawing.canvas.enforce(prompts.points, prompts.labels)
    low, high = (np.zeros(3), shape) if reach is None else reach
    region = (np.clip(np.floor(low), 0, shape).astype(int), np.clip(np.ceil(high), 0, shape).astype(int))
    drawn = NativeMask.of_canvas(canvas, shape, region)
    if prompts.mask is None:
        mask = state.mask.replaced(region, drawn)
    else:  # the user's own mask is finer than what is drawn: it changes where the drawing does
        mask = state.mask.changed_as(NativeMask.of_canvas(state.drawing.canvas, shape, region), drawn)
    mask = mask.with_clicks(prompts.points, prompts.labels, shape)
    after = ObjectState(prompts, replace(drawing, canvas=canvas, candidates=()), mask, region)
    clicked = np.clip(np.rint(prompts.points), 0, shape - 1).astype(int)
    for voxel in clicked:  # those of a mask that was handed over may lie elsewhere
        if state.mask.value(voxel) != mask.value(voxel):
            region = union_box(region, (voxel, voxel + 1))
    return replace(after, changed=changed_box(state, after, region))


def changed_box(before: ObjectState, after: ObjectState, region: Box | None = None) -> Box:
    """Half-open box of canonical voxels in which two states' masks differ, empty where they do not.

    Args:
        before: a state.
        after: another.
        region: box outside which they are known to be equal; None for none.
    """
    low = after.mask.low
    return before.mask.difference_box(after.mask, region) or (low, low)


def covering_box(before: ObjectState | None, after: ObjectState) -> Box:
    """Half-open box of canonical voxels that holds the masks of two objects."""
    boxes = [s.mask.box for s in (before, after) if s is not None and s.mask.part.size]
    return union_box(boxes[0], boxes[-1]) if boxes else after.mask.box


def opening_prompts(prompts: PromptSet) -> PromptSet:
    """What an object is opened with: name, boxes, mask; without the latter two, prompts up to the first that includes.

    It depends on nothing but the prompts, so that playing them at once or one after the other is the same; but for a
    name, which alone is looked for everywhere, and beside a click only where the click is.
    """
    nothing = replace(prompts, points=prompts.points[:0], labels=prompts.labels[:0], strokes=())
    if prompts.boxes or prompts.mask is not None:
        return nothing
    for number, stroke in enumerate(prompts.strokes):
        if stroke.label == 1:
            return replace(nothing, strokes=prompts.strokes[: number + 1])
    included = np.flatnonzero(prompts.labels == 1)
    if prompts.text and not len(included):
        return nothing
    count = int(included[0]) + 1 if len(included) else len(prompts.labels)
    return replace(nothing, points=prompts.points[:count], labels=prompts.labels[:count])


def rounds_after(seen: PromptSet, prompts: PromptSet) -> list[Round]:
    """One round for each stroke and point not in ``seen``: strokes first, each kind in its order."""
    rounds: list[Round] = []
    upto = seen
    for stroke in new_strokes(seen.strokes, prompts.strokes) or ():
        upto = replace(upto, strokes=(*upto.strokes, stroke))
        rounds.append(_round(upto, stroke.voxels, stroke.label))
    for count in range(len(seen.points) + 1, len(prompts.points) + 1):
        upto = replace(upto, points=prompts.points[:count], labels=prompts.labels[:count])
        rounds.append(_round(upto, prompts.points[count - 1 : count], int(prompts.labels[count - 1])))
    return rounds


def joined(seen: PromptSet, prompts: PromptSet) -> PromptSet:
    """The prompts of an object that is handed over with those that are given beside it, each once.

    Args:
        seen: by the object.
        prompts: given now: all of the object's, with new ones, or new ones alone. A point at the voxel of one that was
            seen takes its place.
    """
    if is_continuation(seen, prompts):
        return prompts
    is_given_anew = np.array([_is_among(point, prompts.points) for point in seen.points], dtype=bool)
    points = np.concatenate([seen.points[~is_given_anew], prompts.points])
    labels = np.concatenate([seen.labels[~is_given_anew], prompts.labels])
    strokes = (*(s for s in seen.strokes if not any(_is_same(s, new) for new in prompts.strokes)), *prompts.strokes)
    boxes = prompts.boxes or seen.boxes
    named = prompts if prompts.text else seen
    whole = replace(seen, points=points, labels=labels, strokes=strokes, boxes=boxes)
    return replace(whole, text=named.text, structure=named.structure)


def _is_among(point: np.ndarray, points: np.ndarray) -> bool:
    return bool((points == point).all(axis=1).any())


def newest_round(prompts: PromptSet) -> Round:
    """The last point, else the last stroke, else the last box, as a round.

    Raises:
        ValueError: if there is none of them.
    """
    if len(prompts.points):
        return _round(prompts, prompts.points[-1:], int(prompts.labels[-1]))
    if prompts.strokes:
        return _round(prompts, prompts.strokes[-1].voxels, prompts.strokes[-1].label)
    if not prompts.boxes:
        raise ValueError("mask: an earlier answer alone changes nothing; add a point, box, scribble or lasso")
    return Round(prompts, prompts.boxes[-1], includes=True)


def _round(prompts: PromptSet, voxels: np.ndarray, label: int) -> Round:
    return Round(prompts, (voxels.min(axis=0), voxels.max(axis=0) + 1), label == 1)


def new_strokes(seen: tuple[Stroke, ...], strokes: tuple[Stroke, ...]) -> list[Stroke] | None:
    """Scribbles and lassos beyond those seen; None if one that was seen is missing or has changed."""
    found: list[Stroke] = []
    for kind in ("scribble", "lasso"):
        before, now = ([s for s in group if s.kind == kind] for group in (seen, strokes))
        if len(before) > len(now) or not all(_is_same(a, b) for a, b in zip(before, now, strict=False)):
            return None
        found += now[len(before) :]
    return found


def _is_same(first: Stroke, second: Stroke) -> bool:
    return first.label == second.label and np.array_equal(first.voxels, second.voxels)


def is_continuation(seen: PromptSet, prompts: PromptSet) -> bool:
    """Whether ``prompts`` repeats ``seen`` and perhaps adds points or strokes."""
    count = len(seen.points)
    return (
        count <= len(prompts.points)
        and np.array_equal(seen.points, prompts.points[:count])
        and np.array_equal(seen.labels, prompts.labels[:count])
        and new_strokes(seen.strokes, prompts.strokes) is not None
        and len(seen.boxes) == len(prompts.boxes)
        and all(np.array_equal(a, b) for a, b in zip(seen.boxes, prompts.boxes, strict=True))
        and seen.text == prompts.text
        and _has_same_mask(seen, prompts)
    )


def _has_same_mask(seen: PromptSet, prompts: PromptSet) -> bool:
    if seen.mask is None or prompts.mask is None:
        return seen.mask is prompts.mask
    if seen.mask_is_logits or prompts.mask_is_logits:
        return False  # the user's own memory, which may have been changed in place
    return np.array_equal(seen.mask_low, prompts.mask_low) and np.array_equal(seen.mask, prompts.mask)
