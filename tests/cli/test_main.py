"""Exit codes, and one line for what went wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest

from promptseg import __version__
from promptseg.cli import commands, main
from promptseg.cli.cache import CacheConfig
from promptseg.cli.command import Command

from .conftest import Run


def test_version_and_overview(run: Run) -> None:
    assert run("--version").out == f"promptseg {__version__}\n"
    for words in ([], ["--help"], ["help"]):
        outcome = run(*words)
        assert outcome.code == 0
        assert all(f"  {name} " in outcome.out for name in commands.COMMANDS)


def test_threads_of_a_command_do_not_keep_a_core_busy_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["promptseg", "--version"])
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    main()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    main(["--version"])  # in somebody else's process: their threads are left alone
    assert "GOMP_SPINCOUNT" not in os.environ
    main()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 10_000


def test_unknown_command_names_the_nearest(run: Run) -> None:
    outcome = run("segmnet", "x")
    assert outcome.code == 2
    assert outcome.error == "promptseg: error: unknown command 'segmnet': did you mean 'segment'?"
    assert "expected one of segment, info" in run("xyz").error


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes ``promptseg cache`` raise what a test wants."""

    def install(error: BaseException) -> None:
        def fail(config: CacheConfig) -> int:
            raise error

        monkeypatch.setattr("promptseg.cli.cache.COMMAND", Command(CacheConfig, fail, "  promptseg cache"))

    return install


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad value\nand its cure"), 2, "promptseg: error: bad value and its cure"),
        (OSError(28, "No space left on device", "x.nii"), 2, "No space left on device: 'x.nii'"),
        (ModuleNotFoundError("No module named 'SimpleITK'", name="SimpleITK"), 2, "pip install 'promptseg[itk]'"),
        (MemoryError("unable to allocate 9 GiB"), 1, "out of memory (unable to allocate 9 GiB)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line(run: Run, raising: Any, error: BaseException, code: int, message: str) -> None:
    raising(error)
    outcome = run("cache")
    assert outcome.code == code
    assert message in outcome.error
    assert outcome.out == ""


def test_debug_shows_the_traceback(raising: Any) -> None:
    raising(ValueError("bad value"))
    with pytest.raises(ValueError, match="bad value"):
        main(["cache", "--debug"])


def test_a_defect_is_not_hidden_as_bad_input(raising: Any) -> None:
    raising(TypeError("a defect"))
    with pytest.raises(TypeError):
        main(["cache"])


def test_messages_are_lines_and_settings_are_restored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(config: CacheConfig) -> int:
        logging.getLogger("promptseg.somewhere").warning("check\nthis")
        logging.getLogger("promptseg.somewhere").info("not shown")
        warnings.warn("other packages' news", FutureWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("promptseg.cli.cache.COMMAND", Command(CacheConfig, warn, "  promptseg cache"))
    library, show = logging.getLogger("promptseg"), warnings.showwarning
    before = library.handlers[:], library.level, library.propagate
    assert run("cache").err == "promptseg: warning: check this\n"
    assert (library.handlers, library.level, library.propagate) == before
    assert warnings.showwarning is show


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "promptseg", "cache", "wipe"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["--help"], ["segment", "--help"], ["vocabulary", "list"], ["--version"]])
def test_a_reader_that_leaves_early_is_no_error(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-u", "-m", "promptseg", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
