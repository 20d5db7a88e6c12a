"""Reads a catalog from YAML, or makes one of a ``dataset.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import Catalog, FoldRule, FoldTable, Override, Term

_FIELDS = {f.name for f in dataclasses.fields(Catalog)} - {"listing", "root"}
_IN_FOLDER = ("catalog.yaml", "dataset.json")


def find_catalogs(path: str | Path) -> list[Path]:
    """Catalog files that a path means.

    Args:
        path: a file; a data set's folder; or a folder of YAML catalogs or of data sets.

    Returns:
        The file; else ``catalog.yaml`` or ``dataset.json`` of the folder; else its YAML files and those two of each
        folder in it, sorted.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no catalog at {path}: give a YAML catalog, a dataset.json, or a folder of them")
    found = _own_catalog(path)
    if not found:
        found = sorted(path.glob("*.yaml"))
        for folder in sorted(child for child in path.iterdir() if child.is_dir()):
            found += _own_catalog(folder)
    if not found:
        raise ValueError(f"{path} holds no catalog: neither {' nor '.join(_IN_FOLDER)}, nor YAML files, nor data sets")
    return found


def _own_catalog(folder: Path) -> list[Path]:
    return [folder / name for name in _IN_FOLDER if (folder / name).is_file()][:1]


def load_catalog(path: str | Path, root: str | Path | None = None) -> Catalog:
    """Reads a data set's description.

    Args:
        path: a YAML catalog; or the ``dataset.json`` of a Medical Decathlon or nnU-Net folder; or one that lists its
            cases (keys ``cases``, ``labels``, ``licence``).
        root: folder that the paths in it are relative to. Default: the catalog's ``root`` (relative to its own folder),
            else the folder of the file. For a ``dataset.json`` that lists cases: it, or the folder above, whichever
            holds them.

    Returns:
        The catalog; no image is opened.

    Raises:
        ValueError: if the file is missing, is not a catalog, or has a key that is unknown or contradicts another.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no catalog at {path}: give a YAML file such as those in configs/catalogs, or a dataset.json")
    content = _read_json(path) if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected keys such as name, licence, images, terms")
    if path.suffix == ".json":
        return _from_dataset_json(path, content, root)
    return _from_yaml(path, content, root)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _from_yaml(path: Path, content: dict[str, Any], root: str | Path | None) -> Catalog:
    given = dict(content)
    default_root = path.parent / str(given.pop("root", "") or "")
    base = Path(root) if root is not None else default_root
    if unknown := set(given) - _FIELDS:
        raise ValueError(f"{path}: unknown keys {sorted(unknown)}; known are root, {', '.join(sorted(_FIELDS))}")
    given.setdefault("name", path.stem)
    if given.get("layout") == "dataset_json":
        index = base / given.get("index", "dataset.json")
        if not index.is_file():
            raise ValueError(f"{path}: no {index}; give the folder that holds the data as root (--root)")
        listed = _read_json(index)
        given = {**_listed_fields(index, listed), **given}
        base = _root_of_listing(index.parent, listed["cases"])
    elif "terms" not in given:
        given["terms"] = _terms_beside(base / "dataset.json")
    return _build(path, given, base)


def _from_dataset_json(path: Path, content: dict[str, Any], root: str | Path | None) -> Catalog:
    if "cases" in content:
        fields = {**_listed_fields(path, content), "layout": "dataset_json", "index": path.name}
        base = _root_of_listing(path.parent if root is None else Path(root), content["cases"])
        return _build(path, fields, base)
    if "labels" not in content:
        raise ValueError(f"{path} lists neither 'cases' nor 'labels': expected a data set's dataset.json")
    base = Path(root) if root is not None else path.parent
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
        "terms": _terms_beside(path),
    }
    ending = content.get("file_ending", ".nii.gz")
    if nnunet and ending != ".nii.gz":
        fields["images"] = r"imagesTr/{case}_{channel:\d\d\d\d}" + ending
        fields["labels"] = "labelsTr/{case}" + ending
    if nnunet or len(channels) > 1:
        fields["channels"] = {f"{int(k):04d}" if nnunet else k: v for k, v in channels.items()}
    return _build(path, fields, base)


def _listed_fields(path: Path, content: Any) -> dict[str, Any]:
    """Catalog fields of a ``dataset.json`` that lists its cases."""
    cases = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) and case.get("case") for case in cases):
        raise ValueError(f"{path}: expected a list 'cases' whose entries have 'case', and 'image', 'label' or both")
    for case in cases:
        if not case.get("image") and not case.get("label"):
            raise ValueError(f"{path}: case {case['case']!r} has neither 'image' nor 'label'")
    kept = {key: content[key] for key in _FIELDS if key in content and key not in ("labels", "images")}
    return {**kept, "terms": content.get("labels", {}), "listing": tuple(content["cases"])}


def _root_of_listing(folder: Path, cases: Sequence[Mapping[str, Any]]) -> Path:
    """The folder of a listing, or the one above, whichever holds a file of its cases."""
    files = [case[key] for case in cases for key in ("image", "label") if case.get(key)]
    roots = (folder, folder.absolute().parent)
    return next((root for file in files for root in roots if (root / file).is_file()), folder)


def _terms_beside(path: Path) -> dict[int, str]:
    """Terms of a Medical Decathlon (value -> name) or nnU-Net (name -> value or values) ``dataset.json``, if there."""
    if not path.is_file():
        return {}
    labels = _read_json(path).get("labels", {})
    terms = {}
    for key, content in labels.items():
        value, name = (key, content) if str(key).lstrip("-").isdigit() else (content, key)
        if isinstance(value, list) or name in ("background", "ignore"):
            continue
        terms[int(value)] = str(name)
    terms.pop(0, None)
    return terms


def _build(path: Path, given: dict[str, Any], root: Path) -> Catalog:
    try:
        return Catalog(**{**given, **_parsed(given), "root": root})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a catalog: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are nested in YAML, as the dataclasses of the catalog."""
    parsed: dict[str, Any] = {
        "terms": tuple(sorted(map(_term, (given.get("terms") or {}).items()), key=lambda term: term.value)),
        "unions": tuple((name, tuple(map(int, values))) for name, values in (given.get("unions") or {}).items()),
        "channels": tuple((str(key), str(value)) for key, value in (given.get("channels") or {}).items()),
        "folds": tuple(map(_fold_rule, (given.get("folds") or {}).items())),
        "overrides": tuple(map(_override, given.get("overrides") or ())),
        "ignore": tuple(map(int, given.get("ignore") or ())),
        "absent": _texts(given.get("absent") or ()),
        "exclude": _texts(given.get("exclude") or ()),
    }
    if given.get("annotated") is not None:
        parsed["annotated"] = _texts(given["annotated"])
    if given.get("fold_table"):
        table = dict(given["fold_table"])
        rename = tuple((str(key), str(value)) for key, value in (table.pop("rename", None) or {}).items())
        parsed["fold_table"] = FoldTable(**table, rename=rename)
    return parsed


def _term(item: tuple[Any, Any]) -> Term:
    value, content = item
    if not str(value).lstrip("-").isdigit():
        raise ValueError(f"term {value!r}: {content!r}: expected a label value and its term, such as 1: liver")
    if isinstance(content, Mapping):
        return Term(int(value), **content)
    return Term(int(value), str(content))


def _fold_rule(item: tuple[str, Any]) -> FoldRule:
    fold, content = item
    if isinstance(content, (int, float)):
        return FoldRule(fold, fraction=float(content))
    if not isinstance(content, str | list):
        raise ValueError(f"folds: {fold}: {content!r}: expected a share such as 0.2, or globs of cases or patients")
    return FoldRule(fold, match=_texts(content))


def _override(content: Mapping[str, Any]) -> Override:
    fields = dict(content)
    fields["match"] = _texts(fields["match"])
    for name in ("annotated", "absent"):
        if fields.get(name) is not None:
            fields[name] = _texts(fields[name])
    return Override(**fields)


def _texts(content: str | Sequence[Any]) -> tuple[str, ...]:
    """Texts where YAML may hold one or a list of them."""
    return (content,) if isinstance(content, str) else tuple(map(str, content))
