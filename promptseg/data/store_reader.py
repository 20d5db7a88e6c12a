"""Reads crops and the index of a store, from any thread and any process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from .store_case import LABEL_COLUMNS
from .store_files import IMAGE, LABEL
from .store_source import ArraySource, FolderSource, Kind, read_padded


@dataclass(frozen=True)
class LabelEntry:
    """A label of a case, in canonical voxels.

    Attributes:
        value: in the label map.
        term: what it is, or None for a value without a term.
        voxels: how many.
        low: (3,) int, first voxel of its box.
        high: (3,) int, one past the last.
        rows: first and one past the last row of the case's sampled foreground voxels.
    """

    value: int
    term: str | None
    voxels: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    rows: tuple[int, int]


class IndexLines(Sequence[bytes]):
    """Lines of an index in one block: forked loaders share its memory, and would not that of 100 000 objects.

    Args:
        block: lines, each with a newline after it.
    """

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        """A line without its newline."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        return self._block[self._ends[number - 1] + 1 if number else 0 : self._ends[number]]


@lru_cache(maxsize=512)
def _decoded(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    record["labels"] = np.array(record["labels"], dtype=np.int64).reshape(-1, len(LABEL_COLUMNS))
    return record


@dataclass(frozen=True)
class StoreCase:
    """One case of a store: what the index says about it, and crops of its arrays.

    Coordinates are canonical voxels (closest to RAS), spacing and dtype the original's. A case in memory is its line of
    the index, a few kB, so that a store of 100 000 cases is a few hundred MB, which the loaders of a process share.

    Attributes:
        dataset: name of the data set.
        name: name within the data set.
        patient: the unit that folds are made of.
        fold: ``train``, ``validation`` or another.
        modality: such as ``CT`` or ``MR T2``.
        lines: of the index, JSON.
        number: of the case's line.
        dataset_info: licence, terms and more, of its data set.
        source: where its bytes come from.
    """

    dataset: str
    name: str
    patient: str
    fold: str
    modality: str
    lines: Sequence[bytes] = field(repr=False)
    number: int = field(repr=False)
    dataset_info: dict[str, Any] = field(repr=False)
    source: ArraySource = field(repr=False)

    @classmethod
    def from_line(cls, lines: Sequence[bytes], number: int, datasets: dict[str, Any], source: ArraySource) -> StoreCase:
        """A case of its line in the index.

        Args:
            lines: of the index, JSON.
            number: of the line.
            datasets: name of a data set -> what the store says about it.
            source: where the bytes come from.
        """
        record = json.loads(lines[number])
        # a store may have been made when a numbered fold or patient was kept as a number
        texts = [sys.intern(str(record[key])) for key in ("dataset", "case", "patient", "fold", "modality")]
        return cls(*texts, lines=lines, number=number, dataset_info=datasets[record["dataset"]], source=source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lines": (self.line,), "number": 0}  # not those of all other cases

    @property
    def line(self) -> bytes:
        """Of the index."""
        return self.lines[self.number]

    @property
    def record(self) -> dict[str, Any]:
        """What the index says, its labels as an (L, 10) array of LABEL_COLUMNS; not to be changed."""
        return _decoded(self.line)

    @property
    def key(self) -> str:
        """``dataset/name``."""
        return f"{self.dataset}/{self.name}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        i, j, k = self.record["shape"]
        return i, j, k

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64."""
        return np.array(self.record["spacing_mm"])

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64, canonical voxel -> RAS millimetres."""
        return np.array(self.record["affine"])

    @property
    def has_image(self) -> bool:
        """False for a label map without an image."""
        return IMAGE in self.record["files"]

    @property
    def has_label(self) -> bool:
        """False for an unlabelled image."""
        return LABEL in self.record["files"]

    @property
    def annotated(self) -> tuple[int, ...]:
        """Label values whose absence means "not in this image"; every other term is unknown, not background."""
        return tuple(self.record["annotated"])

    @property
    def absent(self) -> tuple[str, ...]:
        """Terms that are certainly not in the image."""
        of_dataset = self.dataset_info.get("absent", ())  # where stores once had them
        return tuple(self.record.get("absent", of_dataset))

    @property
    def complete(self) -> bool:
        """Whether every instance of the annotated terms is labelled."""
        return self.record["complete"]

    @property
    def instances(self) -> bool:
        """Whether label values number instances rather than name structures."""
        return self.record["instances"]

    @property
    def ignore(self) -> tuple[int, ...]:
        """Label values that are neither object nor background."""
        return tuple(self.dataset_info["ignore"])

    @property
    def statistics(self) -> dict[str, Any]:
        """Extremes, mean, standard deviation and percentiles of the intensities. Empty without an image."""
        return self.record["statistics"]

    @property
    def labels(self) -> dict[int, LabelEntry]:
        """Label value -> entry, for the values that occur and are not ignored."""
        terms = self.dataset_info["terms"]
        return {
            value: LabelEntry(value, terms.get(str(value)), voxels, (i, j, k), (i_stop, j_stop, k_stop), (first, stop))
            for value, voxels, i, j, k, i_stop, j_stop, k_stop, first, stop in self.record["labels"].tolist()
            if value not in self.dataset_info["ignore"]
        }

    def foreground(self, value: int) -> np.ndarray:
        """Sampled voxels of a label, (V, 3) int32, sorted; reads a small file."""
        first, stop = self.labels[value].rows
        return self.source.table(self.record, "foreground")[first:stop]

    def read_crop(
        self, start: Sequence[int], size: Sequence[int], kind: Kind = "image", fill: float | None = None
    ) -> np.ndarray:
        """Reads a box, padded where it leaves the volume.

        Args:
            start: (3,) first voxel; may be negative or beyond the volume.
            size: (3,) voxels along each axis.
            kind: the image or the label map.
            fill: value outside the volume; default: the image's minimum, 0 for labels.

        Returns:
            (size) contiguous array of the original dtype, the caller's to change.

        Raises:
            ValueError: if the case has no such array, the size is not positive, a number is not whole, or the stored
                file is damaged.
        """
        if not (self.has_image if kind == "image" else self.has_label):
            raise ValueError(f"{self.key} has no {kind}")
        outside: float = fill if fill is not None else self.statistics["minimum"] if kind == "image" else 0
        return self.read_array(kind, start, size, outside)

    def read_array(self, name: str, start: Sequence[int], size: Sequence[int], fill: float = 0) -> np.ndarray:
        """Reads a padded box of any array of the case: ``image``, ``label``, or a coarser ``level1``.

        Raises:
            ValueError: as :meth:`read_crop`.
        """
        try:
            return read_padded(self.source.open(self.record, name), start, size, fill)
        except RuntimeError as error:  # blosc2's word for a chunk that does not decompress
            raise ValueError(f"{name} of {self.key} is damaged ({error}); prepare it again with --verify") from error

    def read(self, kind: Kind = "image") -> np.ndarray:
        """Reads the whole array."""
        return self.read_crop((0, 0, 0), self.shape, kind)

    def damaged_files(self) -> list[str]:
        """Names of the files that are not as written; reads all of them."""
        return self.source.damaged(self.record)


class Store:
    """A store of prepared cases, in the order of its index.

    Args:
        path: folder that :func:`promptseg.data.store.prepare` made.
        verify: ``size`` or ``checksum``, see :class:`FolderSource`.

    Raises:
        ValueError: if the folder is not a store.

    Example:
        >>> store = Store("store")                                            # doctest: +SKIP
        >>> case = store.select(fold="train", modality="CT")[0]               # doctest: +SKIP
        >>> crop = case.read_crop(start=(10, 20, -5), size=(96, 96, 96))      # doctest: +SKIP
    """

    def __init__(self, path: str | Path, verify: Literal["size", "checksum"] = "size") -> None:
        root = Path(path)
        if not (root / "store.json").is_file() or not (root / "index.jsonl").is_file():
            raise ValueError(f"{root} is not a store: make one with promptseg data prepare CATALOG -o {root}")
        content = json.loads((root / "store.json").read_text(encoding="utf-8"))
        block = (root / "index.jsonl").read_bytes()
        lines = IndexLines(block if block.endswith(b"\n") or not block else block + b"\n")
        self._fill(content["datasets"], lines, FolderSource(root, verify))

    @classmethod
    def from_parts(cls, datasets: dict[str, Any], lines: Sequence[bytes], source: ArraySource) -> Store:
        """A store whose index was read from elsewhere."""
        store = cls.__new__(cls)
        store._fill(datasets, IndexLines(b"".join(line + b"\n" for line in lines)), source)
        return store

    def _fill(self, datasets: dict[str, Any], lines: IndexLines, source: ArraySource) -> None:
        self.datasets = datasets
        """Name of a data set -> licence, citation, terms and more."""
        self.source = source
        """Where the bytes come from."""
        self.cases = tuple(StoreCase.from_line(lines, number, datasets, source) for number in range(len(lines)))
        self._by_key = {case.key: case for case in self.cases}

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[StoreCase]:
        return iter(self.cases)

    def __getitem__(self, key: int | str) -> StoreCase:
        return self.cases[key] if isinstance(key, int) else self._by_key[key]

    def select(
        self, *, fold: str | None = None, dataset: str | None = None, modality: str | None = None
    ) -> tuple[StoreCase, ...]:
        """Cases that have all the given properties."""
        wanted = {"fold": fold, "dataset": dataset, "modality": modality}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        return tuple(case for case in self.cases if all(getattr(case, key) == value for key, value in wanted.items()))

    def verify(self) -> dict[str, list[str]]:
        """Compares every file with its checksum.

        Returns:
            Key of a case -> names of its damaged files; empty if all is well. Cost: every byte of the store.
        """
        return {case.key: bad for case in self.cases if (bad := case.damaged_files())}
