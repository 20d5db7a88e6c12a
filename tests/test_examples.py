"""The examples run as their docstrings say, each printing a number or writing a picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from promptseg.models.registry import list_models

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))


def test_they_are_there_and_short() -> None:
    assert len(EXAMPLES) >= 3
    for path in EXAMPLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path) -> None:
    if "promptseg-tiny" not in list_models():
        pytest.skip("the weights promptseg-tiny are not in this checkout")
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any(character.isdigit() for character in done.stdout)
