"""Checks data sets before they are trained on: what is on disk, what the labels hold, and what leaks between folds."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from .catalog import Case, Catalog
from .check_report import CaseFacts, CheckReport, Finding, Severity
from .label_maps import read_labels
from .layouts import scan
from .parallel import run_isolated
from .reading import Grid, grid_difference, read_grid
from .structure_check import check_structure

USUAL_SPACING_MM = (0.05, 10.0)
"""Sides of a voxel outside this range are reported: they are usually centimetres or micrometres in a header."""


def content_hash(array: np.ndarray) -> str:
    """Hash of canonical voxel values that does not depend on dtype or memory order.

    Args:
        array: (I, J, K) finite.

    Returns:
        32 hexadecimal digits (BLAKE2b).

    Example:
        >>> a = np.arange(8).reshape(2, 2, 2)
        >>> content_hash(a.astype("int16")) == content_hash(np.asfortranarray(a, dtype="float64"))
        True
    """
    digest = hashlib.blake2b(str(array.shape).encode(), digest_size=16)
    for plane in array:  # one plane at a time: no second volume in memory; + 0.0 makes one zero of -0 and 0
        digest.update((np.ascontiguousarray(plane, dtype=np.float32) + 0.0).tobytes())
    return digest.hexdigest()


def count_values(labels: np.ndarray) -> dict[int, int]:
    """Label value -> voxels, without the background, ascending. Cost: one pass, plane by plane."""
    counts: Counter[int] = Counter()
    for plane in labels:
        values, number = np.unique(plane, return_counts=True)
        counts.update(dict(zip(values.tolist(), number.tolist(), strict=True)))
    counts.pop(0, None)
    return dict(sorted(counts.items()))


def inspect_case(case: Case, catalog: Catalog) -> CaseFacts:
    """Reads a case and notes everything about it that needs no other case.

    Raises:
        ValueError: if a file is not readable.
    """
    image = None if case.image is None else read_grid(case.image, case.frame)
    labels = read_labels(catalog, case, image)
    grid = image if image is not None else labels.grid if labels is not None else None
    if grid is None:
        raise ValueError(f"{case.key} has neither an image nor a label")
    problems: list[tuple[Severity, str, str]] = []
    if image is not None:
        problems += _image_problems(image)
    voxels: dict[int, int] = {}
    if labels is not None:
        voxels = count_values(labels.grid.array)
        if image is not None and (difference := grid_difference(image, labels.grid)):
            problems.append(
                ("error", "grids-differ", f"label grid is not the image's: {difference}; resample the label")
            )
        problems += _label_problems(catalog, case, voxels)
        if labels.nonfinite_voxels:
            text = f"{labels.nonfinite_voxels} voxels of the labels are NaN or infinite: taken as background"
            problems.append(("warning", "non-finite", text))
        if labels.overlap_voxels:
            problems.append(("info", "overlap", f"{labels.overlap_voxels} voxels belong to several classes"))
        if labels.disputed_voxels:
            problems.append(("info", "raters-differ", f"raters differ in {labels.disputed_voxels} voxels"))
    spacing = grid.spacing_mm
    if spacing.min() < USUAL_SPACING_MM[0] or spacing.max() > USUAL_SPACING_MM[1]:
        problems.append(("warning", "spacing", f"spacing {np.round(spacing, 4).tolist()} mm: is the header in mm?"))
    return CaseFacts(
        dataset=case.dataset,
        case=case.name,
        patient=case.patient,
        fold=case.fold,
        modality=case.modality,
        shape=grid.array.shape[:3],
        spacing_mm=tuple(float(side) for side in np.round(spacing, 6)),
        orientation=grid.orientation,
        dtype=str(grid.array.dtype),
        content_hash=content_hash(grid.array),
        voxels=voxels,
        labelled=labels is not None,
        problems=tuple(problems),
    )


def _image_problems(image: Grid) -> Iterable[tuple[Severity, str, str]]:
    if image.array.ndim != 3:
        yield "error", "channels", f"shape {image.array.shape}: list the fourth axis under 'channels' in the catalog"
    if image.nonfinite_count:
        yield "warning", "non-finite", f"{image.nonfinite_count} voxels are NaN or infinite"
    if image.array.min() == image.array.max():
        yield "error", "constant", f"every voxel is {image.array.flat[0]}"


def _label_problems(catalog: Catalog, case: Case, voxels: dict[int, int]) -> Iterable[tuple[Severity, str, str]]:
    named = set(catalog.names) | set(catalog.ignore)
    if not set(voxels) - set(catalog.ignore):
        yield "warning", "empty-mask", "no voxel is labelled"
    if negative := [value for value in voxels if value < 0 and value not in catalog.ignore]:
        yield "error", "negative-value", f"label values {negative}: list them under 'ignore'"
    unnamed = [value for value in voxels if value not in named]
    if unnamed and catalog.unnamed_values == "report" and not case.instances:
        cure = "add them to 'terms' or 'ignore', or set unnamed_values: expected"
        yield "warning", "value-without-term", f"label values {unnamed} have no term: {cure}"


def check_catalogs(
    catalogs: Sequence[Catalog],
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Reads every case of every catalog and reports what is wrong or odd.

    Args:
        catalogs: data sets, together: duplicates are looked for across all of them.
        workers: processes; 0 runs in this one.
        progress: called with the number of cases done and of all cases.

    Returns:
        The report. A file that is not readable is an error in it, never an exception. Cost: every voxel once.

    Raises:
        ValueError: if a catalog's root is missing or two catalogs share a name.
    """
    if repeated := [name for name, count in Counter(catalog.name for catalog in catalogs).items() if count > 1]:
        raise ValueError(f"several catalogs are named {repeated}: give each data set a name of its own")
    findings: list[Finding] = []
    pairs: list[tuple[Catalog, Case]] = []
    for catalog in catalogs:
        found = scan(catalog)
        findings += check_structure(catalog, found)
        findings += find_split_patients([(case.dataset, case.patient, case.fold) for case in found.cases])
        bare = replace(catalog, listing=())  # what a worker needs of it
        pairs += [(bare, case) for case in found.cases]
    facts: list[CaseFacts] = []
    for done, outcome in enumerate(run_isolated(_inspect_pair, pairs, workers), 1):
        case = outcome.item[1]
        if outcome.result is None:
            findings.append(Finding("error", "unreadable", case.dataset, case.name, outcome.error))
        else:
            facts.append(outcome.result)
            findings += [Finding(s, code, case.dataset, case.name, text) for s, code, text in outcome.result.problems]
        if progress is not None:
            progress(done, len(pairs))
    for catalog in catalogs:
        findings += _terms_never_seen(catalog, [fact for fact in facts if fact.dataset == catalog.name])
    facts.sort(key=lambda fact: (fact.dataset, fact.case))
    findings += find_duplicates([(f.dataset, f.case, f.patient, f.fold, f.content_hash) for f in facts])
    rank = {"error": 0, "warning": 1, "info": 2}
    findings.sort(key=lambda f: (rank[f.severity], f.code, f.dataset, f.case, f.message))
    return CheckReport(tuple(findings), tuple(facts))


