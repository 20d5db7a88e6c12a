"""A disk without room for more: told apart from a bad case, since every case after it would fail as well."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from ..io.atomic import NO_ROOM


class NoRoomError(OSError):
    """The disk of a store is full."""

    def __init__(self, store: Path) -> None:
        super().__init__(
            f"no room on the disk of {store}: what it holds is whole; make room there, or move it to a larger disk, "
            "and run the same command again, which does the rest"
        )


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def check_room(path: Path, array: np.ndarray) -> None:
    """Finds out whether an array that could not be written failed for want of room, as blosc2 does not say why.

    What was written of it is to be there still. Costs as much as writing the array uncompressed, for a moment.

    Args:
        path: file that it was to be written to.
        array: any.

    Raises:
        OSError: with the system's reason, if not even plain bytes can be written.
    """
    probe = path.with_name(path.name + ".probe")
    try:
        with probe.open("wb", buffering=0) as stream:
            rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            while len(rest):
                rest = rest[stream.write(rest[: 1 << 24].data) :]
    finally:
        with suppress(OSError):
            probe.unlink()
