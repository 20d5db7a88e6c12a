"""Runs a function over many items in processes, where one bad item costs that item alone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or an error in words.

    Attributes:
        item: what the function was called with.
        result: what it returned, or None.
        error: why it did not, or an empty string.
    """

    item: Item
    result: Result | None
    error: str = ""


def run_isolated(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 0
) -> Generator[Outcome[Item, Result], None, None]:
    """Calls a function once for each item.

    An exception becomes the item's error. A worker that dies (out of memory, a crash in a decoder) breaks its pool:
    the items it held are tried again, each in a process of its own, and the one that kills it again is the bad one.

    Args:
        function: picklable, such as a function of a module or a ``functools.partial`` of one.
        items: picklable.
        workers: processes; 0 runs in this process, where a crash is not survived.

    Yields:
        One outcome per item, in the order in which they finish.

    Raises:
        ValueError: for a negative number of workers.
    """
    if workers < 0:
        raise ValueError(f"workers={workers}: expected 0 (this process) or a number of processes")
    if workers == 0:
        for item in items:
            yield _call(function, item)
        return
    remaining = list(reversed(items))
    while remaining:
        suspects: list[Item] = []
        with _pool(min(workers, len(remaining))) as pool:
            running: dict[Future[Outcome[Item, Result]], Item] = {}
            while (remaining or running) and not suspects:
                while remaining and len(running) < 2 * workers:
                    try:
                        running[pool.submit(_call, function, remaining[-1])] = remaining[-1]
                    except BrokenProcessPool:
                        if not running:  # it broke while it had nothing to do: go on in a new one
                            suspects.append(remaining.pop())
                        break
                    remaining.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(item)
                    else:
                        yield _outcome(future, item)
            for future, item in running.items():  # the pool is broken: what had finished counts, the rest is suspect
                if future.done() and future.exception() is None:
                    yield future.result()
                else:
                    suspects.append(item)
        for item in suspects:
            with _pool(1) as pool:
                yield _outcome(pool.submit(_call, function, item), item)


def _call(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, function(item))
    except Exception as error:
        logger.debug("an item failed", exc_info=True)
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return Outcome(item, None, reason or type(error).__name__)


def _outcome(future: Future[Outcome[Item, Result]], item: Item) -> Outcome[Item, Result]:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(item, None, "its process died: out of memory, or a crash in the file's decoder")
    except Exception as error:  # the item or the result could not be pickled
        return Outcome(item, None, f"{type(error).__name__}: {error}")


def _pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose processes are not forks of this one, which may hold threads and a GPU."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method), initializer=end_with_parent)


def end_with_parent() -> None:
    """Ends this worker when its parent is killed; otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
