"""Checks what can be told of a data set without opening a file: its folders, its catalog's rules and its terms."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from .catalog import Case, Catalog
from .check_report import Finding
from .folds import idle_globs, names_of, read_fold_table
from .layouts import Scan


def check_structure(catalog: Catalog, found: Scan) -> Iterator[Finding]:
    """Findings on a catalog and the names of its files.

    Args:
        catalog: what was looked for.
        found: what is there.
    """
    cases = found.cases
    yield from found.findings
    for case, reason in found.rejected:
        yield Finding("error", "ambiguous-case", catalog.name, case.name, reason)
    for path in found.orphans:
        yield Finding("warning", "label-without-image", catalog.name, "", f"{path}: no image belongs to this label")
    for path in found.unknown_classes:
        yield Finding(
            "warning", "class-without-term", catalog.name, "", f"{path}: no term has this file; add it to 'terms'"
        )
    if not cases and not found.rejected:
        yield Finding("error", "no-case", catalog.name, "", f"no file under {catalog.root} fits the patterns")
    elif cases and catalog.terms and not any(case.labels for case in cases):
        yield Finding("error", "no-label", catalog.name, "", "no label file fits the pattern, but there are terms")
    yield from _lost_labels(catalog, cases)
    yield from _idle_rules(catalog, found)
    if catalog.licence.lower().startswith("unknown"):
        yield Finding("warning", "licence", catalog.name, "", "the licence is not known: state it in the catalog")
    absent = [name for override in catalog.overrides for name in override.absent or ()]
    names = [*catalog.names.values(), *(name for name, _ in catalog.unions), *catalog.absent, *absent]
    for name, reason in unknown_terms(names).items():
        yield Finding("warning", "unknown-term", catalog.name, "", f"{name!r} is not in the vocabulary: {reason}")


def _lost_labels(catalog: Catalog, cases: Sequence[Case]) -> Iterator[Finding]:
    """Cases without a label where others have one; a listing says itself which are unlabelled."""
    labelled = sum(bool(case.labels) for case in cases)
    if not labelled or catalog.layout == "dataset_json":
        return
    message = (
        f"no label file belongs to the image, and {labelled} cases of the data set have one: is it missing, or named "
        "otherwise? Leave the case out ('exclude') unless it is to be unlabelled"
    )
    for case in cases:
        if not case.labels:
            yield Finding("warning", "label-missing", catalog.name, case.name, message)


def _idle_rules(catalog: Catalog, found: Scan) -> Iterator[Finding]:
    """Globs and tables that no case is named by: most often a slip, and then cases are in the wrong fold."""
    cases = (*found.cases, *found.excluded, *(case for case, _ in found.rejected))
    if not cases:
        return
    rules = [(f"folds: {rule.fold}", rule.match) for rule in catalog.folds]
    rules += [(f"overrides: number {number}", rule.match) for number, rule in enumerate(catalog.overrides, 1)]
    names = [names_of(case, catalog.root) for case in cases]
    for place, globs in (*rules, ("exclude", catalog.exclude)):
        for glob in idle_globs(globs, names):
            text = f"{place}: {glob!r} fits no case, patient or path; correct it or take it out"
            yield Finding("warning", "rule-matches-nothing", catalog.name, "", text)
    table = read_fold_table(catalog)
    if catalog.fold_table and table.keys().isdisjoint({name for case in cases for name in (case.name, case.patient)}):
        text = (
            f"fold_table: {catalog.fold_table.file} names no case or patient: its first is {next(iter(table), '')!r}, "
            f"that of the data set {cases[0].name!r}; correct 'case' or 'patient'"
        )
        yield Finding("warning", "rule-matches-nothing", catalog.name, "", text)


def unknown_terms(names: Iterable[str]) -> dict[str, str]:
    """Terms that the vocabulary does not have, and why.

    Args:
        names: terms of a catalog.

    Returns:
        Term -> the reason, with the nearest known terms; empty if all are known.

    Example:
        >>> list(unknown_terms(["left kidney", "kidney left", "left kidny", "left liver"]))
        ['left kidny', 'left liver']
    """
    from ..text import load_index

    index, unknown = load_index(), {}
    lookup = logging.getLogger("promptseg.text.lookup")
    is_quiet, lookup.disabled = lookup.disabled, True  # a corrected word is reported here instead
    try:
        for name in dict.fromkeys(names):
            try:
                match = index.find(name)
            except ValueError as error:
                unknown[name] = str(error)
            else:
                if match.corrected:
                    unknown[name] = f"did you mean {match.name!r}?"
    finally:
        lookup.disabled = is_quiet
    return unknown
