"""Locks on files and folders, which go with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, is_shared: bool = False, waits: bool = False) -> Iterator[int | None]:
    """Holds a lock inside the block.

    Args:
        path: a folder, or a file, which is made if missing.
        is_shared: with all others that share it.
        waits: for those that hold it.

    Yields:
        The descriptor, which a forked child holds as well until it closes it. None where there are no locks, on Windows
        and, with a warning, on some file systems: two processes at a time are the user's to avoid there.

    Raises:
        BlockingIOError: if another holds it and ``waits`` is false.
        OSError: if the path cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        has_lock = True
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            has_lock = False
            _warn(path if path.is_dir() else path.parent)
        yield descriptor if has_lock else None
    finally:
        os.close(descriptor)


@cache
def _warn(folder: Path) -> None:
    logger.warning("%s is on a file system without locks: do not start a second run there", folder)
