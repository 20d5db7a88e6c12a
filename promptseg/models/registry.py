"""Which weights ship with the package, and where those that are asked for lie."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any

from ..shipped import CONFIG_NAME, WEIGHTS_NAME, list_models, search_paths

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "list_models", "resolve", "revision", "search_paths"]


def resolve(name: str | Path, **hub: Any) -> Path:
    """Folder of a checkpoint.

    Args:
        name: a shipped checkpoint's name; or a folder with ``config.json`` and ``model.safetensors``; or a Hub id,
            ``owner/name``. What is on this machine under that name is preferred.
        hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of :func:`promptseg.hub.fetch`.

    Raises:
        ValueError: for an unknown name (the nearest are listed), an incomplete folder, or a Hub id that cannot be had.
    """
    shipped = list_models()
    from ..hub import locate

    folder = shipped.get(str(name), Path(name))
    found = locate(name, folder, (CONFIG_NAME, WEIGHTS_NAME), "checkpoint", "save_pretrained writes", **hub)
    if found is not None:
        return found
    near = difflib.get_close_matches(str(name), shipped, n=3, cutoff=0.3) or list(shipped)
    hint = (
        f"shipped checkpoints near that name: {', '.join(near)}"
        if near
        else "no checkpoint ships with this installation"
    )
    raise ValueError(f"unknown checkpoint {str(name)!r}: not shipped, not a folder, and no Hub id (owner/name); {hint}")


def revision(folder: Path) -> str:
    """Digest of a checkpoint's weights and configuration, part of every cache key."""
    digest = hashlib.blake2b(digest_size=12)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        with open(folder / name, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
