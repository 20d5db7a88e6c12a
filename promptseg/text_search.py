"""Words as prompts on a whole volume: one structure, or all that the weights know, without a click."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .atlas_search import draw_by_atlas
from .drawing import Drawing, InteractionConfig
from .engine import TileEngine
from .label_prediction import LabelPrediction, LabelRequest, assemble
from .prompts import PromptSet
from .quality import calibration_for
from .search import Finding, find_structures, place_of
from .structures import Structure, parts_among, text_tokens

logger = logging.getLogger(__name__)

MIN_POINTED_PRESENCE = 0.9
"""Estimated probability of being there from which on what was not drawn by its name is pointed at."""
HARDLY_DRAWN = 1 / 3
"""Largest side of a mask, relative to the structure's usual one, below which it counts as not drawn."""
SCORE_WEIGHT = 4.0
"""What the log odds of a structure's estimated IoU count beside its logits, where structures overlap."""
PRESENCE_WEIGHT = 1.0
"""What the log odds of its being there count."""
CASES_WEIGHT = 1.0
"""What the logarithm of the number of training cases that showed it counts."""
SIZE_WEIGHT = 2.0
"""What the logarithm of its volume counts against it: what is small would vanish behind what surrounds it."""


def find_named(
    engine: TileEngine,
    structures: Sequence[Structure],
    is_averaged: bool = True,
    config: InteractionConfig | None = None,
) -> list[Finding]:
    """Looks for structures by their names: where an atlas says that they are, else :func:`.search.find_structures`.

    A structure that is seen and not drawn, or hardly, is drawn as if the place where it is seen best had been clicked;
    with ``is_averaged``, one that is large is drawn a level finer in the end.
    """
    from .interaction import Interaction

    interaction = Interaction(engine, config)
    placed = draw_by_atlas(interaction, structures)
    sought = [number for number in range(len(structures)) if number not in placed]
    found = [placed.get(number, Finding()) for number in range(len(structures))]
    if not sought:
        return found
    tokens = text_tokens(engine.model, structures)
    looked = find_structures(engine, [structures[n].extent_mm for n in sought], tokens[sought], is_averaged)
    spacing_mm = np.array(engine.lattice.spacing_mm)
    for number, finding in zip(sought, looked, strict=True):
        structure = structures[number]
        box = None if finding.canvas is None else finding.canvas.box_vox()
        is_drawn = box is not None and ((box[1] - box[0]) * spacing_mm).max() >= HARDLY_DRAWN * structure.extent_mm
        prompts = named(PromptSet(), structure)
        if not is_drawn and finding.place_vox is not None and finding.presence >= MIN_POINTED_PRESENCE:
            place = place_of(engine, finding, structure.extent_mm, tokens[number : number + 1])
            prompts = replace(prompts, points=place[None], labels=np.array([1]))
            drawing = interaction.start(prompts)
            if drawing.canvas.box_vox() is not None:
                finding = replace(finding, canvas=drawing.canvas, score=drawing.score)
        if is_averaged and finding.canvas is not None:
            drawing = interaction.in_parts(Drawing(finding.canvas, finding.score, finding.presence), prompts)
            finding = replace(finding, canvas=drawing.canvas)
        found[number] = finding
    return found


def segment_structures(
    engine: TileEngine,
    structures: Sequence[Structure],
    is_averaged: bool = True,
    config: InteractionConfig | None = None,
) -> LabelPrediction:
    """Looks for structures by their names, and draws those that are there into one label map.

    Args:
        engine: image and model.
        structures: label values are their numbers, from 1.
        is_averaged: more exact, and slower; see :func:`promptseg.search.find_structures`.
        config: of the choice of tiles.
    """
    started, encoded = time.perf_counter(), engine.num_encoded
    found = find_named(engine, structures, is_averaged, config)
    requests = [
        LabelRequest(number, structure.name, named(PromptSet(), structure))
        for number, structure in enumerate(structures, 1)
    ]
    parts = {whole + 1: [n + 1 for n in numbers] for whole, numbers in parts_among(structures).items()}
    trusted = advantages(structures, found)
    calibration = calibration_for(engine.model.config, is_named=True)
    result = assemble(engine, requests, found, 0.0, engine.num_encoded - encoded, parts, trusted, calibration)
    missing = [r.name for r, f in zip(requests, found, strict=True) if f.canvas is None]
    if missing:
        logger.info("not found: %s", ", ".join(missing))
    return replace(result, seconds=time.perf_counter() - started)


def advantages(structures: Sequence[Structure], found: Sequence[Finding]) -> dict[int, float]:
    """What each of several structures has over the least trusted one where they overlap, in logits, by label value.

    Structures that were learnt from different data sets were never drawn against each other, so that their logits alone
    do not compare. What counts beside them is how good the mask and how sure the presence is, how many training cases
    showed the structure, as what the weights know from two cases they see in many places, and how small it is.
    """
    trust = {
        number: SCORE_WEIGHT * _log_odds(finding.score)
        + PRESENCE_WEIGHT * _log_odds(finding.presence)
        + CASES_WEIGHT * math.log(structure.cases or 1)
        - SIZE_WEIGHT * math.log(max(1.0, finding.canvas.volume_ml))
        for number, (structure, finding) in enumerate(zip(structures, found, strict=True), 1)
        if finding.canvas is not None
    }
    return {number: value - min(trust.values()) for number, value in trust.items()}


def _log_odds(probability: float) -> float:
    return math.log(max(probability, 1e-4) / max(1 - probability, 1e-4))


def named(prompts: PromptSet, structure: Structure) -> PromptSet:
    """Prompts of an object with the structure that it is."""
    return replace(prompts, text=(structure.name,), structure=structure)
