"""The README's Python block runs, its command lines parse, and the files it names exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from promptseg import demo
from promptseg.cli.command import parse_options
from promptseg.cli.commands import COMMANDS, load_command

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_first_block_is_the_two_commands() -> None:
    first, second = blocks("bash")[0].strip().splitlines()
    assert first == "pip install . && promptseg demo"
    assert second == "pip install '.[test]' && pytest"


def test_python_block_runs(promptseg_tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, words = blocks("python")
    assert promptseg_tiny in source
    shutil.copy(demo.IMAGE, tmp_path / "ct.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec"), names)
    assert (tmp_path / "liver.nii.gz").is_file()
    mask = names["result"].mask
    exec(compile(words, "README.md", "exec"), names)  # goes on with the same predictor
    assert (tmp_path / "labels.nii.gz").is_file() == names["predictor"].understands_text
    assert mask[92, 51, 100] == mask[57, 73, 105] == 1
    assert mask[64, 54, 98] == 0


def command_lines() -> list[str]:
    lines = [line for block in blocks("bash")[1:] for line in block.splitlines()]
    return [line for line in lines if line.startswith("promptseg ")]


@pytest.mark.parametrize("line", command_lines())
def test_command_line_parses(line: str) -> None:
    _, name, *words = shlex.split(line)
    assert name in COMMANDS
    parse_options(name, load_command(name), words)


def test_files_it_names_exist() -> None:
    named = re.findall(r"`((?:examples|benchmarks|checkpoints|\.ci)/[\w./-]*|[A-Z]+(?:\.md)?)`", README)
    paths = [n for n in named if n in ("LICENSE", "NOTICE", "CHANGELOG.md") or "/" in n]
    assert len(paths) >= 5
    missing = [p for p in paths if not (ROOT / p).exists()]
    assert not missing
    scripts = re.findall(r"\bpython (\S+\.py)", README)
    assert len(scripts) >= 3
    assert all((ROOT / script).is_file() for script in scripts)
