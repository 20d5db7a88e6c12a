"""Finds a data set's cases on disk, by patterns (see :mod:`.file_patterns`) or the presets of common layouts.

Fields that images and labels share tie them together; ``{channel}``, ``{term}`` and ``{rater}`` number the files of one
case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from .bids import labels_of
from .catalog import Case, Catalog, LabelFile
from .check_report import Finding
from .file_patterns import FilePattern
from .folds import assign_folds, matches

PRESETS: dict[str, tuple[str, str]] = {
    "nnunet": (r"imagesTr/{case}_{channel:\d\d\d\d}.nii[.gz]", "labelsTr/{case}.nii[.gz]"),
    "medical_decathlon": ("imagesTr/{case}.nii[.gz]", "labelsTr/{case}.nii[.gz]"),
    "bids": (
        "sub-{patient:[^/_]+}[/ses-{session:[^/_]+}]/anat/"
        "sub-{patient}[_ses-{session}][_{entities:[^/]+-[^/]+?}]_{channel:[^/_-]+}.nii[.gz]",
        "derivatives/*/sub-{patient:[^/_]+}[/ses-{session:[^/_]+}]/anat/"
        "sub-{patient}[_ses-{session}]*_{suffix:dseg|mask|seg}.nii[.gz]",
    ),
}
"""Layout -> (images, labels); a catalog's own pattern replaces either."""

MAX_NAMED = 5
"""Names in one finding; the rest is counted."""

_PER_FILE = ("channel", "term", "rater")
_UNNAMED = (*_PER_FILE, "split", "suffix", "pipeline")


@dataclass(frozen=True)
class Scan:
    """What was found on disk.

    Attributes:
        cases: sorted by name, with folds and overrides applied.
        orphans: label files whose image is missing.
        unknown_classes: per-class label files whose ``{term}`` no term has.
        rejected: (case, why) of those that cannot be told apart; they are not among the cases.
        excluded: what the catalog leaves out.
        findings: what is odd about single cases, and can be told without opening a file.
    """

    cases: tuple[Case, ...]
    orphans: tuple[Path, ...] = ()
    unknown_classes: tuple[Path, ...] = ()
    rejected: tuple[tuple[Case, str], ...] = ()
    excluded: tuple[Case, ...] = ()
    findings: tuple[Finding, ...] = ()


def scan(catalog: Catalog) -> Scan:
    """Finds the cases of a catalog.

    Args:
        catalog: what to look for.

    Returns:
        Cases and leftovers. Cost: one walk over the folders that the patterns name.

    Raises:
        ValueError: if the root is missing.
    """
    if not catalog.root.is_dir():
        raise ValueError(f"{catalog.name}: root {catalog.root} is not a folder; give the data set's folder (--root)")
    found = _listed(catalog) if catalog.layout == "dataset_json" else _matched(catalog)
    kept: list[Case] = []
    excluded: list[Case] = []
    for case in found.cases:
        (excluded if matches(catalog.exclude, case, catalog.root) else kept).append(case)
    kept, rejected = _tell_apart(sorted(kept, key=lambda case: case.name))
    kept = [_override(catalog, case) for case in kept]
    stated = {case.name: case.annotated for case in kept}
    kept = [_with_files(case) for case in kept]
    missing = [(case, sorted(set(stated[case.name]) - set(case.annotated))) for case in kept]
    findings = [_class_file_missing(catalog, case, values) for case, values in missing if values]
    findings += [finding for finding in found.findings if finding.case in stated]
    cases = assign_folds(catalog, kept)
    return replace(found, cases=cases, rejected=rejected, excluded=tuple(excluded), findings=tuple(findings))


def _tell_apart(cases: list[Case]) -> tuple[list[Case], tuple[tuple[Case, str], ...]]:
    """Leaves out the cases of which several have one name: nobody knows which is meant."""
    kept: list[Case] = []
    rejected: list[tuple[Case, str]] = []
    for _, group in groupby(cases, key=lambda case: case.name):
        first, *others = group
        if others:
            files = " and ".join(str(case.files[0]) for case in (first, *others))
            cure = "remove all but one, or tell them apart with a further field in the pattern"
            rejected.append((first, f"{files} are the same case; {cure}"))
        else:
            kept.append(first)
    return kept, tuple(rejected)


def _override(catalog: Catalog, case: Case) -> Case:
    for override in catalog.overrides:
        if matches(override.match, case, catalog.root):
            changes = {key: getattr(override, key) for key in ("modality", "absent", "complete", "instances")}
            changes = {key: value for key, value in changes.items() if value is not None}
            if override.annotated is not None:
                changes["annotated"] = catalog.annotated_values(override.annotated)
            case = replace(case, **changes)
    return case


def _with_files(case: Case) -> Case:
    """Leaves the classes annotated that have a file, from every rater: without one, nobody may have looked for it."""
    for rater in {label.rater for label in case.labels if label.value is not None}:
        there = {label.value for label in case.labels if label.rater == rater}
        case = replace(case, annotated=tuple(value for value in case.annotated if value in there))
    return case


def _class_file_missing(catalog: Catalog, case: Case, values: list[int]) -> Finding:
    terms = catalog.names
    names = [terms[value] for value in values]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    message = (
        f"no file for {', '.join(names[:MAX_NAMED])}{more}: unknown in the image, not absent; add the file, an empty "
        "one where the structure was looked for and is not there"
    )
    return Finding("warning", "class-file-missing", case.dataset, case.name, message)


