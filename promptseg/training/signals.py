"""SIGTERM and SIGINT, by which batch schedulers and people end a run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from .run_folder import leave_locks

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def calling_on_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT, however many, only ask for a stop inside the block; what it is doing is not interrupted."""

    def request(*_: Any) -> None:
        request_stop()

    before = {number: signal.signal(number, request) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_and_locks_to_the_trainer(_: int) -> None:
    """A batch scheduler signals the whole process group; a worker that died of it would take the last save with it."""
    leave_locks()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
