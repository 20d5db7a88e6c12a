"""Caches of image embeddings: least recently used in memory, bounded in bytes, and on disk if asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from .models.image_encoder import ImageEmbedding
from .tiles import TileKey

logger = logging.getLogger(__name__)

DEFAULT_MEMORY_BYTES = 512 * 2**20
DEFAULT_DISK_BYTES = 4 * 2**30
FORMAT = "promptseg-embedding-1"
HEADER_BYTES = 2**12
"""Most that an entry on disk takes beside its tensors."""
ABANDONED_AFTER_S = 3600.0
"""Age from which a partly written entry is taken to be a killed process's, and removed."""


def default_disk_dir() -> Path:
    """Where ``promptseg cache`` looks: ``$PROMPTSEG_CACHE``, or ``promptseg`` in the user's cache folder."""
    configured = os.environ.get("PROMPTSEG_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(configured) if configured else base / "promptseg"


@dataclass
class CacheStats:
    """Counts since the cache was made."""

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    rejected: int = 0
    """Disk entries that were corrupted or foreign, and were replaced."""


class DiskCache:
    """A folder of safetensors files, one for each embedding, shared by processes.

    An entry is written under a temporary name and renamed, so a reader never sees half of one. Its header holds the
    full key and a digest of its tensors; an entry that does not match both is ignored and replaced.

    Args:
        folder: made if missing.
        max_bytes: least recently used entries are deleted beyond this.
    """

    def __init__(self, folder: str | Path, max_bytes: int = DEFAULT_DISK_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cache folder {str(folder)!r} cannot be made ({error}); choose a writable folder"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.blake2b(key.encode(), digest_size=20).hexdigest()}.safetensors"

    def read(self, key: str) -> tuple[ImageEmbedding | None, bool]:
        """The entry of a key, or None; and whether a bad one was found in its place."""
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != FORMAT or metadata.get("key") != key:
                raise ValueError("it was written for another image, model or version")
            if metadata.get("digest") != _digest(tensors):
                raise ValueError("its contents do not match their digest")
            embedding = ImageEmbedding.from_tensors(tensors)
        except (SafetensorError, ValueError, KeyError, OSError, RuntimeError) as error:  # the last one is torch's
            if not path.exists():  # or no longer: another process may delete it between two looks
                return None, False
            logger.warning("cache entry %s is ignored and will be replaced: %s", path.name, error)
            return None, True
        with contextlib.suppress(OSError):
            os.utime(path)
        return embedding, False

    def has(self, key: str) -> bool:
        """Whether there is an entry of that name; it is verified only when it is read."""
        return self._path(key).exists()

    def write(self, key: str, embedding: ImageEmbedding) -> None:
        """Stores an entry; a full disk or a read-only folder costs the entry and a warning, never the result."""
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in embedding.tensors().items()}
        metadata = {"format": FORMAT, "key": key, "digest": _digest(tensors)}
        partial = self.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            partial.touch()
            mode = partial.stat().st_mode  # that of any new file; safetensors would give it to its owner alone
            save_file(tensors, partial, metadata=metadata)
            partial.chmod(mode)
            partial.replace(self._path(key))
            self._shrink()
        except Exception as error:  # safetensors raises its own type for I/O errors
            logger.warning(
                "cache entry not written to %s: %s; free some space or choose another folder", self.folder, error
            )
            with contextlib.suppress(OSError):
                partial.unlink()

    def entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of each entry, oldest first."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(size for _, size, _ in self.entries())

    def _shrink(self) -> None:
        for path in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    path.unlink()
        entries = self.entries()
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def clear(self) -> int:
        """Deletes every entry; returns the bytes freed."""
        freed = 0
        for _, size, path in self.entries():
            with contextlib.suppress(OSError):
                path.unlink()
                freed += size
        return freed


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings of one image's tiles, in memory up to a number of bytes and optionally on disk.

    Args:
        max_bytes: of the memory cache; the most recent entry is always kept.
        disk: folder cache behind it.
        device: of the model, to which entries from disk are brought.
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT_MEMORY_BYTES,
        disk: DiskCache | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_bytes = max_bytes
        self.disk = disk
        self.device = device
        self.stats = CacheStats()
        self._entries: OrderedDict[tuple[str, TileKey], ImageEmbedding] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes held in memory."""
        with self._lock:
            return sum(e.num_bytes for e in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, signature: str, tile: TileKey) -> ImageEmbedding | None:
        """The embedding of a tile of the image and model that ``signature`` names, or None."""
        with self._lock:
            entry = self._entries.get((signature, tile))
            if entry is not None:
                self._entries.move_to_end((signature, tile))
                self.stats.memory_hits += 1
                return entry
        if self.disk is not None:
            entry, was_rejected = self.disk.read(_disk_key(signature, tile))
            self.stats.rejected += was_rejected
            if entry is not None:
                self.stats.disk_hits += 1
                entry = entry.to(self.device)
                self._remember(signature, tile, entry)
                return entry
        self.stats.misses += 1
        return None

    def has(self, signature: str, tile: TileKey) -> bool:
        """Whether an embedding is in memory or, as far as its name tells, on disk; counts as no use of it."""
        with self._lock:
            if (signature, tile) in self._entries:
                return True
        return self.disk is not None and self.disk.has(_disk_key(signature, tile))

    def put(self, signature: str, tile: TileKey, embedding: ImageEmbedding) -> None:
        """Keeps an embedding."""
        self._remember(signature, tile, embedding)
        if self.disk is not None:
            self.disk.write(_disk_key(signature, tile), embedding)

    def _remember(self, signature: str, tile: TileKey, embedding: ImageEmbedding) -> None:
        with self._lock:
            self._entries[(signature, tile)] = embedding
            self._entries.move_to_end((signature, tile))
            total = sum(e.num_bytes for e in self._entries.values())
            while total > self.max_bytes and len(self._entries) > 1:
                _, dropped = self._entries.popitem(last=False)
                total -= dropped.num_bytes

    def clear(self) -> None:
        """Forgets what is in memory; the disk keeps its entries."""
        with self._lock:
            self._entries.clear()


def _disk_key(signature: str, tile: TileKey) -> str:
    return json.dumps([signature, tile.level, *tile.place, *(tile.shift if any(tile.shift) else ())])
