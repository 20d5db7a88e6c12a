"""The place that an export is written to: nothing but an earlier export is ever replaced.

A local export is written into ``.NAME.promptseg-draft`` beside its folder and swapped in when it is whole, so that one
that is interrupted leaves the earlier one as it was. An object store has no renames: there the earlier export is marked
unfinished, then taken away, and an export that is interrupted is refused by readers until it is written again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..io.locks import locked
from .store import FORMAT
from .store_address import local_folder, overlap
from .store_files import flush
from .store_room import is_full

ENTRIES = ("zarr.json", "index", "cases")
"""All that an export has at its root."""
EXPORT_VERSION = 2
"""Of the Zarr layout; since 2 every chunk is written, so that one that is not there is lost."""


@contextmanager
def open_target(address: str | Path, source: str | Path, options: dict[str, Any] | None = None) -> Iterator[Any]:
    """Opens an empty Zarr group for an export, which is at the address once the block ends without an error.

    Args:
        address: folder or URL; absent, empty, or an earlier export, which is replaced.
        source: address of the store that is exported.
        options: for fsspec, with a URL.

    Yields:
        The root group, marked unfinished.

    Raises:
        ValueError: if anything else lies at the address, it and the source overlap, or another export is writing there.
        OSError: if there is no room on the disk.
    """
    import fsspec
    import zarr

    if overlap(address, source):
        raise ValueError(
            f"{address} and the store that is exported, {source}, lie in each other: give a folder apart from it"
        )
    folder = local_folder(address)
    if folder is not None:
        target = folder.resolve()
        if os.path.ismount(target):
            raise ValueError(f"{address} is a mount point, which cannot be replaced in one step: give a folder in it")
        with _written_beside(target, str(address)) as draft:
            group = zarr.open_group(str(draft), mode="a")
            group.attrs.put({"format": FORMAT, "version": EXPORT_VERSION, "complete": False})
            yield group
        return
    try:
        files, path = fsspec.core.url_to_fs(str(address), **(options or {}))
    except (ImportError, ValueError) as error:  # fsspec names the package that the address needs
        raise ValueError(f"{address} cannot be opened: {error}") from error
    files.invalidate_cache()
    _check_is_free(files, path, str(address))
    group = zarr.open_group(str(address), mode="a", storage_options=options)
    group.attrs.put({"format": FORMAT, "version": EXPORT_VERSION, "complete": False})
    for name in ENTRIES[1:]:  # the root's own record stays: it says that this may be written over
        if files.exists(f"{path}/{name}"):
            files.rm(f"{path}/{name}", recursive=True)
    yield group


def _check_is_free(files: Any, path: str, address: str) -> None:
    """Refuses a place whose content an export would destroy.

    Args:
        files: fsspec file system.
        path: in it.
        address: as it was given.
    """
    cure = "give one that is absent, empty or an earlier export"
    if files.isfile(path):
        raise ValueError(f"{address} is a file: {cure}")
    try:
        names = {PurePosixPath(entry).name for entry in files.ls(path, detail=False)}
    except FileNotFoundError:
        return
    foreign = sorted(names.difference(ENTRIES))
    if foreign:
        raise ValueError(f"{address} holds {foreign[0]!r}, which is no part of an export and would be lost: {cure}")
    if names and not _is_export(files, path):
        raise ValueError(f"{address} holds a Zarr group that is no export of a store and would be lost: {cure}")


def _is_export(files: Any, path: str) -> bool:
    try:
        return json.loads(files.cat_file(f"{path}/zarr.json"))["attributes"]["format"] == FORMAT
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _written_beside(target: Path, address: str) -> Iterator[Path]:
    """An empty folder that takes the place of the target when the block ends without an error."""
    from fsspec.implementations.local import LocalFileSystem

    draft = target.with_name(f".{target.name}.promptseg-draft")
    replaced = target.with_name(f".{target.name}.promptseg-replaced")
    _check_is_free(LocalFileSystem(), target.as_posix(), address)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(exist_ok=True)
    with _held(draft, address):
        if replaced.exists() and not target.exists():  # an export was killed between the two renames below
            os.rename(replaced, target)
        for left in draft.iterdir():  # by an export that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield draft
            _flush(draft)
            shutil.rmtree(replaced, ignore_errors=True)
            if target.exists():
                os.rename(target, replaced)
            try:
                os.rename(draft, target)
            except OSError:
                if replaced.exists():
                    os.rename(replaced, target)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            if not is_full(error):
                raise
            raise OSError(
                f"no room on the disk of {address} beside what is there, which stays as it was; make room, or export "
                "to a larger disk"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _held(folder: Path, address: str) -> Iterator[None]:
    """Holds a folder against other exports."""
    try:
        with locked(folder):
            yield
    except BlockingIOError as error:
        raise ValueError(f"another export is writing to {address}: wait for it to end") from error


def _flush(folder: Path) -> None:
    """Puts all files on the disk, since what they replace is deleted next."""
    for path in folder.rglob("*"):
        if path.is_file():
            flush(path)
