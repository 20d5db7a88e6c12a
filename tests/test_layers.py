"""What is loaded to answer a click knows nothing of how its weights were trained, measured or asked for."""

from __future__ import annotations

import re
from pathlib import Path

import promptseg

UPPER = ("training", "evaluation", "cli")


def test_no_module_imports_from_a_layer_above() -> None:
    root = Path(promptseg.__file__).parent
    imported = re.compile(rf"^\s*(?:from|import) (?:\.+|promptseg\.)({'|'.join(UPPER)})\b", re.MULTILINE)
    found = {
        str(path.relative_to(root)): imported.findall(path.read_text(encoding="utf-8"))
        for path in root.rglob("*.py")
        if path.relative_to(root).parts[0] not in (*UPPER, "__main__.py")
    }
    assert {name: modules for name, modules in found.items() if modules} == {}
