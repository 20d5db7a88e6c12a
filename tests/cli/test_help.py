"""Help answers at once, without torch, and shows an example."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from promptseg.cli.command import build_parser, field_docstrings
from promptseg.cli.commands import COMMANDS, load_command

SCRIPT = """
import sys
from promptseg.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "monai", "timm", "scipy", "PIL", "SimpleITK"} & set(sys.modules)
sys.exit(code or (f"imported {heavy}" if heavy else 0))
"""


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_is_quick_and_has_an_example(words: list[str]) -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "usage: promptseg" in done.stdout
    example = done.stdout.split("example:\n")[1]
    assert example.strip().startswith("promptseg ")
    assert seconds < 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    command = load_command(name)
    explained = field_docstrings(command.config)
    parser = build_parser(name, command)
    for action in parser._actions:
        assert action.help, f"{name} {action.option_strings}"
    assert explained


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    import shlex

    from promptseg.cli.command import parse_options

    command = load_command(name)
    lines = command.example.splitlines()
    assert lines
    for line in lines:
        program, used, *words = shlex.split(line)
        assert (program, used) == ("promptseg", name)
        parse_options(name, command, words)
