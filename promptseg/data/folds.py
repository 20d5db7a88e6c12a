"""Folds by patient: from the catalog's rules, from a table, or by a hash that adding patients does not disturb."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

from .catalog import Case, Catalog

DEFAULT_FOLD = "train"


def matches(globs: Sequence[str], case: Case, root: Path) -> bool:
    """Whether a glob fits the case's name, its patient, or the path of its image (else label) relative to the root."""
    return bool(globs) and _fit(tuple(globs), names_of(case, root))


def names_of(case: Case, root: Path) -> tuple[str, str, str]:
    """What a glob may fit: the case's name, its patient, and its image's (else label's) path relative to the root."""
    path = case.files[0]
    relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    return case.name, case.patient, relative


def _fit(globs: tuple[str, ...], texts: Collection[str]) -> bool:
    literal, pattern = _compiled(globs)
    return not literal.isdisjoint(texts) or (pattern is not None and any(map(pattern.match, texts)))


@lru_cache(maxsize=256)
def _compiled(globs: tuple[str, ...]) -> tuple[frozenset[str], re.Pattern[str] | None]:
    """Globs that are plain names, of which a rule may list thousands, and one expression for all others."""
    wild = [glob for glob in globs if re.search(r"[*?[]", glob)]
    return frozenset(globs).difference(wild), re.compile("|".join(map(translate, wild))) if wild else None


def idle_globs(globs: Sequence[str], names: Sequence[tuple[str, str, str]]) -> list[str]:
    """Globs that fit nothing.

    Args:
        globs: of a rule.
        names: of each case, see :func:`names_of`.
    """
    texts = {text for of_case in names for text in of_case}
    return [glob for glob in globs if not _fit((glob,), texts)]


def patient_fraction(dataset: str, patient: str) -> float:
    """A number in [0, 1) that depends on the two names alone."""
    digest = hashlib.blake2b(f"{dataset}/{patient}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign_folds(catalog: Catalog, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Gives every case its fold.

    A fold that the listing states stays. Otherwise the first of these that says something decides: a rule with globs,
    the table, a rule with a fraction; else ``train``. A glob that fits one case of a patient holds for all of them.

    Args:
        catalog: rules.
        cases: in any order.

    Returns:
        The cases, in the same order.

    Raises:
        ValueError: if the table is missing or lacks a column.
    """
    by_patient: dict[str, str] = {}
    for rule in catalog.folds:
        for case in cases:
            if matches(rule.match, case, catalog.root):
                by_patient.setdefault(case.patient, rule.fold)
    table = read_fold_table(catalog)
    for case in cases:
        if (fold := table.get(case.name) or table.get(case.patient)) and case.patient not in by_patient:
            by_patient[case.patient] = fold
    return tuple(
        case if case.fold else replace(case, fold=by_patient.get(case.patient) or _drawn(catalog, case))
        for case in cases
    )


def _drawn(catalog: Catalog, case: Case) -> str:
    position = patient_fraction(catalog.name, case.patient)
    for rule in catalog.folds:
        position -= rule.fraction
        if rule.fraction and position < 0:
            return rule.fold
    return DEFAULT_FOLD


def read_fold_table(catalog: Catalog) -> dict[str, str]:
    """Case or patient -> fold, of the table that comes with the data set; empty without one.

    Raises:
        ValueError: if the table is missing, is not text, or lacks a column.
    """
    table = catalog.fold_table
    if table is None:
        return {}
    path = catalog.root / table.file
    if not path.is_file():
        raise ValueError(f"{catalog.name}: no fold table at {path}; it comes with the data set, or delete 'fold_table'")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter=table.delimiter))
    except UnicodeDecodeError as error:
        raise ValueError(f"{catalog.name}: {path} is not UTF-8 text: {error}; save it as UTF-8") from error
    if rows and (missing := {table.case, table.fold} - set(rows[0])):
        raise ValueError(f"{catalog.name}: {path} has no column {sorted(missing)}; it has {sorted(rows[0])}")
    rename = dict(table.rename)
    return {row[table.case]: rename.get(row[table.fold], row[table.fold]) for row in rows if row[table.fold]}
