"""Checkpoints that ship with the package; found without loading torch."""

from __future__ import annotations

import json
from pathlib import Path

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
_PACKAGE = Path(__file__).resolve().parent


def search_paths() -> list[Path]:
    """Folders that may hold shipped checkpoints: inside an installed package, or beside it in a checkout."""
    return [_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints"]


def list_models() -> dict[str, Path]:
    """Name -> folder of every checkpoint that ships and is complete."""
    found: dict[str, Path] = {}
    for parent in search_paths():
        for weights in sorted(parent.glob(f"*/{WEIGHTS_NAME}")):
            if (weights.parent / CONFIG_NAME).is_file():
                found.setdefault(weights.parent.name, weights.parent)
    return found


def trained_names(name: str) -> tuple[str, ...] | None:
    """Names that weights were trained to find structures by.

    Args:
        name: a checkpoint that ships, a folder, or a Hub id, which is fetched.

    Returns:
        The names; empty for weights that do not understand text; None where nothing ships under a plain name.

    Raises:
        ValueError: for a folder or Hub id that cannot be had.
    """
    folder = list_models().get(name)
    if folder is None and not Path(name).is_dir():
        if "/" not in name:
            return None
        from .models.registry import resolve

        folder = resolve(name)
    path = (folder or Path(name)) / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"folder {name!r} has no {CONFIG_NAME}; expected weights, as save_pretrained writes them")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return tuple(str(term["name"]) for term in content.get("model", content).get("text_terms", ()))
    except (ValueError, OSError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a configuration of weights ({error}); fetch the checkpoint again") from error
