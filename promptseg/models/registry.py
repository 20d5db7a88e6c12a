"""Which weights ship with the package, and where those that are asked for lie."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from ..shipped import CONFIG_NAME, WEIGHTS_NAME, list_models, search_paths

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "list_models", "resolve", "revision", "search_paths"]


def resolve(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Folder of a checkpoint.

    Args:
        name: a shipped checkpoint's name; or a folder with ``config.json`` and ``model.safetensors``; or a Hub id,
            ``owner/name``. What is on this machine under that name is preferred.
        revision: branch, tag or commit of a Hub id.
        cache_dir: the Hub's cache; None for the client's own choice.
        token: of the Hub.
        local_files_only: do not ask the Hub.

    Raises:
        ValueError: for an unknown name (the nearest are listed), an incomplete folder, or a Hub id that cannot be had.
    """
    shipped = list_models()
    folder = shipped.get(str(name), Path(name))
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision={revision!r}: {str(name)!r} is a folder on this machine ({folder}), which has no revisions; "
                "leave it out, or give a Hub id owner/name"
            )
        missing = [n for n in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / n).is_file()]
        if missing:
            raise ValueError(
                f"checkpoint folder {str(name)!r} has no {' and no '.join(missing)}; "
                "expected both, as save_pretrained writes them"
            )
        return folder

    from ..hub import fetch, is_repo_id

    if is_repo_id(name):
        return fetch(
            str(name),
            (CONFIG_NAME, WEIGHTS_NAME),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
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
