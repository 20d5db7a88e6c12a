"""The entry point: finds the subcommand, and turns errors of the user's input into one line and exit code 2."""

from __future__ import annotations

import difflib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import __version__
from ..extras import missing_module_message
from .command import parse_options
from .commands import COMMANDS, load_command

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
TURNS_OF_WAITING = "3000"
"""How often a thread of GNU's OpenMP, which torch brings, looks for work before it sleeps. Where other programs keep
the cores busy all wait for the one without a core, and with its own 300 000 a click takes about twice as long."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: words after ``promptseg``; None for those of the process.

    Returns:
        0 when all went well, 2 for input that cannot be used, 1 when the machine could not do it (out of memory, a
        self-test that fails).
    """
    _open_closed_streams()
    if arguments is None:  # the process is the command's, and torch is not loaded yet
        os.environ.setdefault("GOMP_SPINCOUNT", TURNS_OF_WAITING)
        _show_any_name()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:
        return _without_reader()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _without_reader()
    except OSError as error:
        _without_reader()
        return _fail(f"the output could not be written ({error.strerror or error}); write it elsewhere", EXIT_BAD_INPUT)
    return code


def _open_closed_streams() -> None:
    """Gives a process that was started with a closed stdout or stderr, such as by a scheduler, one to nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for as long as the process)


def _show_any_name() -> None:
    """Lets stdout show the name of any file: what its encoding lacks is written as an escape, not an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _without_reader() -> int:
    """Exit code where nobody reads stdout any more: nothing more to say, and no error of it when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(words: list[str]) -> int:
    """Runs a command, and gives its exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"promptseg {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        return _fail(f"unknown command {name!r}: {hint}", EXIT_BAD_INPUT)
    shows_traceback = "--debug" in words
    try:
        with messages_on_stderr(logging.INFO if shows_traceback else logging.WARNING):
            command = load_command(name)
            return command.run(parse_options(name, command, words[1:]))
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except (ValueError, OSError, ImportError) as error:
        if shows_traceback:
            raise
        missing = missing_module_message(error, name) if isinstance(error, ImportError) else None
        return _fail(missing or str(error), EXIT_BAD_INPUT)
    except Exception as error:
        if shows_traceback or not _is_out_of_memory(error):
            raise
        return _fail(f"out of memory ({error}); close other programs, or compute with --device cpu", EXIT_FAILED)


def overview() -> str:
    """What ``promptseg --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: promptseg COMMAND [options]",
        "",
        "Promptable segmentation of 3D medical images. Not for clinical use.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()),
        "",
        "promptseg COMMAND --help lists a command's options; promptseg --version prints the version.",
        "",
        "example:",
        "  promptseg segment ct.nii.gz --point 86,47,100 -o liver.nii.gz",
    ]
    return "\n".join(lines)


def _fail(message: str, code: int) -> int:
    print(f"promptseg: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@contextmanager
def messages_on_stderr(level: int) -> Iterator[None]:
    """The library's log and warnings as single lines on stderr; those of other packages stay out of the way."""
    library = logging.getLogger("promptseg")
    before = library.handlers[:], library.level, library.propagate
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    library.handlers[:], library.propagate = [handler], False
    library.setLevel(level)

    def show(message: Any, category: type[Warning], filename: str, *_: Any) -> None:
        library.warning("%s", message)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module=r"promptseg\b")
            warnings.showwarning = show
            yield
    finally:
        library.handlers[:], library.propagate = before[0], before[2]
        library.setLevel(before[1])


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"promptseg: {record.levelname.lower()}: {' '.join(record.getMessage().split())}"
