"""Plain values, as YAML and command lines give them, made what a configuration's type hints say."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

_EXPECTED = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def read_fields(path: str | Path) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        ValueError: if it is missing, a folder, not YAML, or something else than fields with values.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}; expected a YAML file of fields") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML: {reason}; expected lines such as `max_steps: 4000`") from error
    if not isinstance(values, dict | None):
        raise ValueError(f"{path} holds {_shown(values)}: expected fields, in lines such as `max_steps: 4000`")
    return values or {}


def build(kind: Any, values: Mapping[str, Any], source: str = "", prefix: str = "") -> Any:
    """Builds a frozen dataclass, nested ones too, from plain values.

    Args:
        kind: the dataclass.
        values: field name to value.
        source: where they came from, put before a message.
        prefix: dotted name of the field that is built, with a dot after it.

    Raises:
        ValueError: for a field that is unknown or missing, and for a value that is not what its type hint says.
    """
    try:
        names = {f.name for f in dataclasses.fields(kind)}
        if unknown := sorted(str(name) for name in set(values) - names):
            named = f"{', '.join(prefix + n for n in unknown)} in {kind.__name__}"
            raise ValueError(f"unknown field(s) {named}; correct or remove them, or update promptseg")
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in values and f.default is f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"missing field(s) {', '.join(prefix + n for n in missing)} in {kind.__name__}")
        hints = get_type_hints(kind)
        fitting = {name: converted(value, hints[name], prefix + name) for name, value in values.items()}
        return _made(kind, fitting, prefix)
    except ValueError as error:
        if not source:
            raise
        raise ValueError(f"{source}: {error}") from error


def _made(kind: Any, values: dict[str, Any], prefix: str) -> Any:
    try:
        return kind(**values)
    except ZeroDivisionError as error:
        zeros = [f"{prefix}{name}=0" for name, value in values.items() if value == 0 and value is not False]
        raise ValueError(f"{' and '.join(zeros) or prefix}: expected 1 or more") from error
    except ValueError as error:  # the dataclass's own, which does not know in which field it stands
        raise ValueError(f"{prefix[:-1]}: {error}" if prefix else str(error)) from error


def converted(value: Any, hint: Any, name: str) -> Any:
    """A value as its type hint says: ``1e-3``, which YAML reads as a string, is a number where one is expected.

    Args:
        value: plain, or fitting already.
        hint: bool, int, float, str, a ``Literal``, a tuple, a dictionary or a dataclass of these.
        name: dotted name of the field, for messages.

    Raises:
        ValueError: if it is something else; the message names field, value and what is expected.
    """
    if hint in _EXPECTED:
        return _scalar(value, hint, name)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return build(hint, value, prefix=f"{name}.")
        if isinstance(value, hint):  # pyright: ignore[reportArgumentType]
            return value
        raise _refusal(name, value, "fields with values, such as {field: value}; leave the line out for the defaults")
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in inner:
            raise _refusal(name, value, f"one of {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _refusal(name, value, "a list, such as [1, 2]")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise _refusal(name, value, f"a list of {len(kinds)}")
        return tuple(converted(v, kind, f"{name}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _refusal(name, value, "names with values, such as {name: 1}")
        names = [converted(k, inner[0], f"a name in {name}") for k in value]
        return {k: converted(v, inner[1], f"{name}.{k}") for k, v in zip(names, value.values(), strict=True)}
    return value


def _scalar(value: Any, kind: Any, name: str) -> Any:
    if kind is bool or kind is str:
        if isinstance(value, Path) and kind is str:
            return str(value)
        if not isinstance(value, kind):
            raise _refusal(name, value, _EXPECTED[kind])
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        raise _refusal(name, value, _EXPECTED[kind])
    if type(value) is kind is int:
        return value  # exactly, which a float would not be
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise _refusal(name, value, _EXPECTED[kind]) from error
    if math.isnan(number) or (kind is int and not number.is_integer()):
        raise _refusal(name, value, _EXPECTED[kind])
    return kind(number)


def _refusal(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name}={_shown(value)}: expected {expected}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
