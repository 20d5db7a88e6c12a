"""The files of a case in a store: written so that they are whole, and checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .store_room import check_room

if TYPE_CHECKING:
    from .store_case import StoreConfig

RECORD, IMAGE, LABEL = "case.json", "image.b2nd", "label.b2nd"
FOREGROUND, INTENSITY = "foreground.npy", "intensity.npy"


def write_array(path: Path, array: np.ndarray, config: StoreConfig) -> None:
    """Writes a 3D array as a blosc2 ``.b2nd`` file and reads it back; equal arrays give equal bytes.

    Raises:
        ValueError: if the file does not hold the array.
        OSError: if there is no room on the disk.
    """
    try:
        _write_array(path, array, config)
    except (RuntimeError, ValueError):
        check_room(path, array)
        raise


def _write_array(path: Path, array: np.ndarray, config: StoreConfig) -> None:
    import blosc2

    chunks = tuple(min(config.chunk_size, side) for side in array.shape)
    blosc2.asarray(
        np.ascontiguousarray(array),  # type: ignore[arg-type]
        urlpath=str(path),
        chunks=chunks,
        blocks=tuple(min(config.block_size, side) for side in chunks),
        cparams={
            "codec": blosc2.Codec.ZSTD if path.name == LABEL else blosc2.Codec.LZ4,
            "clevel": config.compression_level,
            "filters": [blosc2.Filter.BITSHUFFLE],
            "nthreads": 1,
        },
    )
    if not np.array_equal(blosc2.open(str(path), mode="r", dparams={"nthreads": 1})[...], array):  # type: ignore
        raise ValueError(f"{path} cannot be read back as written: is the disk full or failing?")


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes ``case.json`` in one step."""
    draft = folder / (RECORD + ".draft")
    try:
        draft.write_text(json.dumps(record, sort_keys=True), encoding="utf-8")
        flush(draft)
        os.replace(draft, folder / RECORD)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Puts a file on the disk."""
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def file_checksum(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def damaged_files(folder: Path, files: Mapping[str, Mapping[str, Any]], thorough: bool = True) -> list[str]:
    """Names of a case's files that are missing or are not what was written.

    Args:
        folder: of the case.
        files: name -> bytes and checksum, of the record.
        thorough: reads every byte; else sizes are compared only.
    """
    bad = []
    for name, expected in files.items():
        path = folder / name
        is_there = path.is_file() and path.stat().st_size == expected["bytes"]
        if not is_there or (thorough and file_checksum(path) != expected["checksum"]):
            bad.append(name)
    return bad
