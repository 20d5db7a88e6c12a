"""Catalog fields of a ``dataset.json``: a Medical Decathlon's, nnU-Net's, or one that lists its cases."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog_fields import FIELDS, as_flag, as_mapping, as_text, as_texts, as_values

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


def labels_beside(path: Path) -> dict[str, Any]:
    """Terms, unions and ignored values of the ``dataset.json`` of a folder, if there.

    Raises:
        ValueError: if it holds something else, naming the file.
    """
    if not path.is_file():
        return {}
    try:
        return label_fields(as_mapping("content", read_json(path)).get("labels"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def label_fields(labels: Any) -> dict[str, Any]:
    """Terms, unions and ignored values of ``labels``.

    A value of which only unions are known, as in nnU-Net's region-based training, gets a name that no vocabulary knows:
    it can be clicked, and the unions are known wherever it is.

    Args:
        labels: value -> name (Medical Decathlon), or name -> value or values (nnU-Net).

    Raises:
        ValueError: for something else.

    Example:
        >>> label_fields({"background": 0, "tumor": [1, 2], "core": [2], "ignore": 3})
        {'terms': {2: 'core', 1: 'label 1'}, 'unions': {'tumor': [1, 2]}, 'ignore': [3]}
    """
    terms: dict[int, str] = {}
    unions: dict[str, list[int]] = {}
    ignore: list[int] = []
    for key, content in as_mapping("labels", labels).items():
        number, name = (key, content) if str(key).removeprefix("-").isdecimal() else (content, key)
        name = as_text(f"labels: {key}", name)
        values = [value for value in as_values(f"labels: {key}", number) if value]
        if not values or name.lower() == "background":
            continue
        if name == "ignore":
            ignore += values
        elif len(values) > 1 or values[0] in terms:
            unions[name] = values
        else:
            terms[values[0]] = name
    unnamed = sorted({value for values in unions.values() for value in values} - set(terms))
    return {"terms": {**terms, **{value: f"label {value}" for value in unnamed}}, "unions": unions, "ignore": ignore}


def folder_fields(path: Path, content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Fields of a Medical Decathlon folder, or one of nnU-Net, of which the first version has a Decathlon's file.

    Args:
        path: of its ``dataset.json``.
        content: of that.
        base: the folder.

    Raises:
        ValueError: for a value that is not what its key holds, naming the file.
    """
    try:
        channels = _channels(content)
        labels = label_fields(content["labels"])
        ending = as_text("file_ending", content.get("file_ending") or ".nii.gz")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    is_nnunet = "channel_names" in content or _has_channels_in_names(base, len(channels))
    fields: dict[str, Any] = {
        "name": base.resolve().name,
        "title": content.get("name"),
        "licence": content.get("licence") or content.get("license") or "unknown",
        "citation": content.get("reference") or content.get("citation") or "unknown",
        "modality": next(iter(channels.values()), "unknown"),
        "layout": "nnunet" if is_nnunet else "medical_decathlon",
        **labels,
    }
    if is_nnunet and ending != ".nii.gz":
        fields["images"] = r"imagesTr/{case}_{channel:\d\d\d\d}" + ending
        fields["labels"] = "labelsTr/{case}" + ending
    if is_nnunet or len(channels) > 1:
        fields["channels"] = {f"{number:04d}" if is_nnunet else str(number): name for number, name in channels.items()}
    return fields


def _channels(content: Mapping[str, Any]) -> dict[int, str]:
    """Channel -> modality, where a file may hold one or a list of them, too."""
    key = "channel_names" if content.get("channel_names") else "modality"
    stated = content.get(key) or {}
    if not isinstance(stated, Mapping):
        stated = dict(enumerate(as_texts(key, stated)))
    if wrong := [number for number in stated if not str(number).isdecimal()]:
        raise ValueError(f"{key}: {wrong}: expected numbers of channels, such as 0")
    return {int(number): as_text(f"{key}: {number}", name) for number, name in stated.items()}


def _has_channels_in_names(base: Path, channels: int) -> bool:
    """Whether images are named as nnU-Net's first version does, whose ``dataset.json`` looks like a Decathlon's.

    A label tells: that of ``liver_1_0000.nii.gz`` is ``liver_1.nii.gz``. Without labels, every image must end in the
    number of a channel.
    """
    images, labels = (
        {path.name.removesuffix(".gz").removesuffix(".nii") for path in (base / folder).glob("[!.]*.nii*")}
        for folder in ("imagesTr", "labelsTr")
    )
    if labels:
        return not labels & images and any(f"{name}_0000" in images for name in labels)
    endings = [re.search(r"_(\d{4})$", name) for name in images]
    return bool(endings) and all(found and int(found.group(1)) < max(channels, 1) for found in endings)
