"""Locks on files and folders, which go with the process that holds them, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, is_shared: bool = False, waits: bool = False) -> Iterator[int | None]:
    """Holds a lock inside the block.

    Args:
        path: a folder, or a file, which is made if missing.
        is_shared: with all others that share it.
        waits: for those that hold it.

    Yields:
        The descriptor, which a forked child holds as well until it closes it; None where there are no locks: on Windows
        two processes at a time are the user's to avoid.

    Raises:
        BlockingIOError: if another holds it and ``waits`` is false.
        OSError: if the path cannot be opened, or its file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)
