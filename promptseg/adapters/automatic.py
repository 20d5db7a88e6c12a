"""Automatic mode: the labels that adapters were tuned for, on a whole volume, without a prompt."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..engine import TileEngine
from ..label_prediction import LabelPrediction, LabelRequest, assemble
from ..prompts import PromptSet
from ..search import find_structures
from ..structures import warn_of_guessed_sides
from .config import AdapterLabel

logger = logging.getLogger(__name__)


def predict_labels(
    engine: TileEngine, labels: Mapping[AdapterLabel, Tensor], names: Sequence[str] | None = None
) -> LabelPrediction:
    """Finds and draws labels.

    Args:
        engine: image, and the model with the adapters on.
        labels: label -> learned tokens (T, C); see :attr:`~promptseg.adapters.AdapterStack.labels`.
        names: which; None for all.

    Raises:
        ValueError: if there is none with tokens, or a name is not known.
    """
    started, encoded = time.perf_counter(), engine.num_encoded
    usable = {label: tokens for label, tokens in labels.items() if tokens.numel()}
    if not usable:
        raise ValueError(
            "no adapter with an automatic mode is on: load one that was tuned with labels, or give a prompt"
        )
    known = {label.name: label for label in usable}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"names={unknown}: the adapters that are on know {', '.join(known)}")
    chosen = [label for label in usable if names is None or label.name in names]
    warn_of_guessed_sides(engine.volume, [label.name for label in chosen])
    tokens = torch.stack([usable[label] for label in chosen])
    found = find_structures(engine, [label.extent_mm for label in chosen], tokens, is_averaged=True)
    for label, finding in zip(chosen, found, strict=True):
        if finding.canvas is None:
            logger.info("%s was not found (presence %.2f)", label.name, finding.presence)
    requests = [LabelRequest(label.value, label.name, PromptSet()) for label in chosen]
    seconds = time.perf_counter() - started
    return assemble(engine, requests, found, seconds, engine.num_encoded - encoded)