def _new_case(catalog: Catalog, name: str, patient: str, image: Path | None, labels: tuple[LabelFile, ...]) -> Case:
    """A case as the catalog has it for all; folds and overrides come later."""
    patient = _patient_in(catalog, name) or patient
    return Case(
        dataset=catalog.name,
        name=name,
        patient=patient or name,
        fold="",
        modality=catalog.modality,
        image=image,
        labels=labels,
        annotated=catalog.annotated_values() if labels else (),
        absent=catalog.absent,
        complete=catalog.complete,
        instances=catalog.instances,
    )


def _patient_in(catalog: Catalog, name: str) -> str:
    """What the catalog's pattern finds in a case's name, or nothing."""
    found = re.search(catalog.patient, name) if catalog.patient else None
    return "" if found is None else (found.group(1) if found.groups() else found.group(0)) or ""


def _patient_not_found(catalog: Catalog, case: Case) -> Finding:
    message = (
        f"patient={catalog.patient!r} does not fit the name, so that the case counts as a patient of its own, in any "
        "fold: correct the pattern"
    )
    return Finding("warning", "patient-not-found", case.dataset, case.name, message)


def _listed(catalog: Catalog) -> Scan:
    cases: list[Case] = []
    findings: list[Finding] = []
    for entry in catalog.listing:
        image = catalog.root / entry["image"] if "image" in entry else None
        labels = (LabelFile(catalog.root / entry["label"]),) if "label" in entry else ()
        case = _new_case(catalog, entry["case"], entry.get("patient", ""), image, labels)
        changes = {key: entry[key] for key in ("fold", "modality", "complete", "instances") if key in entry}
        if "annotated" in entry and labels:
            changes["annotated"] = catalog.annotated_values(entry["annotated"])
        cases.append(replace(case, **changes))
        if catalog.patient and "patient" not in entry and not _patient_in(catalog, case.name):
            findings.append(_patient_not_found(catalog, case))
    return Scan(tuple(cases), findings=tuple(findings))


def _matched(catalog: Catalog) -> Scan:
    preset = PRESETS.get(catalog.layout, ("", ""))
    images = FilePattern(catalog.images or preset[0]) if catalog.images or preset[0] else None
    labels = FilePattern(catalog.labels or preset[1]) if catalog.labels or preset[1] else None
    shared = [f for f in (labels.fields if labels else []) if f not in _PER_FILE and (not images or f in images.fields)]
    groups: dict[tuple[str, ...], list[tuple[Path, dict[str, str]]]] = {}
    for path, fields in labels.find(catalog.root) if labels else ():
        groups.setdefault(tuple(fields[f] for f in shared), []).append((path, fields))
    values = {term.file_stem: term.value for term in catalog.terms}
    unknown = [p for files in groups.values() for p, f in files if "term" in f and f["term"] not in values]
    cases: list[Case] = []
    findings: list[Finding] = []
    used: set[Path] = set()
    sources = images.find(catalog.root) if images else ((None, files[0][1]) for files in groups.values())
    for image, fields in sources:
        group = groups.get(tuple(fields[f] for f in shared), [])
        passed_over: tuple[Path, ...] = ()
        if catalog.layout == "bids" and not catalog.labels and image is not None:
            files, passed_over = labels_of(image, [path for path, _ in group], catalog.terms)
            used.update((*(file.path for file in files), *passed_over))
        else:
            files = tuple(
                LabelFile(path, values.get(f["term"]) if "term" in f else None, f.get("rater", ""))
                for path, f in group
                if "term" not in f or f["term"] in values
            )
            used.update(path for path, _ in group)
        name = fields.get("case") or "_".join(t for f, t in fields.items() if f not in _UNNAMED and t)
        case = _new_case(catalog, name, fields.get("patient", ""), image, files)
        own = [rated for channel in _channels(catalog, case, fields) for rated in _raters(catalog, channel)]
        findings += [_passed_over(catalog, rated, path) for rated in own for path in passed_over]
        if catalog.patient and not fields.get("patient") and not _patient_in(catalog, name):
            findings += [_patient_not_found(catalog, rated) for rated in own]
        cases += own
    orphans = [path for files in groups.values() for path, _ in files if path not in used]
    return Scan(tuple(cases), tuple(orphans), tuple(unknown), findings=tuple(findings))


def _passed_over(catalog: Catalog, case: Case, path: Path) -> Finding:
    file = path.relative_to(catalog.root).as_posix()
    why = "others say more of the image in their name, or its own is no term's"
    cure = "state 'labels' in the catalog, or the term's 'file', where it is one"
    message = f"{file} is not read as a label: {why}; {cure}"
    return Finding("info", "label-passed-over", case.dataset, case.name, message)


def _channels(catalog: Catalog, case: Case, fields: dict[str, str]) -> list[Case]:
    """One case per channel, each with the labels of the study."""
    modalities = dict(catalog.channels)
    channel = fields.get("channel")
    if channel is None:
        if not modalities or case.image is None:
            return [case]
        return [
            replace(case, name=f"{case.name}_{key}", modality=modality, frame=int(key))
            for key, modality in modalities.items()
        ]
    if len(modalities) != 1:
        case = replace(case, name=f"{case.name}_{channel}")
    if not modalities:
        return [case]
    known = {key if key in modalities else str(int(key)) for key in (channel,) if key in modalities or key.isdigit()}
    return [replace(case, modality=modalities[key]) for key in known if key in modalities]


def _raters(catalog: Catalog, case: Case) -> list[Case]:
    """One case per rater where the catalog asks for that."""
    raters = sorted({label.rater for label in case.labels})
    if catalog.raters != "each" or len(raters) < 2:
        return [case]
    own = {rater: tuple(f for f in case.labels if f.rater == rater) for rater in raters}
    return [replace(case, name=f"{case.name}_{rater}", labels=files) for rater, files in own.items()]
