"""Encodes tiles before they are asked for, so that a click costs only the decoder."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager

from .cache import HEADER_BYTES
from .engine import TileEngine
from .models.numerics import embedding_bytes
from .tiles import TileKey

TURN_SECONDS = 0.001
"""Pause after each tile, for others to get their turn."""


def choose_tiles(engine: TileEngine, levels: list[int] | None, max_tiles: int | None) -> list[TileKey]:
    """Tiles to encode, coarsest level first; without ``levels`` no more than the cache keeps, in memory or on disk.

    More of them would displace the coarsest ones, which every object needs.

    Raises:
        ValueError: for a level that the image does not have.
    """
    lattice, cache = engine.lattice, engine.cache
    chosen = range(lattice.num_levels) if levels is None else levels
    bad = [level for level in chosen if not 0 <= level < lattice.num_levels]
    if bad:
        raise ValueError(f"levels={bad}: this image has levels 0 to {lattice.num_levels - 1}")
    tiles = [tile for level in sorted(chosen, reverse=True) for tile in lattice.all_tiles(level)]
    if levels is None:
        size = embedding_bytes(engine.model)
        on_disk = 0 if cache.disk is None else cache.disk.max_bytes // (size + HEADER_BYTES)
        tiles = tiles[: max(1, cache.max_bytes // size, on_disk)]
    return tiles[:max_tiles]


def encode_ahead(
    engine: TileEngine,
    tiles: list[TileKey],
    lock: AbstractContextManager[object],
    is_wanted: Callable[[], bool],
    progress: bool,
) -> int:
    """Encodes tiles one by one, letting others at the lock in between, and returns how many are in the cache then.

    Args:
        engine: image and model.
        tiles: which.
        lock: taken for each tile.
        is_wanted: asked under the lock before each tile; encoding ends where it says no, and with the program.
        progress: show a bar on a terminal.
    """
    from tqdm import tqdm

    shown = progress and sys.stderr.isatty()
    for tile in tqdm(tiles, desc="encoding tiles", unit="tile", disable=not shown, file=sys.stderr):
        with lock:
            if not is_wanted() or not threading.main_thread().is_alive():
                break
            engine.embed([tile])
        time.sleep(TURN_SECONDS)  # a lock that is taken again at once is never got by those who wait
    return sum(engine.cache.has(engine.signature, tile) for tile in tiles)


def in_background(work: Callable[[], int]) -> Future[int]:
    """Starts work in a thread of its own.

    Not in an executor's, which Python waits for while the main thread still counts as alive, so that work could not
    tell that the program has ended.
    """
    future: Future[int] = Future()
    future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, so that it takes its result

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="promptseg-precompute").start()
    return future
