"""A store as Zarr, for object stores: the same index and crops as :class:`~promptseg.data.store_reader.Store`.

Needs the ``zarr`` extra, and for a remote address what fsspec needs for it (``s3fs`` for ``s3://``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .store_case import IMAGE, LABEL, StoreConfig
from .store_reader import Store, StoreCase
from .store_source import ArraySource, Kind, StoredArray


class ZarrSource(ArraySource):
    """Arrays of a store in a Zarr group.

    Connections belong to one thread of one process: a fork opens its own.

    Args:
        address: folder, or URL such as ``s3://bucket/store``.
        options: for fsspec, such as ``{"anon": True}``.
    """

    def __init__(self, address: str, options: dict[str, Any] | None = None) -> None:
        self.address = address
        self.options = options
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def group(self) -> Any:
        """The root group, opened for reading.

        Raises:
            ValueError: if there is none at the address.
        """
        if getattr(self._local, "process", None) != os.getpid():
            zarr = _zarr()
            try:
                group = zarr.open_group(self.address, mode="r", storage_options=self.options)
            except FileNotFoundError as error:
                raise ValueError(f"no Zarr store at {self.address}: write one with export_zarr") from error
            self._local.group, self._local.process = group, os.getpid()
        return self._local.group

    def open(self, record: dict[str, Any], kind: Kind) -> StoredArray:
        """See :class:`~promptseg.data.store_source.ArraySource`."""
        return self.group[f"{record['folder']}/{kind}"]

    def foreground(self, record: dict[str, Any]) -> np.ndarray:
        """See :class:`~promptseg.data.store_source.ArraySource`."""
        return self.group[f"{record['folder']}/foreground"][:]

    def damaged(self, record: dict[str, Any]) -> list[str]:
        """Names of arrays with a chunk that does not decode or fails its CRC32C."""
        bad = []
        for name in record["arrays"]:
            try:
                self.group[f"{record['folder']}/{name}"][...]
            except Exception:  # codecs raise their own errors; any of them means that the bytes are not as written
                bad.append(name)
        return bad


def open_zarr_store(address: str | Path, options: dict[str, Any] | None = None) -> Store:
    """Opens a store that :func:`export_zarr` wrote.

    Args:
        address: folder, or URL that fsspec knows (``s3://``, ``gs://``, ``https://``, ``memory://``).
        options: for fsspec.

    Returns:
        A store; one small read, arrays are read crop by crop.

    Raises:
        ValueError: if there is none at the address, or zarr is not installed.
    """
    source = ZarrSource(str(address), options)
    content = source.group.attrs.asdict()
    if content.get("format") != "promptseg-store":
        raise ValueError(f"the Zarr group at {address} is not a promptseg store: write one with export_zarr")
    return Store.from_parts(content["datasets"], content["index"], source)


def export_zarr(
    store: Store,
    address: str | Path,
    *,
    options: dict[str, Any] | None = None,
    chunk_size: int = StoreConfig.chunk_size,
    shard_chunks: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a store as Zarr version 3.

    Args:
        store: what to write.
        address: folder or URL; an earlier store there is replaced.
        options: for fsspec.
        chunk_size: side of a chunk in voxels: what a crop reads at least.
        shard_chunks: side of a shard, one object of the object store, in chunks.
        progress: called with the number of cases done and of all cases.

    Raises:
        ValueError: if zarr is not installed.
    """
    zarr = _zarr()
    group = zarr.open_group(str(address), mode="w", storage_options=options)
    records = []
    for done, case in enumerate(store, 1):
        names = []
        for kind, array in _arrays(case):
            chunks = tuple(min(chunk_size, max(side, 1)) for side in array.shape)
            sides = zip(chunks, array.shape, strict=True)
            shards = tuple(chunk * min(shard_chunks, -(-side // chunk) or 1) for chunk, side in sides)
            target = group.create_array(
                f"{case.record['folder']}/{kind}", shape=array.shape, dtype=array.dtype, chunks=chunks, shards=shards
            )
            target[...] = array
            names.append(kind)
        records.append({**case.record, "arrays": names})
        if progress is not None:
            progress(done, len(store))
    group.attrs.update({"format": "promptseg-store", "datasets": store.datasets, "index": records})


def _arrays(case: StoreCase) -> list[tuple[str, np.ndarray]]:
    arrays: list[tuple[str, np.ndarray]] = []
    if IMAGE in case.record["files"]:
        arrays.append(("image", case.read("image")))
    if LABEL in case.record["files"]:
        arrays.append(("label", case.read("label")))
        arrays.append(("foreground", case.source.foreground(case.record)))
    return arrays


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ValueError("a Zarr store needs the package zarr: pip install 'promptseg[zarr]'") from error
    return zarr
