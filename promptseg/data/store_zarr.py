"""A store as Zarr, for object stores: the same index and crops as :class:`~promptseg.data.store_reader.Store`.

Needs the ``data`` extra, and for a remote address what fsspec needs for it (``s3fs`` for ``s3://``).
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .catalog_check import content_hash
from .store import FORMAT
from .store_case import StoreConfig
from .store_reader import Store, StoreCase
from .store_source import MAX_OPEN_FILES, StoredArray
from .store_target import EXPORT_VERSION, open_target

_CURE = "make the store whole with promptseg data prepare ... --verify, then export it"


class ZarrSource:
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
            self._local.group, self._local.arrays, self._local.process = group, OrderedDict(), os.getpid()
        return self._local.group

    def open(self, record: dict[str, Any], name: str) -> StoredArray:
        """See :class:`~promptseg.data.store_source.ArraySource`."""
        path, group = f"{record['folder']}/{name}", self.group
        arrays: OrderedDict[str, StoredArray] = self._local.arrays  # opening one asks the object store for its metadata
        array = arrays.pop(path, None)
        if array is None:
            array = group[path]
            while len(arrays) >= MAX_OPEN_FILES:
                arrays.popitem(last=False)
        arrays[path] = array
        return array

    def table(self, record: dict[str, Any], name: str) -> np.ndarray:
        """See :class:`~promptseg.data.store_source.ArraySource`."""
        return self.group[f"{record['folder']}/{name}"][:]

    def damaged(self, record: dict[str, Any]) -> list[str]:
        """Names of arrays that do not decode, or whose values are not those that were written."""
        bad = []
        for name, expected in record["arrays"].items():
            try:
                found = content_hash(self.group[f"{record['folder']}/{name}"][...])
            except Exception:  # codecs raise their own errors; any of them means that the bytes are not as written
                found = ""
            if found != expected:
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
    if content.get("format") != FORMAT:
        raise ValueError(f"the Zarr group at {address} is not a promptseg store: write one with export_zarr")
    if content.get("complete") is False:
        raise ValueError(f"the export to {address} was interrupted: write it again with export_zarr")
    lines = source.group["index"][:].tobytes().splitlines()
    return Store.from_parts(content["datasets"], lines, source)


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
        address: folder or URL: absent, empty, or an earlier export, which is replaced; a local one when the new one is
            whole.
        options: for fsspec.
        chunk_size: side of a chunk in voxels: what a crop reads at least.
        shard_chunks: side of a shard, one object of the object store, in chunks.
        progress: called with the number of cases done and of all cases.

    Raises:
        ValueError: if zarr is not installed, the address holds anything else or overlaps with the store, or a file of
            the store is damaged.
    """
    _zarr()
    with open_target(address, store.source.address, options) as group:
        records = []
        for done, case in enumerate(store, 1):
            if bad := case.damaged_files():
                raise ValueError(f"{', '.join(bad)} of {case.key} in {store.source.address} is damaged: {_CURE}")
            records.append(_write_case(group, case, chunk_size, shard_chunks))
            if progress is not None:
                progress(done, len(store))
        index = np.frombuffer("".join(records).encode(), dtype=np.uint8)
        group.create_array("index", shape=index.shape, dtype=index.dtype, chunks=(1 << 22,))[...] = index
        description = {"format": FORMAT, "version": EXPORT_VERSION, "complete": True, "datasets": store.datasets}
        group.attrs.put(description)  # last: what it says is there


def _write_case(group: Any, case: StoreCase, chunk_size: int, shard_chunks: int) -> str:
    """Writes a case's arrays; returns its line of the index, with a hash of each."""
    hashes = {}
    for kind, array in _arrays(case):
        chunks = tuple(min(chunk_size, max(side, 1)) for side in array.shape)
        sides = zip(chunks, array.shape, strict=True)
        shards = tuple(chunk * min(shard_chunks, -(-side // chunk) or 1) for chunk, side in sides)
        target = group.create_array(
            f"{case.record['folder']}/{kind}", shape=array.shape, dtype=array.dtype, chunks=chunks, shards=shards
        )
        target[...] = array
        hashes[kind] = content_hash(array)
    labels = case.record["labels"].tolist()
    return json.dumps({**case.record, "labels": labels, "arrays": hashes}, sort_keys=True) + "\n"


def _arrays(case: StoreCase) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of everything that a case stores."""
    for file in case.record["files"]:
        name, _, ending = file.rpartition(".")
        if ending == "npy":
            yield name, case.source.table(case.record, name)
        else:
            yield name, np.asarray(case.source.open(case.record, name)[...])


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ValueError("a Zarr store needs the package zarr: pip install 'promptseg[data]'") from error
    return zarr
