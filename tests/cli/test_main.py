"""Exit codes, and one line for what went wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
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


def as_program(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of ``promptseg`` and these words, which are its own, redirections too."""
    command = f'"{sys.executable}" -m promptseg {words}'
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=kept | environment)


@pytest.mark.skipif(os.name != "posix", reason="redirections of a POSIX shell")
def test_closed_streams_are_no_error(weights: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask.nii.gz"
    words = f"segment '{image}' --point 8,7,4 --model '{weights}' -o '{out}' >&- 2>&-"
    assert as_program(words).returncode == 0
    assert out.is_file()
    assert as_program("nothing >&- 2>&-").returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written_is_one_line() -> None:
    done = as_program("--version >/dev/full")
    assert done.returncode == 2
    assert done.stderr == (
        "promptseg: error: the output could not be written (No space left on device); write it elsewhere\n"
    )


def test_a_name_that_the_encoding_lacks_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    done = as_program(f"cache --folder '{folder}'", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe: empty" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["segment", "--help"], ["vocabulary", "list"], ["--version"]])
def test_a_reader_that_leaves_early_is_no_error(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-u", "-m", "promptseg", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
