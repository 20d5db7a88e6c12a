"""The folder of a run: written by one run at a time, and with a message where it cannot be."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.distributed.checkpoint.api import CheckpointException

from ..io.locks import locked
from .distributed import Process, any_rank

logger = logging.getLogger(__name__)
LOCK_NAME = ".lock"
_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


class RunError(RuntimeError):
    """A run cannot begin or go on, for a reason outside the program that its message explains."""


class MainProcessError(RunError):
    """The main process failed, and says why itself."""


@contextlib.contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Says what to do where writing into a folder fails inside the block.

    Raises:
        RunError: instead of an OSError, or of what a checkpoint's writer makes of one.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error
    except CheckpointException as error:  # no Exception, and its text is as long as all processes' tracebacks
        reasons = [reason for reason, _ in error.failures.values()]
        raise _unwritable(folder, next((r for r in reasons if isinstance(r, OSError)), reasons[0])) from error


def _unwritable(folder: str | Path, reason: BaseException) -> RunError:
    text = (isinstance(reason, OSError) and reason.strerror) or " ".join(str(reason).split())
    return RunError(
        f"{folder} cannot be written ({text}); make room or give the right to write there, or choose another --out-dir "
        "(out_dir); the same command then goes on from the last checkpoint"
    )


def on_main(process: Process, action: Callable[[], object]) -> None:
    """Does something on the main process that the others wait for; all of them have to call it.

    Raises:
        MainProcessError: on the others, where the main process fails, so that they end with it and do not wait for it.
    """
    failure: Exception | None = None
    if process.is_main:
        try:
            action()
        except Exception as error:
            failure = error
    has_failed = any_rank(failure is not None)[0]
    if failure is not None:
        raise failure
    if has_failed:
        raise MainProcessError("the main process failed; its message says why")


@contextlib.contextmanager
def held(folder: str | Path, process: Process) -> Iterator[None]:
    """Makes the folder of a run and keeps other runs out of it; all processes have to call it.

    The main process holds a lock on a file in it, which goes with the process however it ends.

    Raises:
        RunError: if another run holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as locks:
        on_main(process, lambda: locks.enter_context(_locked(Path(folder))))
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        descriptor: int | None = None
        try:
            descriptor = stack.enter_context(locked(folder / LOCK_NAME))
        except BlockingIOError as error:
            raise RunError(
                f"{folder}: another run is writing there; wait for it to end, or choose another --out-dir (out_dir)"
            ) from error
        except OSError as error:
            raise _unwritable(folder, error) from error
        _held.update(() if descriptor is None else (descriptor,))
        try:
            yield
        finally:
            _held.difference_update((descriptor,))


def leave_locks() -> None:
    """In a forked helper, which would otherwise hold its parent's locks for as long as it outlives a killed parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
