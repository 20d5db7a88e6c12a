"""What a catalog must say, and what in it contradicts: refused by name, before any file is looked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from .catalog import Catalog


def check_catalog(catalog: Catalog) -> None:
    """Refuses a catalog that is incomplete or contradicts itself.

    Raises:
        ValueError: naming the data set, the field, its value, and what is expected.
    """
    _check_texts(catalog)
    _check_patterns(catalog)
    _check_terms(catalog)
    total = sum(rule.fraction for rule in catalog.folds)
    if any(rule.fraction < 0 for rule in catalog.folds) or total > 1:
        raise ValueError(f"catalog {catalog.name}: fold fractions add up to {total}, expected shares of at most 1")


def _check_texts(catalog: Catalog) -> None:
    from .catalog import LabelFormat, Layout, RaterRule

    for key in ("name", "licence", "citation", "modality"):
        if not getattr(catalog, key):
            raise ValueError(f"catalog {catalog.name!r} has no {key}: add the line '{key}: ...'")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", catalog.name):
        raise ValueError(f"catalog name {catalog.name!r}: expected letters, digits, '_', '-' and '.'")
    choices = {"layout": get_args(Layout), "label_format": get_args(LabelFormat), "raters": get_args(RaterRule)}
    for key, known in {**choices, "unnamed_values": ("report", "expected")}.items():
        if getattr(catalog, key) not in known:
            raise ValueError(f"catalog {catalog.name}: {key}={getattr(catalog, key)!r}, expected one of {known}")
    if not 0 < catalog.threshold <= 1 or catalog.probability_scale <= 0:
        raise ValueError(
            f"catalog {catalog.name}: threshold={catalog.threshold} (above 0, to 1) or "
            f"probability_scale={catalog.probability_scale} (above 0) is out of range"
        )
    try:
        re.compile(catalog.patient)
    except re.error as error:
        raise ValueError(
            f"catalog {catalog.name}: patient={catalog.patient!r} is not a regular expression ({error}); "
            r"expected one such as '^(\d+)_'"
        ) from error


def _check_patterns(catalog: Catalog) -> None:
    if catalog.layout == "files" and not catalog.images and not catalog.labels:
        raise ValueError(f"catalog {catalog.name}: layout 'files' needs an 'images' or a 'labels' pattern")
    if catalog.label_format == "classes" and "{term" not in catalog.labels and catalog.labels:
        raise ValueError(
            f"catalog {catalog.name}: label_format 'classes' needs '{{term}}' in labels={catalog.labels!r}"
        )
    names_channel = "{channel" in catalog.images or (not catalog.images and catalog.layout in ("nnunet", "bids"))
    if names_channel or catalog.layout == "dataset_json":
        return
    if wrong := [key for key, _ in catalog.channels if not key.isdecimal()]:
        raise ValueError(
            f"catalog {catalog.name}: channels {wrong} are no numbers on the fourth axis of a file, such as 0; "
            "put {channel} into 'images' where the file's name says the channel"
        )


def _check_terms(catalog: Catalog) -> None:
    values = [term.value for term in catalog.terms]
    names = {term.name for term in catalog.terms}
    if 0 in values or len(set(values)) != len(values):
        raise ValueError(f"catalog {catalog.name}: terms name value 0 or a value twice: {sorted(values)}")
    for term, parts in catalog.unions:
        if missing := set(parts) - set(values):
            raise ValueError(f"catalog {catalog.name}: union {term!r} has values without a term: {sorted(missing)}")
    if clash := set(catalog.ignore) & set(values):
        raise ValueError(f"catalog {catalog.name}: values {sorted(clash)} are in 'ignore' and in 'terms'")
    for annotated in (catalog.annotated, *(override.annotated for override in catalog.overrides)):
        if unknown := set(annotated or ()) - names:
            raise ValueError(f"catalog {catalog.name}: annotated terms {sorted(unknown)} are not in 'terms'")
