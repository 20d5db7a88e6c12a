"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says of a full disk, a quota that is used up, and a file that is longer than it takes."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Lends a path to write to; what was written moves to ``path`` when the block ends without an error.

    The path lent has the final name, in a hidden folder beside it, so writers that choose a format by suffix, store
    the name, or write a second file next to the first (``.mhd`` and ``.raw``) need no care; whatever lies in the
    folder is moved, ``path`` last. A symbolic link is followed, not replaced.

    Args:
        path: where the file shall be; a file of that name is replaced.

    Yields:
        The path to write to.

    Raises:
        ValueError: if the folder is missing or not writable, or the name belongs to something that is not a file.
        OSError: if writing failed, such as on a full disk. In every case no part of the file is left behind, and
            a file that was there before is still there.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "note.txt") as partial:
        ...     _ = partial.write_text("complete")
        >>> [p.name for p in folder.iterdir()]
        ['note.txt']
    """
    check_target(path)
    shown, target = str(path), Path(os.path.realpath(path))
    staging: Path | None = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name[:32]}.", suffix=".partial", dir=target.parent))
        yield staging / target.name
        _publish(staging, target, shown)
    except OSError as error:
        raise _explained(error, target, shown) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def check_target(path: str | Path) -> None:
    """Refuses a name that :func:`atomic_path` cannot write to, before any work is done for it.

    Raises:
        ValueError: if the folder is missing, or the name belongs to something that is not a file.
    """
    shown, target = str(path), Path(os.path.realpath(path))
    folder = target.parent
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{shown}: cannot be written: {str(folder)!r} {what}; make the folder, or choose another")
    if target.is_dir():
        raise ValueError(
            f"{shown}: is a folder; give the name of a file in it, such as {Path(shown) / Path(shown).name}"
        )
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise ValueError(f"{shown}: is a device, not a file; give the name of a file")


def _publish(staging: Path, target: Path, shown: str) -> None:
    """Moves complete files to their place."""
    written = sorted(staging.iterdir(), key=lambda p: p.name == target.name)
    if not written or written[-1].name != target.name:
        raise OSError(errno.EIO, f"nothing was written as {shown}")
    for file in written:
        with file.open("r+b") as handle:  # a disk that is full may say so only now; Windows asks for one to write to
            os.fsync(handle.fileno())
    for file in written:
        os.replace(file, target.parent / file.name)


def _explained(error: OSError, target: Path, shown: str) -> Exception:
    """The error with the path and the cure in its message."""
    if error.errno in _NO_PERMISSION:
        return ValueError(f"{shown}: no permission to write in {str(target.parent)!r}; choose another folder")
    if error.errno in NO_ROOM:
        message = (
            f"{shown}: no room on the disk of {str(target.parent)!r} ({_free_megabytes(target.parent)}, "
            f"{os.strerror(error.errno)}); nothing was written: free some space, or choose another disk"
        )
    else:
        message = (
            f"{shown}: could not be written ({error.strerror or error}); nothing is left of it: choose another folder"
        )
    explained = OSError(message)
    explained.errno = error.errno
    return explained


def _free_megabytes(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free // 10**6} MB free"
    except OSError:
        return "its free space is unknown"
