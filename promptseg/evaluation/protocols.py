"""The protocols: which prompt the simulated user gives first, and how it goes on.

===========  ==========================================================  ==================================  =======
protocol     opens with                                                  corrects with                       steps
===========  ==========================================================  ==================================  =======
``clicks``   a click at the deepest point of the largest component       clicks, depth in mm                 1 to 10
``cvpr25``   the box of the middle slice with the range of slices        the challenge's clicks              0 to 5
``box``      a tight 3D box                                              nothing (clicks, if asked for)      0
``scribble`` a line through the object                                   lines through the largest error     1 to 5
``mask``     a mask corrupted to a Dice of 0.7                           clicks, depth in mm                 0 to 5
``text``     the object's name                                           nothing (clicks, if asked for)      0
``named``    the object's name, with the first click of ``clicks``       clicks, depth in mm                 1 to 10
``auto``     nothing: everything that is known is looked for             nothing                             0
===========  ==========================================================  ==================================  =======

Sources: ``clicks`` follows the deepest-point users of f-BRS (Sofiiuk et al., CVPR 2020) and RITM (arXiv:2102.06583),
whose number of clicks to reach a quality (NoC) is reported; ``cvpr25`` is "CVPR 2025: Foundation Models for Interactive
3D Biomedical Image Segmentation", CVPR25_iter_eval.py and get_boxes.py in github.com/JunMa11/CVPR-MedSegFMCompetition;
``scribble`` follows the centre-line user of ScribblePrompt (arXiv:2312.07381) with one line instead of many;
``mask``, ``text``, ``named`` and ``auto`` are defined here; ``named`` differs from ``clicks`` in the name alone, so
that ``promptseg compare`` of the two says what a name adds to a click. Objects whose name is not in the vocabulary are
left out of these three. In ``text`` and ``auto``, structures that are known to be absent are asked for, too. In
``mask``, step 0 scores the mask that is handed over.

Every object of a case is simulated alone. The random choices (the box's shift, the corruption) depend on the seed and
the names of data set, case and object only, so neither order nor number of workers nor a resume changes them.

Nobody clicks at the deepest point of an error to the voxel. With ``--click-depth 0.4`` the clicks of ``clicks``,
``named``, ``mask``, ``box`` and ``text`` fall anywhere in the largest error that is at least 0.4 times as deep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .boxes import VoxelBox
from .click_policy import challenge_click, distance_to_outside, next_click
from .metrics import TrueObject
from .prompts import ObjectPrompts
from .simulation import challenge_box, corrupt_mask, jitter_box, jitter_point, next_scribble

ProtocolName = Literal["clicks", "cvpr25", "box", "scribble", "mask", "text", "named", "auto"]


@dataclass(frozen=True)
class Protocol:
    """What the simulated user does.

    Attributes:
        name: of the protocol.
        kinds: prompts that a segmenter must accept.
        num_corrections: steps after the opening one; for those that open with a click, the number of clicks.
        opens_with_click: whether step 1 is the first.
        corrupted_dice: of the mask that ``mask`` hands over.
        click_depth: how deep in the largest error a click lies at least, as a share of the deepest point's depth.
    """

    name: ProtocolName
    kinds: frozenset[str]
    num_corrections: int
    opens_with_click: bool = False
    corrupted_dice: float = 0.7
    click_depth: float = 1.0

    @property
    def speaks(self) -> bool:
        """Whether objects are asked for by their names."""
        return not self.kinds.isdisjoint({"text", "automatic"})

    @property
    def asks_for_absent(self) -> bool:
        """Whether structures that are absent are asked for, too."""
        return self.speaks and not self.opens_with_click

    @property
    def first_step(self) -> int:
        """Number of the first step."""
        return 1 if self.opens_with_click else 0


PROTOCOLS: dict[str, Protocol] = {
    "clicks": Protocol("clicks", frozenset({"points"}), 10, opens_with_click=True),
    "cvpr25": Protocol("cvpr25", frozenset({"points", "box"}), 5),
    "box": Protocol("box", frozenset({"box"}), 0),
    "scribble": Protocol("scribble", frozenset({"scribbles"}), 5, opens_with_click=True),
    "mask": Protocol("mask", frozenset({"mask", "points"}), 5),
    "text": Protocol("text", frozenset({"text"}), 0),
    "named": Protocol("named", frozenset({"text", "points"}), 10, opens_with_click=True),
    "auto": Protocol("auto", frozenset({"automatic"}), 0),
}
COMPARABLE: tuple[frozenset[str], ...] = (frozenset({"clicks", "named"}), frozenset({"text", "auto"}))
"""Protocols whose steps ask for the same objects with as many clicks."""


def protocol_of(settings: Mapping[str, Any]) -> Protocol:
    """The protocol that an evaluation's settings describe."""
    return choose_protocol(settings["protocol"], settings["corrections"], settings.get("click_depth", 1.0))


