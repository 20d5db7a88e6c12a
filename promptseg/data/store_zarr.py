"""A store as Zarr, for object stores: the same index and crops as :class:`~promptseg.data.store_reader.Store`.

Needs the ``data`` extra, and for a remote address what fsspec needs for it (``s3fs`` for ``s3://``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .catalog_check import content_hash
from .store import FORMAT
from .store_address import local_folder
from .store_case import StoreConfig
from .store_reader import Store, StoreCase
from .store_target import EXPORT_VERSION, open_target
from .store_zarr_source import CheckedArray, ZarrSource, import_zarr

_CURE = "make the store whole with promptseg data prepare ... --verify, then export it"


def open_zarr_store(address: str | Path, options: dict[str, Any] | None = None) -> Store:
    """Opens a store that :func:`export_zarr` wrote.

    Args:
        address: folder, or URL that fsspec knows (``s3://``, ``gs://``, ``https://``, ``memory://``).
        options: for fsspec.

    Returns:
        A store; one small read, arrays are read crop by crop, and a chunk that is lost or damaged is a ValueError.

    Raises:
        ValueError: if there is none at the address, it was interrupted or written by an earlier version, or zarr is not
            installed.
    """
    source = ZarrSource(str(local_folder(address) or address), options)
    content = source.group.attrs.asdict()
    cure = f"write it with promptseg data export STORE -o {address}"
    if content.get("format") != FORMAT:
        raise ValueError(f"the Zarr group at {address} is not a promptseg store: {cure}")
    if content.get("complete") is False:
        raise ValueError(f"the export to {address} was interrupted: {cure}")
    if content.get("version") != EXPORT_VERSION:
        raise ValueError(
            f"the export at {address} has version {content.get('version', 1)} and this reads {EXPORT_VERSION}, which "
            f"tells a lost chunk from an empty one: {cure}"
        )
    lines = CheckedArray.open(source.group, "index", f"index of {address}")[:].tobytes().splitlines()
    return Store.from_parts(content["datasets"], lines, source)


def export_zarr(
    store: Store,
    address: str | Path,
    *,
    options: dict[str, Any] | None = None,
    chunk_size: int = StoreConfig.chunk_size,
    shard_chunks: int = 4,
    workers: int = 1,
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
        workers: threads, which hold a case each; an object store takes many cases at a time.
        progress: called with the number of cases done and of all cases.

    Raises:
        ValueError: if zarr is not installed, the address holds anything else or overlaps with the store, or a file of
            the store is damaged.
    """
    import_zarr()
    with open_target(address, store.source.address, options) as group:
        records = []

        def write(case: StoreCase) -> str:
            if bad := case.damaged_files():
                raise ValueError(f"{', '.join(bad)} of {case.key} in {store.source.address} is damaged: {_CURE}")
            return _write_case(group, case, chunk_size, shard_chunks)

        with ThreadPoolExecutor(workers) as pool:
            written = [pool.submit(write, case) for case in store]
            try:
                for done, future in enumerate(written, 1):
                    records.append(future.result())
                    if progress is not None:
                        progress(done, len(store))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # cases that are not begun are not written
                raise
        index = np.frombuffer("".join(records).encode(), dtype=np.uint8)
        _write_array(group, "index", index, (1 << 22,), None)
        description = {"format": FORMAT, "version": EXPORT_VERSION, "complete": True, "datasets": store.datasets}
        group.attrs.put(description)  # last: what it says is there


def _write_case(group: Any, case: StoreCase, chunk_size: int, shard_chunks: int) -> str:
    """Writes a case's arrays; returns its line of the index, with a hash of each."""
    hashes = {}
    for kind, array in _arrays(case):
        chunks = tuple(min(chunk_size, max(side, 1)) for side in array.shape)
        sides = zip(chunks, array.shape, strict=True)
        shards = tuple(chunk * min(shard_chunks, -(-side // chunk) or 1) for chunk, side in sides)
        _write_array(group, f"{case.record['folder']}/{kind}", array, chunks, shards)
        hashes[kind] = content_hash(array)
    labels = case.record["labels"].tolist()
    return json.dumps({**case.record, "labels": labels, "arrays": hashes}, sort_keys=True) + "\n"


def _write_array(
    group: Any, path: str, array: np.ndarray, chunks: tuple[int, ...], shards: tuple[int, ...] | None
) -> None:
    """Writes an array with all its chunks, empty ones too, so that one that is not there is lost; each with a sum."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    target = group.create_array(
        path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=chunks,
        shards=shards,
        compressors=(ZstdCodec(), Crc32cCodec()),  # zstd alone decodes many a flipped byte to other voxels
        config={"write_empty_chunks": True},
    )
    target[...] = array


def _arrays(case: StoreCase) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of everything that a case stores."""
    for file in case.record["files"]:
        name, _, ending = file.rpartition(".")
        if ending == "npy":
            yield name, case.source.table(case.record, name)
        else:
            yield name, np.asarray(case.source.open(case.record, name)[...])
