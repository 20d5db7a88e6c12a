r"""Finds a data set's cases on disk: path patterns with named fields, and the presets of common layouts.

A pattern is a path relative to the root. ``{name}`` is a field, the same text wherever the name occurs;
``{name:regex}`` restricts it; ``[...]`` is optional; ``*`` is any text within a folder name, ``**/`` any folders.
Fields that images and labels share tie them together; ``{channel}``, ``{term}`` and ``{rater}`` number the files of one
case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .catalog import Case, Catalog, LabelFile
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

_PER_FILE = ("channel", "term", "rater")
_UNNAMED = (*_PER_FILE, "split", "suffix", "pipeline")


class FilePattern:
    """A path pattern with named fields.

    Args:
        pattern: see the module's text.

    Raises:
        ValueError: for a bracket that is not closed or a regular expression that is not valid.

    Example:
        >>> FilePattern("images/{case}_{channel:[0-9]+}.nii[.gz]").match("images/liver_01_0000.nii.gz")
        {'case': 'liver_01', 'channel': '0000'}
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.fields: list[str] = []
        try:
            self._regex = re.compile(self._translate(pattern))
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is not valid: {error}") from error
        literal = re.split(r"[{\[*]", pattern, maxsplit=1)[0]
        self.folder = literal.rpartition("/")[0]
        """Deepest folder that holds every match, relative to the root."""

    def _translate(self, pattern: str) -> str:
        parts: list[str] = []
        depth = position = 0
        while position < len(pattern):
            rest = pattern[position:]
            step = 1
            if field := re.match(r"\{(\w+)(?::([^}]*))?\}", rest):
                name, regex = field.groups()
                parts.append(f"(?P={name})" if name in self.fields else f"(?P<{name}>{regex or '[^/]+'})")
                if name not in self.fields:
                    self.fields.append(name)
                step = field.end()
            elif rest.startswith("**/"):
                parts.append("(?:.*/)?")
                step = 3
            elif rest[0] == "*":
                parts.append("[^/]*")
            elif rest[0] in "[]":
                depth += 1 if rest[0] == "[" else -1
                parts.append("(?:" if rest[0] == "[" else ")?")
            elif rest[0] in "{}":
                raise ValueError(f"pattern {pattern!r}: the brace at {position} is not a field such as {{case}}")
            else:
                parts.append(re.escape(rest[0]))
            position += step
        if depth:
            raise ValueError(f"pattern {pattern!r}: '[' and ']' do not pair")
        return "".join(parts)

    def match(self, path: str) -> dict[str, str] | None:
        """Fields of a path (``/`` between folders) that the whole pattern fits, or None; a field left out is ''."""
        found = self._regex.fullmatch(path)
        return None if found is None else {name: text or "" for name, text in found.groupdict().items()}

    def find(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """Files under a root that fit, in sorted order, with their fields; hidden files are passed over."""
        for path in sorted(_walk(root / self.folder)):
            fields = self.match(path.relative_to(root).as_posix())
            if fields is not None:
                yield path, fields


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in names if not name.startswith("."))


@dataclass(frozen=True)
class Scan:
    """What was found on disk.

    Attributes:
        cases: sorted by name, with folds and overrides applied.
        orphans: label files whose image is missing.
        unknown_classes: per-class label files whose ``{term}`` no term has.
    """

    cases: tuple[Case, ...]
    orphans: tuple[Path, ...] = ()
    unknown_classes: tuple[Path, ...] = ()


def scan(catalog: Catalog) -> Scan:
    """Finds the cases of a catalog.

    Args:
        catalog: what to look for.

    Returns:
        Cases and leftovers. Cost: one walk over the folders that the patterns name.

    Raises:
        ValueError: if the root is missing or two cases have the same name.
    """
    if not catalog.root.is_dir():
        raise ValueError(f"{catalog.name}: root {catalog.root} is not a folder; give the data set's folder (--root)")
    found = Scan(_listed(catalog)) if catalog.layout == "dataset_json" else _matched(catalog)
    kept = [case for case in found.cases if not matches(catalog.exclude, case, catalog.root)]
    kept.sort(key=lambda case: case.name)
    for first, second in zip(kept, kept[1:], strict=False):
        if first.name == second.name:
            raise ValueError(
                f"{catalog.name}: {first.files[0]} and {second.files[0]} are both case {first.name!r}; "
                "tell them apart with a further field in the pattern"
            )
    return replace(found, cases=assign_folds(catalog, [_override(catalog, case) for case in kept]))


def _override(catalog: Catalog, case: Case) -> Case:
    for override in catalog.overrides:
        if matches(override.match, case, catalog.root):
            changes = {key: getattr(override, key) for key in ("modality", "absent", "complete", "instances")}
            changes = {key: value for key, value in changes.items() if value is not None}
            if override.annotated is not None:
                changes["annotated"] = catalog.annotated_values(override.annotated)
            case = replace(case, **changes)
    return case


def _new_case(catalog: Catalog, name: str, patient: str, image: Path | None, labels: tuple[LabelFile, ...]) -> Case:
    if catalog.patient and (found := re.search(catalog.patient, name)):
        patient = found.group(1) if found.groups() else found.group(0)
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


def _listed(catalog: Catalog) -> tuple[Case, ...]:
    cases = []
    for entry in catalog.listing:
        image = catalog.root / entry["image"] if "image" in entry else None
        labels = (LabelFile(catalog.root / entry["label"]),) if "label" in entry else ()
        case = _new_case(catalog, entry["case"], entry.get("patient", ""), image, labels)
        changes = {key: entry[key] for key in ("fold", "modality", "complete", "instances") if key in entry}
        if "annotated" in entry and labels:
            changes["annotated"] = catalog.annotated_values(entry["annotated"])
        cases.append(replace(case, **changes))
    return tuple(cases)


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
    used = set()
    sources = images.find(catalog.root) if images else ((None, files[0][1]) for files in groups.values())
    for image, fields in sources:
        key = tuple(fields[f] for f in shared)
        used.add(key)
        files = tuple(
            LabelFile(path, values.get(f["term"]) if "term" in f else None, f.get("rater", ""))
            for path, f in groups.get(key, ())
            if "term" not in f or f["term"] in values
        )
        name = fields.get("case") or "_".join(t for f, t in fields.items() if f not in _UNNAMED and t)
        case = _new_case(catalog, name, fields.get("patient", ""), image, files)
        cases += [rated for channel in _channels(catalog, case, fields) for rated in _raters(catalog, channel)]
    orphans = [path for key, files in groups.items() if key not in used for path, _ in files]
    return Scan(tuple(cases), tuple(orphans), tuple(unknown))


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
    return [
        replace(case, name=f"{case.name}_{rater}", labels=tuple(f for f in case.labels if f.rater == rater))
        for rater in raters
    ]
