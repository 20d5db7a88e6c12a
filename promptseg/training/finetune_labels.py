"""Which labels of a set of cases are learned, and what they are called."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..data.crops import TrainingVolume

logger = logging.getLogger(__name__)

NO_STRUCTURES = ("background", "ignore")
"""Names that nnU-Net gives to values which are no structure."""


def label_names(labels: str | Path, stated: str | None = None) -> dict[int, str]:
    """What label values mean: as stated, ``1=liver,2=tumour``, or from a ``dataset.json`` beside or above the labels.

    Understood are value to name (Medical Segmentation Decathlon) and name to value (nnU-Net).

    Raises:
        ValueError: for a statement of another form.
    """
    if stated is not None:
        pairs = [pair.partition("=") for pair in stated.split(",")]
        if not all(value.strip().isdecimal() and int(value) > 0 and name.strip() for value, _, name in pairs):
            raise ValueError(f"names={stated!r}: expected such as 1=liver,2=tumour")
        names = {int(value): name.strip() for value, _, name in pairs}
        if not len(names) == len(set(names.values())) == len(pairs):
            raise ValueError(f"names={stated!r}: a value or a name is there twice; give each once")
        return names
    for folder in (Path(labels), Path(labels).resolve().parent):
        path = folder / "dataset.json"
        if path.is_file():
            return _names_in(path)
    return {}


def _names_in(path: Path) -> dict[int, str]:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
        pairs: list[tuple[Any, Any]] = [(v, k) if isinstance(v, (int, list)) else (k, v) for k, v in values.items()]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has no readable names ({error}); repair it, or give names such as 1=liver") from error
    names = {int(v): str(k) for v, k in pairs if isinstance(v, int) or str(v).isdecimal()}
    if regions := [str(k) for v, k in pairs if isinstance(v, list)]:
        logger.warning("%s: %s stand for several values and are not learned as such", path, ", ".join(regions))
    return {value: name for value, name in names.items() if value > 0 and name.lower() not in NO_STRUCTURES}


def choose_names(
    names: dict[int, str], training: list[TrainingVolume], validation: list[TrainingVolume], is_stated: bool
) -> dict[int, str]:
    """Names of the labels to learn, empty for all as they are; says which are not learned, and which not measured.

    Args:
        names: label value -> name.
        training: cases.
        validation: cases held out.
        is_stated: the names are the user's own, and not found in a file.

    Raises:
        ValueError: if none of the names that the user states occurs.
    """
    learned = _values(training)
    unlearned = {value for volume in (*training, *validation) for value in volume.boxes_mm} - learned
    known = {value for value in names if value in learned}
    if names and not known:
        found = ", ".join(map(str, sorted(learned))) or "none"
        if is_stated:
            raise ValueError(f"names={names}: none of these values is in the training cases, which have {found}")
        logger.warning("none of the named labels is in the training cases, which have %s: names are not used", found)
    if known and (others := learned - known):
        logger.warning("label values %s have no name, and are taken as background", _listed(others))
    absent = {value for value in names if value not in learned} if known else set()
    if missing := unlearned | absent:
        shown = ", ".join(f"{value} ({names[value]})" if value in names else str(value) for value in sorted(missing))
        logger.warning("not learned: label %s, of which no training case has 8 voxels or more", shown)
    unmeasured = (known or learned) - _values(validation)
    if validation and unmeasured:
        logger.warning("label values %s are in no held-out case: nothing is measured on them", _listed(unmeasured))
    return names if known else {}


def _values(volumes: Iterable[TrainingVolume]) -> set[int]:
    return {value for volume in volumes for value in volume.objects}


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
