"""Builds a catalog of what a YAML or JSON file holds: every field is checked for its type, and named where it is wrong.

YAML turns ``fold: 1`` into a number and ``complete: 'no'`` into a text. Names may be written as numbers, and become
texts here; a truth value or a number that is written as a text is refused, since nobody knows what it should be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import Catalog, FoldRule, FoldTable, Override, Term

FIELDS = {f.name for f in dataclasses.fields(Catalog)} - {"listing", "root"}
"""What a catalog's file may hold, beside ``root``."""


def build_catalog(path: Path, given: Mapping[str, Any], root: Path) -> Catalog:
    """Makes a catalog of a file's content.

    Args:
        path: of the file, for errors.
        given: field -> value as YAML or JSON has it, and ``listing``.
        root: folder of the data.

    Raises:
        ValueError: for a value that is not what its field holds, or contradicts another; the message names the file.
    """
    try:
        return Catalog(**_parsed(given), root=root)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def as_text(field: str, value: Any) -> str:
    """A text; a number becomes one.

    Raises:
        ValueError: for anything else, naming the field.

    Example:
        >>> as_text("fold", 0)
        '0'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{field}: {value!r}: expected a text; quote it if it is one")


def as_texts(field: str, value: Any) -> tuple[str, ...]:
    """Texts, where a file may hold one or a list of them.

    Raises:
        ValueError: for anything else, naming the field.
    """
    if isinstance(value, list | tuple):
        return tuple(as_text(field, item) for item in value)
    return (as_text(field, value),)


def as_flag(field: str, value: Any) -> bool:
    """A truth value.

    Raises:
        ValueError: for anything else, naming the field.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{field}: {value!r}: expected true or false, without quotes")
    return value


def as_number(field: str, value: Any) -> float:
    """A number.

    Raises:
        ValueError: for anything else, naming the field.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{field}: {value!r}: expected a number, without quotes")
    return float(value)


def as_mapping(field: str, value: Any) -> Mapping[Any, Any]:
    """Keys and their values; None is none.

    Raises:
        ValueError: for anything else, naming the field.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{field}: {value!r}: expected keys and values, such as {{key: value}}")
    return value


def as_values(field: str, value: Any) -> tuple[int, ...]:
    """Label values, where a file may hold one or a list of them.

    Raises:
        ValueError: for anything else, naming the field.
    """
    items = value if isinstance(value, list | tuple) else (value,)
    if not all(_is_whole(item) for item in items):
        raise ValueError(f"{field}: {value!r}: expected label values, such as [255]")
    return tuple(int(item) for item in items)


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and str(value).removeprefix("-").isdecimal()


_READERS: dict[str, Callable[[str, Any], Any]] = {"str": as_text, "bool": as_flag, "float": as_number}


def _simple(kind: type, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass that are no collections; those that are left empty keep their default."""
    types = {f.name: str(f.type).removesuffix(" | None") for f in dataclasses.fields(kind)}
    types = {name: "str" if text in ("Layout", "LabelFormat", "RaterRule") else text for name, text in types.items()}
    names = [name for name in given if given[name] is not None and name in types]
    return {n: _READERS[types[n]](prefix + n, given[n]) for n in names if types[n] in _READERS}


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as the dataclass has them."""
    terms, unions = as_mapping("terms", given.get("terms")), as_mapping("unions", given.get("unions"))
    channels, folds = as_mapping("channels", given.get("channels")), as_mapping("folds", given.get("folds"))
    overrides = given.get("overrides") or ()
    if not isinstance(overrides, Sequence) or isinstance(overrides, str):
        raise ValueError(f"overrides: {overrides!r}: expected a list, such as - {{match: 'mr*', modality: MR}}")
    parsed: dict[str, Any] = {
        **dict.fromkeys(("name", "licence", "citation", "modality"), ""),  # the catalog says which of them is missing
        **_simple(Catalog, given),
        "unnamed_values": as_text("unnamed_values", given.get("unnamed_values") or "report"),
        "terms": tuple(sorted((_term(*item) for item in terms.items()), key=lambda term: term.value)),
        "unions": tuple((as_text("unions", name), as_values(f"unions: {name}", v)) for name, v in unions.items()),
        "channels": tuple((as_text("channels", key), as_text(f"channels: {key}", v)) for key, v in channels.items()),
        "folds": tuple(_fold_rule(*item) for item in folds.items()),
        "overrides": tuple(_override(number, content) for number, content in enumerate(overrides, 1)),
        "listing": tuple(given.get("listing") or ()),
    }
    if given.get("ignore") is not None:
        parsed["ignore"] = as_values("ignore", given["ignore"])
    for name in ("absent", "exclude", "annotated"):
        if given.get(name) is not None:
            parsed[name] = as_texts(name, given[name])
    if given.get("fold_table") is not None:
        parsed["fold_table"] = _fold_table(as_mapping("fold_table", given["fold_table"]))
    return parsed


def _term(value: Any, content: Any) -> Term:
    if not _is_whole(value):
        raise ValueError(f"terms: {value!r}: {content!r}: expected a label value and its term, such as 1: liver")
    field = f"terms: {value}"
    if isinstance(content, Mapping):
        _refuse_unknown(field, content, Term, {"name"})
        return Term(int(value), **_simple(Term, content, f"{field}: "))
    return Term(int(value), as_text(field, content))


def _fold_rule(fold: Any, content: Any) -> FoldRule:
    name = as_text("folds", fold)
    if isinstance(content, int | float) and not isinstance(content, bool):
        return FoldRule(name, fraction=float(content))
    if not isinstance(content, str | list | tuple):
        raise ValueError(f"folds: {name}: {content!r}: expected a share such as 0.2, or globs of cases or patients")
    return FoldRule(name, match=as_texts(f"folds: {name}", content))


def _fold_table(content: Mapping[Any, Any]) -> FoldTable:
    _refuse_unknown("fold_table", content, FoldTable, {"file", "case", "fold"})
    rename = as_mapping("fold_table: rename", content.get("rename")).items()
    pairs = tuple((as_text("fold_table: rename", k), as_text(f"fold_table: rename: {k}", v)) for k, v in rename)
    return FoldTable(**_simple(FoldTable, content, "fold_table: "), rename=pairs)


def _override(number: int, content: Any) -> Override:
    field = f"overrides: number {number}"
    if not isinstance(content, Mapping):
        raise ValueError(f"{field}: {content!r}: expected keys, such as {{match: 'mr*', modality: MR}}")
    _refuse_unknown(field, content, Override, {"match"})
    lists = [name for name in ("match", "annotated", "absent") if content.get(name) is not None]
    texts = {name: as_texts(f"{field}: {name}", content[name]) for name in lists}
    return Override(**_simple(Override, content, f"{field}: "), **texts)  # type: ignore[arg-type]


def _refuse_unknown(field: str, content: Mapping[Any, Any], kind: type, required: set[str]) -> None:
    known = {f.name for f in dataclasses.fields(kind)} - ({"value"} if kind is Term else set())
    if unknown := {str(key) for key in content} - known:
        raise ValueError(f"{field}: unknown keys {sorted(unknown)}; known are {', '.join(sorted(known))}")
    if missing := sorted(name for name in required if content.get(name) is None):
        raise ValueError(f"{field}: {dict(content)!r} has no {missing[0]}: add it")