def choose_protocol(name: str, num_corrections: int | None = None, click_depth: float = 1.0) -> Protocol:
    """A protocol, with another number of corrections or a less exact user if asked for.

    Args:
        name: of the protocol.
        num_corrections: None for its own.
        click_depth: see :class:`Protocol`.

    Raises:
        ValueError: for an unknown name, a negative number or a share beyond 0 to 1, or what contradicts the
            challenge's definition.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"--protocol {name}: expected one of {', '.join(PROTOCOLS)}")
    if not 0 < click_depth <= 1:
        raise ValueError(f"--click-depth {click_depth}: expected a share above 0 and up to 1")
    protocol = PROTOCOLS[name]
    if num_corrections is None:
        num_corrections = protocol.num_corrections
    if num_corrections < (1 if protocol.opens_with_click else 0):
        raise ValueError(f"--clicks {num_corrections}: expected 1 or more for protocol {name}")
    if name == "cvpr25" and num_corrections != 5:
        raise ValueError(f"--clicks {num_corrections}: protocol cvpr25 is defined with 5; use --protocol box or clicks")
    if name == "auto" and num_corrections:
        raise ValueError(f"--clicks {num_corrections}: protocol auto has none; use --protocol text")
    kinds = protocol.kinds | {"points"} if num_corrections and name in ("box", "text") else protocol.kinds
    if click_depth < 1 and (name == "cvpr25" or "points" not in kinds):
        known = ", ".join(n for n, p in PROTOCOLS.items() if n != "cvpr25" and "points" in p.kinds)
        raise ValueError(
            f"--click-depth {click_depth}: protocol {name} has exact clicks by definition, or none; it goes with "
            f"{known}, and with box and text where --clicks is given"
        )
    return replace(protocol, num_corrections=num_corrections, kinds=kinds, click_depth=click_depth)


@dataclass(frozen=True)
class Given:
    """A prompt that was just given.

    Attributes:
        prompts: all prompts of the object so far.
        kind: as in ``results.csv``.
        place: (3,) voxel it was at, for the record.
    """

    prompts: ObjectPrompts
    kind: str
    place: np.ndarray


def opening(
    protocol: Protocol,
    truth: TrueObject,
    name: str,
    box: VoxelBox | None,
    has_boxes: bool,
    generator: np.random.Generator,
) -> Given | None:
    """The first prompt of an object.

    Args:
        protocol: the user.
        truth: the object.
        name: what it is called.
        box: that comes with the case, used instead of a simulated one.
        has_boxes: False where the case says that this object gets no box.
        generator: source of randomness.

    Returns:
        The prompt; None where the protocol goes straight to the first correction.
    """
    middle = (truth.low + truth.high - 1) / 2
    if protocol.opens_with_click:
        said = ObjectPrompts(text=name if protocol.name == "named" else None)
        return correction(protocol, truth, truth.low, truth.mask, np.zeros_like(truth.mask), said, generator)
    if protocol.name == "mask":
        mask = corrupt_mask(truth, generator, protocol.corrupted_dice)
        return Given(ObjectPrompts(mask=mask), "mask", middle)
    if protocol.name == "auto":
        return Given(ObjectPrompts(text=name, is_automatic=True), "automatic", middle)
    if protocol.name == "text":
        return Given(ObjectPrompts(text=name), "text", middle)
    if not has_boxes:
        return None
    if box is None:
        box = challenge_box(truth, generator) if protocol.name == "cvpr25" else (truth.low, truth.high)
    return Given(ObjectPrompts(box=box), "box", (box[0] + box[1] - 1) / 2)


def correction(
    protocol: Protocol,
    truth: TrueObject,
    low: np.ndarray,
    true_crop: np.ndarray,
    predicted_crop: np.ndarray,
    prompts: ObjectPrompts,
    generator: np.random.Generator,
) -> Given | None:
    """The next prompt, from what is still wrong.

    Args:
        protocol: the user.
        truth: the object.
        low: (3,) first voxel of the crops.
        true_crop: (n0, n1, n2) bool.
        predicted_crop: (n0, n1, n2) bool.
        prompts: those given before.
        generator: source of randomness.

    Returns:
        The prompt; None where nothing is wrong.
    """
    origin = low.tolist()
    if protocol.name == "scribble":
        stroke = next_scribble(true_crop, predicted_crop, truth.spacing_mm.tolist(), origin)
        if stroke is None:
            return None
        kind = "scribble+" if stroke.label else "scribble-"
        return Given(prompts.with_stroke(stroke), kind, stroke.voxels[len(stroke.voxels) // 2])
    if protocol.name == "cvpr25":
        click = challenge_click(true_crop, predicted_crop, origin)
    else:
        spacing_mm = truth.spacing_mm.tolist()
        click = next_click(true_crop, predicted_crop, spacing_mm, origin, protocol.click_depth, generator)
    if click is None:
        return None
    kind = "click+" if click.label else "click-"
    return Given(prompts.with_point(click.voxel, click.label), kind, np.array(click.voxel))


def jittered(first: Given, truth: TrueObject, amount: float, generator: np.random.Generator) -> Given | None:
    """The first prompt as another user might have given it.

    Args:
        first: the prompt.
        truth: the object.
        amount: a click moves within the object by up to this share of its depth there, at least one voxel; a box's
            sides by up to a quarter of this share of their length.
        generator: source of randomness.

    Returns:
        The other prompt; None for kinds that have no jitter (scribbles, masks, text).
    """
    if first.kind == "click+":
        click = tuple(int(v) for v in first.place)
        depth_mm = float(distance_to_outside(truth.mask, truth.spacing_mm)[tuple(np.array(click) - truth.low)])
        reach_mm = max(amount * depth_mm, float(truth.spacing_mm.max()))
        i, j, k = jitter_point((click[0], click[1], click[2]), truth, reach_mm, generator)
        said = ObjectPrompts(text=first.prompts.text)
        return Given(said.with_point((i, j, k), 1), first.kind, np.array([i, j, k]))
    if first.kind == "box" and first.prompts.box is not None:
        box = jitter_box(first.prompts.box, amount / 4, truth.image_shape, generator)
        return Given(ObjectPrompts(box=box), first.kind, (box[0] + box[1] - 1) / 2)
    return None


def given_box(boxes: Mapping[int, VoxelBox] | None, label: int) -> tuple[VoxelBox | None, bool]:
    """Box of a label that comes with a case, and whether the object gets one at all."""
    return (None, True) if boxes is None else (boxes.get(label), label in boxes)
