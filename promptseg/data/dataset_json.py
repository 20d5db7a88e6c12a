"""Catalog fields of a ``dataset.json``: a Medical Decathlon's, nnU-Net's, or one that lists its cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog_fields import FIELDS, as_flag, as_text, as_texts

_TEXTS = ("case", "patient", "fold", "modality", "image", "label")
_FLAGS = ("complete", "instances")


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ValueError: if it is not valid, naming the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def listed_fields(path: Path, content: Any) -> dict[str, Any]:
    """Fields of a ``dataset.json`` that lists its cases.

    Args:
        path: of the file, for errors.
        content: of the file.

    Raises:
        ValueError: if it lists none, or an entry's value is not what its key holds.
    """
    cases = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) and _is_given(case, "case") for case in cases):
        raise ValueError(f"{path}: expected a list 'cases' whose entries have 'case', and 'image', 'label' or both")
    try:
        listing = tuple(map(_entry, cases))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for case in listing:
        if "image" not in case and "label" not in case:
            raise ValueError(f"{path}: case {case['case']!r} has neither 'image' nor 'label'")
    kept = {key: content[key] for key in FIELDS if key in content and key not in ("labels", "images")}
    return {**kept, "terms": content.get("labels", {}), "listing": listing}


def _is_given(case: Mapping[str, Any], key: str) -> bool:
    """Whether an entry says something; 0 is a name as good as any."""
    return case.get(key) not in (None, "")


def _entry(case: Mapping[str, Any]) -> dict[str, Any]:
    """What a listing says of a case, with names as texts."""
    place = f"case {case['case']!r}"
    entry: dict[str, Any] = {key: as_text(f"{place}: {key}", case[key]) for key in _TEXTS if _is_given(case, key)}
    entry |= {key: as_flag(f"{place}: {key}", case[key]) for key in _FLAGS if _is_given(case, key)}
    if case.get("annotated") is not None:
        entry["annotated"] = as_texts(f"{place}: annotated", case["annotated"])
    return entry


def root_of_listing(folder: Path, cases: Sequence[Mapping[str, Any]]) -> Path:
    """The folder of a listing, or the one above, whichever holds a file of its cases."""
    files = [case[key] for case in cases for key in ("image", "label") if case.get(key)]
    roots = (folder, folder.absolute().parent)
    return next((root for file in files for root in roots if (root / file).is_file()), folder)


def terms_beside(path: Path) -> dict[int, str]:
    """Terms of a Medical Decathlon (value -> name) or nnU-Net (name -> value or values) ``dataset.json``, if there."""
    if not path.is_file():
        return {}
    labels = read_json(path).get("labels", {})
    terms = {}
    for key, content in labels.items():
        value, name = (key, content) if str(key).lstrip("-").isdigit() else (content, key)
        if isinstance(value, list) or name in ("background", "ignore"):
            continue
        terms[int(value)] = str(name)
    terms.pop(0, None)
    return terms


def folder_fields(path: Path, content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Fields of a Medical Decathlon or nnU-Net folder.

    Args:
        path: of its ``dataset.json``.
        content: of that.
        base: the folder.
    """
    channels = content.get("channel_names") or content.get("modality") or {}
    if isinstance(channels, str):
        channels = {"0": channels}
    nnunet = "channel_names" in content
    fields: dict[str, Any] = {
        "name": base.resolve().name,
        "title": content.get("name", ""),
        "licence": content.get("licence") or content.get("license") or "unknown",
        "citation": content.get("reference") or content.get("citation") or "unknown",
        "modality": next(iter(channels.values()), "unknown"),
        "layout": "nnunet" if nnunet else "medical_decathlon",
        "terms": terms_beside(path),
    }
    ending = content.get("file_ending", ".nii.gz")
    if nnunet and ending != ".nii.gz":
        fields["images"] = r"imagesTr/{case}_{channel:\d\d\d\d}" + ending
        fields["labels"] = "labelsTr/{case}" + ending
    if nnunet or len(channels) > 1:
        fields["channels"] = {f"{int(k):04d}" if nnunet else k: v for k, v in channels.items()}
    return fields
