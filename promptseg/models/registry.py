"""Which weights ship with the package, and where they lie."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
_PACKAGE = Path(__file__).resolve().parent.parent


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


def resolve(name: str | Path) -> Path:
    """Folder of a checkpoint.

    Args:
        name: a shipped checkpoint's name, or a folder with ``config.json`` and ``model.safetensors``.

    Raises:
        ValueError: for an unknown name (the nearest are listed) or an incomplete folder.
    """
    shipped = list_models()
    if str(name) in shipped:
        return shipped[str(name)]
    folder = Path(name)
    if folder.is_dir():
        missing = [n for n in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / n).is_file()]
        if missing:
            raise ValueError(
                f"checkpoint folder {str(name)!r} has no {' and no '.join(missing)}; expected both, as save_pretrained writes them"
            )
        return folder
    near = difflib.get_close_matches(str(name), shipped, n=3, cutoff=0.3) or list(shipped)
    hint = (
        f"shipped checkpoints near that name: {', '.join(near)}"
        if near
        else "no checkpoint ships with this installation"
    )
    raise ValueError(f"unknown checkpoint {str(name)!r}: not shipped and not a folder; {hint}")


def revision(folder: Path) -> str:
    """Digest of a checkpoint's weights and configuration, part of every cache key."""
    digest = hashlib.blake2b(digest_size=12)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        with open(folder / name, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
