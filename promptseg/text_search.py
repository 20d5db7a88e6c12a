"""Words as prompts on a whole volume: one structure, or all that the weights know, without a click."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from .engine import TileEngine
from .label_prediction import LabelPrediction, LabelRequest, assemble
from .prompts import PromptSet
from .search import Finding, find_structures
from .structures import Structure, parts_among, text_tokens

logger = logging.getLogger(__name__)


def find_named(engine: TileEngine, structures: Sequence[Structure], is_averaged: bool = True) -> list[Finding]:
    """Looks for structures by their names; see :func:`promptseg.search.find_structures`."""
    tokens = text_tokens(engine.model, structures)
    return find_structures(engine, [s.extent_mm for s in structures], tokens, is_averaged)


def segment_structures(
    engine: TileEngine, structures: Sequence[Structure], is_averaged: bool = True
) -> LabelPrediction:
    """Looks for structures by their names, and draws those that are there into one label map.

    Args:
        engine: image and model.
        structures: label values are their numbers, from 1.
        is_averaged: more exact, and slower; see :func:`promptseg.search.find_structures`.
    """
    started, encoded = time.perf_counter(), engine.num_encoded
    found = find_named(engine, structures, is_averaged)
    requests = [
        LabelRequest(number, structure.name, named(PromptSet(), structure))
        for number, structure in enumerate(structures, 1)
    ]
    parts = {whole + 1: [n + 1 for n in numbers] for whole, numbers in parts_among(structures).items()}
    result = assemble(engine, requests, found, 0.0, engine.num_encoded - encoded, parts, by_score=True)
    missing = [r.name for r, f in zip(requests, found, strict=True) if f.canvas is None]
    if missing:
        logger.info("not found: %s", ", ".join(missing))
    return replace(result, seconds=time.perf_counter() - started)


def named(prompts: PromptSet, structure: Structure) -> PromptSet:
    """Prompts of an object with the structure that it is."""
    return replace(prompts, text=(structure.name,), structure=structure)
