"""Where a store's arrays come from, and padded boxes of them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from .store_files import damaged_files

Kind = Literal["image", "label"]
MAX_OPEN_FILES = 64
"""Arrays that a thread keeps open; the least recently used one is closed."""
_CURE = "make it again with: promptseg data prepare ... --verify"


class StoredArray(Protocol):
    """What a crop is read from: a blosc2 or a Zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """Of the voxels."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Reads a box."""
        ...


class ArraySource(Protocol):
    """Where a store's bytes come from."""

    @property
    def address(self) -> str:
        """Folder or URL."""
        ...

    def open(self, record: dict[str, Any], name: str) -> StoredArray:
        """Opens an array of a case: ``image``, ``label``, ``level1``; from any thread or process, cheap again."""
        ...

    def table(self, record: dict[str, Any], name: str) -> np.ndarray:
        """Reads a small array of a case, ``foreground`` or ``intensity``."""
        ...

    def damaged(self, record: dict[str, Any]) -> list[str]:
        """Names of the case's files that are not as written."""
        ...


class FolderSource:
    """Arrays of a store on a file system.

    Open files belong to one thread of one process: blosc2 contexts are not shared, and a fork starts without any.

    Args:
        root: the store's folder.
        verify: what is compared with the index when an array is opened: ``size``, or ``checksum``, which reads the
            whole file once per thread.
    """

    def __init__(self, root: Path, verify: Literal["size", "checksum"] = "size") -> None:
        self.root = root
        self.verify = verify
        self._local = threading.local()

    @property
    def address(self) -> str:
        """See :class:`ArraySource`."""
        return str(self.root)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "verify": self.verify}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def open(self, record: dict[str, Any], name: str) -> StoredArray:
        """See :class:`ArraySource`.

        Raises:
            ValueError: if the file is not as written.
        """
        if getattr(self._local, "process", None) != os.getpid():
            self._local.arrays, self._local.process = OrderedDict(), os.getpid()
        arrays: OrderedDict[str, StoredArray] = self._local.arrays
        file = f"{name}.b2nd"
        path = self.root / record["folder"] / file
        array = arrays.pop(str(path), None)
        if array is None:
            array = self._open(path, record["files"][file])
            while len(arrays) >= MAX_OPEN_FILES:
                arrays.popitem(last=False)
        arrays[str(path)] = array
        return array

    def _open(self, path: Path, expected: dict[str, Any]) -> StoredArray:
        import blosc2

        if damaged_files(path.parent, {path.name: expected}, thorough=self.verify == "checksum"):
            raise ValueError(f"{path} is missing or damaged; {_CURE}")
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})  # type: ignore[return-value]

    def table(self, record: dict[str, Any], name: str) -> np.ndarray:
        """See :class:`ArraySource`.

        Raises:
            ValueError: if the file is not as written.
        """
        path = self.root / record["folder"] / f"{name}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}); {_CURE}") from error

    def damaged(self, record: dict[str, Any]) -> list[str]:
        """See :class:`ArraySource`."""
        return damaged_files(self.root / record["folder"], record["files"])


def read_padded(array: StoredArray, start: Sequence[int], size: Sequence[int], fill: float) -> np.ndarray:
    """Reads a box of an array, with a constant where the box leaves it.

    Args:
        array: (I, J, K).
        start: (3,) whole numbers.
        size: (3,) whole numbers, 1 or more.
        fill: constant; must fit the dtype.

    Raises:
        ValueError: if start or size is not three whole numbers or a size is not positive.
    """
    low, extent = np.asarray(start), np.asarray(size)
    if low.shape != (3,) or extent.shape != (3,) or (low != np.floor(low)).any() or (extent != np.floor(extent)).any():
        raise ValueError(f"start={start} and size={size}: expected three whole numbers each")
    if (extent < 1).any():
        raise ValueError(f"size={size}: expected 1 or more along each axis")
    low = low.astype(np.int64)
    high = low + extent.astype(np.int64)
    first, last = np.maximum(low, 0), np.minimum(high, array.shape)
    inside = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    if (first == low).all() and (last == high).all():
        return np.ascontiguousarray(array[inside])
    crop = np.full(tuple(int(side) for side in high - low), fill, dtype=array.dtype)
    if (first < last).all():
        place = tuple(slice(int(a), int(b)) for a, b in zip(first - low, last - low, strict=True))
        crop[place] = array[inside]
    return crop
