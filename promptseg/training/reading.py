"""The data of a run: from a store, or from a folder of data sets into memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..data.pool import TrainingPool
from ..data.structures import measure_terms
from ..models.config import ModelConfig, TextTerm
from ..text import load_bank

if TYPE_CHECKING:
    from .config import PretrainConfig


def read_pool(config: PretrainConfig, fold: str = "train", skip_empty: bool = False) -> TrainingPool:
    """The cases of a fold.

    Args:
        config: of the run.
        fold: ``validation`` and ``test`` are never trained on.
        skip_empty: leave out groups without cases in the fold, and cases without labels where that can be known.

    Raises:
        ValueError: if data are missing; the message names them.
    """
    if config.store:
        from ..data.volumes import open_pool

        return open_pool(config.store, config.data_weights, config.model.preprocessing, fold, skip_empty=skip_empty)
    from ..data.folder_pool import load_pool

    return load_pool(
        config.data_root,
        config.data_weights,
        config.model.preprocessing,
        fold,
        skip_empty=skip_empty,
        catalogs=config.catalogs,
    )


def with_terms(model: ModelConfig, pool: TrainingPool, earlier: tuple[TextTerm, ...] = ()) -> ModelConfig:
    """The configuration of weights that a pool teaches to find structures by name.

    Args:
        model: without terms.
        pool: what is trained on.
        earlier: terms that the weights knew before; the pool's sizes win.
    """
    terms = {term.name: term for term in earlier}
    for name, (extent_mm, cases) in measure_terms(pool).items():
        terms[name] = TextTerm(name, round(extent_mm, 1), cases)
    if not terms:
        return model
    chosen = tuple(terms[name] for name in sorted(terms))
    return dataclasses.replace(model, text_terms=chosen, text_encoder=load_bank().encoder.weights_sha256)
