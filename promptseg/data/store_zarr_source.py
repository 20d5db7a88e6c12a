"""The arrays of a Zarr export: what is lost or damaged is an error that names the case, never a fill value."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .catalog_check import content_hash
from .store_source import MAX_OPEN_FILES, StoredArray

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
"""Keys that Zarr looks for without a need of them; all others are chunks."""
READING = {"s3": {"max_concurrency": 1}}
"""Options for fsspec, by scheme. With more, s3fs asks how large an object is before it reads it: twice the requests
for chunks of some 100 kB."""


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
            ValueError: if there is none at the address, or what reaches it is not installed.
        """
        if getattr(self._local, "process", None) != os.getpid():
            group = _open_strictly(self.address, self.options)
            self._local.group, self._local.arrays, self._local.process = group, OrderedDict(), os.getpid()
        return self._local.group

    def open(self, record: dict[str, Any], name: str) -> StoredArray:
        """See :class:`~promptseg.data.store_source.ArraySource`.

        Raises:
            ValueError: if the array is missing or damaged, here or where it is read.
        """
        path, group = f"{record['folder']}/{name}", self.group
        arrays: OrderedDict[str, StoredArray] = self._local.arrays  # opening one asks the object store for its metadata
        array = arrays.pop(path, None)
        if array is None:
            what = f"{name} of {record['dataset']}/{record['case']} in {self.address}"
            array = CheckedArray.open(group, path, what)
            while len(arrays) >= MAX_OPEN_FILES:
                arrays.popitem(last=False)
        arrays[path] = array
        return array

    def table(self, record: dict[str, Any], name: str) -> np.ndarray:
        """See :class:`~promptseg.data.store_source.ArraySource`."""
        return self.open(record, name)[:]

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


@dataclass(frozen=True)
class CheckedArray:
    """A Zarr array whose errors say which case they concern.

    Attributes:
        array: as Zarr opened it.
        what: its name, its case and the address, for messages.
    """

    array: Any
    what: str

    @classmethod
    def open(cls, group: Any, path: str, what: str) -> CheckedArray:
        """Opens an array of a group.

        Raises:
            ValueError: if its metadata is missing or damaged.
        """
        try:
            return cls(group[path], what)
        except (KeyError, ValueError) as error:
            raise _damaged(what, error) from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.array.shape

    @property
    def dtype(self) -> Any:
        """Of the voxels."""
        return self.array.dtype

    def __getitem__(self, key: Any, /) -> np.ndarray:
        """Reads a box.

        Raises:
            ValueError: if a chunk of it is missing or damaged.
        """
        try:
            return self.array[key]
        except (LookupError, RuntimeError, ValueError) as error:  # a lost chunk, zstd's word, a checksum
            raise _damaged(self.what, error) from error


def import_zarr() -> Any:
    """The package zarr.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise ValueError(
            "a Zarr store needs the package zarr, version 3, and Python 3.11: pip install 'promptseg[data]'"
        ) from error
    return zarr


def _damaged(what: str, error: Exception) -> ValueError:
    reason = error.args[0] if error.args else type(error).__name__
    return ValueError(
        f"{what} is missing or damaged ({reason}); copy it there again, or write it again with: "
        "promptseg data export STORE -o ZARR"
    )


def _open_strictly(address: str, options: dict[str, Any] | None) -> Any:
    """The group at an address, where a chunk that is not there is an error."""
    zarr = import_zarr()
    if chosen := READING.get(address.partition("://")[0].lower()):
        options = {**chosen, **(options or {})}
    try:
        group = zarr.open_group(address, mode="r", storage_options=options)
    except FileNotFoundError as error:
        raise ValueError(
            f"no Zarr store at {address}: write one with promptseg data export STORE -o {address}"
        ) from error
    except (ImportError, ValueError) as error:  # fsspec names the package that the address needs
        raise ValueError(f"{address} cannot be opened: {error}") from error
    path = zarr.storage.StorePath(_strict_store()(group.store), group.store_path.path)
    return zarr.open_group(path, mode="r")


@cache
def _strict_store() -> type:
    """A Zarr store that refuses to give nothing for a chunk; Zarr itself would take it for one of fill values.

    A class made where it is needed, as zarr is not always installed.
    """
    from zarr.storage import WrapperStore

    class StrictStore(WrapperStore):  # type: ignore[type-arg]
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            value = await super().get(key, prototype, byte_range)
            if not key.endswith(METADATA) and (value is None or not len(value)):  # no chunk is of zero bytes
                raise LookupError(f"the chunk {key} is {'not there' if value is None else 'empty'}")
            return value

    return StrictStore
