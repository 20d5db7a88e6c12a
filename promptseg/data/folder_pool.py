"""A pool in memory, read from a folder of described data sets: for data that fit, with nothing to prepare."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ..preprocessing import PreprocessingConfig
from .catalog import Case, Catalog
from .catalog_loader import load_catalog
from .crops import TrainingVolume
from .pool import TrainingPool
from .volumes import load_volume

logger = logging.getLogger(__name__)
MAX_READERS = min(8, os.cpu_count() or 1)
"""Cases that are read at a time; unpacking and sorting leave Python to others meanwhile."""


def load_pool(
    root: str | Path,
    weights: Mapping[str, float],
    preprocessing: PreprocessingConfig,
    fold: str = "train",
    max_cases: int | None = None,
    skip_empty: bool = False,
    catalogs: str | Path = "",
) -> TrainingPool:
    """Loads one fold of the data sets that have a weight.

    Args:
        root: folder of data sets, each with a ``catalog.yaml`` or a ``dataset.json``.
        weights: group -> weight; a group is ``name`` or ``name:modality``.
        preprocessing: the model's.
        fold: which cases; ``validation`` and ``test`` are never trained on.
        max_cases: at most so many cases of a group (for tests and dry runs).
        skip_empty: leave out groups without cases in the fold, and volumes without labels, as validation does.
        catalogs: folder of catalogs ``name.yaml`` that describe the data sets better than what lies beside them.

    Raises:
        ValueError: for a group without cases, unless those are skipped; if nothing is left; for a data set or a folder
            of catalogs that is not there.
    """
    root = Path(root)
    if catalogs and not Path(catalogs).is_dir():
        raise ValueError(f"catalogs={str(catalogs)!r}: no such folder; give one of NAME.yaml files, or leave it out")
    groups: dict[str, list[TrainingVolume]] = {}
    for group in weights:
        name, _, modality = group.partition(":")
        catalog = _catalog_of(root, name, catalogs)
        cases = [case for case in catalog.cases() if _is_wanted(case, fold, modality, skip_empty)][:max_cases]
        if not cases:
            if skip_empty:
                continue
            raise ValueError(f"data set group {group!r} has no case in fold {fold!r} under {root}")
        with ThreadPoolExecutor(MAX_READERS) as readers:
            groups[group] = list(readers.map(partial(load_volume, catalog, preprocessing=preprocessing), cases))
        logger.info("%s: %d cases", group, len(cases))
    if not groups:
        raise ValueError(f"no case in fold {fold!r} under {root}; name data sets in data_weights")
    total = sum(weights[g] for g in groups)
    return TrainingPool(groups, {g: weights[g] / total for g in groups})


def _catalog_of(root: Path, name: str, catalogs: str | Path) -> Catalog:
    """The catalog of a data set: from the folder of catalogs, else beside the data."""
    beside = [root / name / "catalog.yaml", root / name / "dataset.json"]
    better = [Path(catalogs) / f"{name}.yaml"] if catalogs else []
    for path in (*better, *beside):
        if path.is_file():
            return load_catalog(path, root / name if path in better else None)
    raise ValueError(
        f"data set {name!r}: no {' nor '.join(str(path) for path in beside)}; set data_root, or take it out of "
        "data_weights"
    )


def _is_wanted(case: Case, fold: str, modality: str, needs_labels: bool) -> bool:
    return case.fold == fold and modality in ("", case.modality) and bool(case.labels or not needs_labels)