def _inspect_pair(pair: tuple[Catalog, Case]) -> CaseFacts:
    return inspect_case(pair[1], pair[0])


def _terms_never_seen(catalog: Catalog, facts: Sequence[CaseFacts]) -> Iterable[Finding]:
    names = catalog.names
    seen = {names.get(value) for value in set().union(*(fact.voxels for fact in facts))}
    if missing := [name for name in dict.fromkeys(names.values()) if name not in seen and facts]:
        yield Finding("info", "term-never-seen", catalog.name, "", f"no case has: {', '.join(missing)}")


def find_split_patients(entries: Iterable[tuple[str, str, str]]) -> list[Finding]:
    """Finds patients who are in several folds.

    Args:
        entries: (dataset, patient, fold) of each case.

    Returns:
        An error for each such patient.
    """
    folds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for dataset, patient, fold in entries:
        folds[dataset, str(patient)].add(str(fold))  # an earlier store may hold numbers
    split = {key: sorted(names) for key, names in sorted(folds.items()) if len(names) > 1}
    return [
        Finding("error", "leakage", dataset, "", f"patient {patient!r} is in the folds {names}: correct 'folds'")
        for (dataset, patient), names in split.items()
    ]


def find_duplicates(entries: Sequence[tuple[str, str, str, str, str]]) -> list[Finding]:
    """Finds images with the same voxel values.

    Args:
        entries: (dataset, case, patient, fold, content hash) of each case, in any order.

    Returns:
        An error for each group that spans folds (leakage), a warning for one within a fold, a note where all are one
        patient's, such as the same image with the labels of each rater.
    """
    groups: dict[str, list[tuple[str, str, str, str, str]]] = defaultdict(list)
    for entry in sorted(entries):
        groups[entry[4]].append(entry)
    findings = []
    for group in groups.values():
        if len(group) < 2:
            continue
        names = ", ".join(f"{dataset}/{case} ({fold})" for dataset, case, _, fold, _ in group)
        folds = {fold for *_, fold, _ in group}
        if len(folds) > 1:
            message = f"the same image in several folds: {names}; leave all but one out ('exclude')"
            findings.append(Finding("error", "leakage", group[0][0], group[0][1], message))
        else:
            is_one_patient = len({(dataset, patient) for dataset, _, patient, *_ in group}) == 1
            severity: Severity = "info" if is_one_patient else "warning"
            findings.append(Finding(severity, "duplicate", group[0][0], group[0][1], f"the same image: {names}"))
    return findings
