"""Packages that only parts of the library need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from promptseg.cli.commands import COMMANDS
from promptseg.extras import COMMAND_EXTRAS, EXTRAS, missing_module_message

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_they_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(COMMAND_EXTRAS) <= set(COMMANDS)
    for extra, packages in EXTRAS.items():
        assert {re.split(r"[><=; ]", line)[0] for line in declared[extra]} == set(packages)


@pytest.mark.parametrize(
    ("module", "command", "cure"),
    [
        ("scipy", "evaluate", "needs scipy, which is not installed: pip install 'promptseg[evaluation]'"),
        ("scipy.ndimage", "data", "pip install 'promptseg[data]'"),
        ("cc3d", "evaluate", "needs connected-components-3d"),
        ("peft", "segment", "promptseg segment needs peft, which is not installed: pip install 'promptseg[finetune]'"),
    ],
)
def test_what_is_missing_is_named_with_its_cure(module: str, command: str, cure: str) -> None:
    message = missing_module_message(ModuleNotFoundError("No module", name=module), command)
    assert message is not None
    assert cure in message


def test_other_failures_to_import_are_left_as_they_are() -> None:
    assert missing_module_message(ModuleNotFoundError("No module named 'x'", name="x"), "evaluate") is None
    assert missing_module_message(ImportError("cannot import name 'a' from 'scipy'", name="scipy"), "evaluate") is None
    assert missing_module_message(ImportError("no module, but a cure"), "evaluate") is None
