"""What a subcommand is, and its parser made from the dataclass of its options."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        config: frozen dataclass of its options. Each field with its docstring becomes an option, ``--field-name``;
            what the shell needs beyond that is said with :func:`option`. Its ``__post_init__`` raises ValueError for
            contradictions.
        run: does the work and returns the exit code; prints results to stdout; raises ValueError or OSError for input
            that it cannot use.
        example: command lines, shown at the end of the help.
    """

    config: type
    run: Callable[[Any], int]
    example: str


def option(
    default: Any = dataclasses.MISSING,
    *,
    short: str | None = None,
    metavar: str | None = None,
    is_positional: bool = False,
    is_repeatable: bool = False,
) -> Any:
    """A dataclass field with what the shell needs to know of it.

    Args:
        default: value when it is not given; none makes it required.
        short: a one-letter spelling such as ``-o``.
        metavar: how its value is written in the help.
        is_positional: given by place instead of by name.
        is_repeatable: may be given several times; the field is then a tuple.
    """
    shell = {"short": short, "metavar": metavar, "is_positional": is_positional, "is_repeatable": is_repeatable}
    return dataclasses.field(default=default, metadata=shell)


def build_parser(name: str, command: Command) -> ArgumentParser:
    """The parser of a subcommand.

    Args:
        name: of the subcommand.
        command: what it is.
    """
    from jsonargparse import ActionYesNo, ArgumentParser

    parser = ArgumentParser(
        prog=f"promptseg {name}",
        description=inspect.cleandoc(command.config.__doc__ or ""),
        epilog=f"example:\n{command.example.rstrip()}",
        formatter_class=_formatter(),
        exit_on_error=False,
        print_config=None,
    )
    hints = typing.get_type_hints(command.config)
    helps = field_docstrings(command.config)
    for field in dataclasses.fields(command.config):
        if not field.init:
            continue
        shell: dict[str, Any] = {"short": None, "metavar": None, **field.metadata}
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        settings: dict[str, Any] = {"help": _percent(helps.get(field.name, ""))}
        if has_default:
            is_plain = field.default is not dataclasses.MISSING
            settings["default"] = field.default if is_plain else field.default_factory()  # pyright: ignore[reportCallIssue]
        if shell["metavar"]:
            settings["metavar"] = shell["metavar"]
        if shell.get("is_repeatable") and shell.get("is_positional"):
            settings.update(nargs="+")
        elif shell.get("is_repeatable"):
            settings.update(action=_Repeated, default=[])
        elif hints[field.name] is bool:
            settings["action"] = ActionYesNo(no_prefix="no-") if settings.get("default") else "store_true"
        else:
            settings["type"] = hints[field.name]
        if shell.get("is_positional"):
            if has_default and not shell.get("is_repeatable"):
                settings["nargs"] = "?"
            parser.add_argument(field.name, **settings)
        else:
            flags = [f for f in (shell["short"], "--" + field.name.replace("_", "-")) if f]
            if not has_default:
                settings["required"] = True
            parser.add_argument(*flags, **settings)
    parser.add_argument("--config", action="config", help="YAML file of these options; later options win")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    return parser


def parse_options(name: str, command: Command, arguments: Sequence[str]) -> Any:
    """Reads a command line into the subcommand's config.

    Args:
        name: of the subcommand.
        command: what it is.
        arguments: the words after its name.

    Raises:
        ValueError: for words that do not fit, in one line.
        SystemExit: with 0, after ``--help``.
    """
    from jsonargparse import ArgumentError

    parser = build_parser(name, command)
    try:
        values = parser.parse_args(join_negative_values(arguments))
        values = parser.instantiate(values)
    except ArgumentError as error:
        raise ValueError(_readable(str(error), name)) from error
    fields = [f for f in dataclasses.fields(command.config) if f.init]
    hints = typing.get_type_hints(command.config)
    repeated = {
        f.name: as_repeated(values[f.name], is_text=hints[f.name] == tuple[str, ...])
        for f in fields
        if f.metadata.get("is_repeatable")
    }
    return command.config(**{f.name: repeated.get(f.name, values[f.name]) for f in fields})


def as_repeated(value: Any, is_text: bool = False) -> tuple[Any, ...]:
    """The values of an option that may be repeated, of what a YAML file has for it.

    Args:
        value: a list, or one value where there is only one: text as on the command line, or the numbers of a point.
        is_text: whether each is a text, of which YAML takes some for numbers.

    Example:
        >>> as_repeated("86,47,100"), as_repeated([86, 47, 100]), as_repeated(["1,2,3", [4, 5, 6]])
        (('86,47,100',), ([86, 47, 100],), ('1,2,3', [4, 5, 6]))
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        value = [value]
    if is_text:
        return tuple(str(v) for v in value)
    is_one = len(value) > 1 and all(isinstance(v, (int, float)) for v in value)
    return (list(value),) if is_one else tuple(value)


class _Typed(str):
    """A value that was given on the command line, and not in a YAML file."""


class _Repeated(argparse.Action):
    """Collects the values of an option that may be repeated; the first one replaces those of a YAML file before it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        before: Any = getattr(namespace, self.dest, None)
        is_typed = isinstance(before, list) and all(isinstance(value, _Typed) for value in before)
        typed = before if is_typed else []
        setattr(namespace, self.dest, [*typed, _Typed(values)])


def join_negative_values(arguments: Sequence[str]) -> list[str]:
    """Writes ``--point -12.5,3,4`` as ``--point=-12.5,3,4``, which argparse would take for another option.

    Example:
        >>> join_negative_values(["ct.nii", "--point", "-12.5,3,4", "--debug", "-o", "x"])
        ['ct.nii', '--point=-12.5,3,4', '--debug', '-o', 'x']
    """
    joined: list[str] = []
    for word in arguments:
        if re.match(r"-\.?\d", word) and joined and re.fullmatch(r"--[a-z][a-z0-9.-]*", joined[-1]):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def field_docstrings(config: type) -> dict[str, str]:
    """Field name -> the docstring below it, in one line; of base classes too."""
    import ast
    import textwrap

    found: dict[str, str] = {}
    for parent in reversed(config.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def _formatter() -> type:
    """Help that keeps the example's lines, and shows defaults but no Python types."""

    class HelpFormatter(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            text = action.help or ""
            is_worth_saying = action.default not in (None, False, [], argparse.SUPPRESS) and not action.required
            return f"{text} (default: {_percent(str(action.default))})" if is_worth_saying else text

    return HelpFormatter


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _readable(message: str, name: str) -> str:
    """One line of jsonargparse's message, with the option spelt as the user gave it."""
    line = " ".join(message.split())
    line = re.sub(r'^(?:Parser key|Option) "([\w.]+)":', lambda m: f"--{m[1].replace('_', '-')}:", line)
    line = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", line)
    line = re.sub(r"Expected a <class '(\w+)'>", r"expected \1", line)
    return f"{line}; see promptseg {name} --help"
