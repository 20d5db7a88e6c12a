"""``promptseg cache``: the folder of image embeddings that outlive a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .command import Command, option


@dataclass(frozen=True)
class CacheConfig:
    """Shows how much the embeddings kept on disk take, or deletes them.

    They are kept by promptseg segment --cache and by Predictor(cache_dir=...), and only save time: clearing them loses
    nothing else.
    """

    action: Literal["size", "clear"] = option("size", is_positional=True)
    """size: show folder, number and bytes; clear: delete them"""
    folder: str | None = option(None, metavar="FOLDER")
    """another folder than $PROMPTSEG_CACHE or the user's cache folder"""


def run(config: CacheConfig) -> int:
    """Prints one line."""
    from ..cache import DiskCache, default_disk_dir

    folder = Path(config.folder) if config.folder else default_disk_dir()
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"--folder {folder}: expected a folder, and it is a file")
        print(f"{folder}: empty (the folder does not exist yet)")
        return 0
    cache = DiskCache(folder)
    entries = cache.entries()
    if config.action == "clear":
        freed = cache.clear()
        print(f"{folder}: {len(entries)} embeddings deleted, {format_bytes(freed)} freed")
    else:
        held, most = format_bytes(cache.num_bytes), format_bytes(cache.max_bytes)
        print(f"{folder}: {len(entries)} embeddings, {held} of at most {most}")
    return 0


def format_bytes(count: float) -> str:
    """Bytes as people read them.

    Example:
        >>> format_bytes(3 * 2**20)
        '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop returns")


COMMAND = Command(CacheConfig, run, example="  promptseg cache\n  promptseg cache clear")
