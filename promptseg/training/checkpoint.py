"""Checkpoints of a run: one folder for each, complete or absent, readable by another number of processes.

Layout, below the folder of checkpoints::

    step-00001200/     tensors by torch.distributed.checkpoint, and progress.json
    latest             the name of the newest complete one

A folder is written under a hidden name, moved to its own, and only then named by ``latest``, itself replaced by
renaming: a run killed at any moment leaves ``latest`` pointing to a complete checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .distributed import Process, barrier
from .run_folder import on_main, writing

logger = logging.getLogger(__name__)
LATEST_NAME = "latest"
PROGRESS_NAME = "progress.json"


def find_latest(folder: str | Path) -> Path | None:
    """The newest complete checkpoint, or None.

    Raises:
        ValueError: if ``latest`` names a folder that is not there.
    """
    folder = Path(folder)
    pointer = folder / LATEST_NAME
    if not pointer.is_file():
        return None
    found = folder / pointer.read_text(encoding="utf-8").strip()
    if not (found / PROGRESS_NAME).is_file():
        others = sorted(p.name for p in folder.glob("step-*"))
        raise ValueError(
            f"{pointer} names {found.name!r}, which is missing or incomplete; write the name of another into it "
            f"({', '.join(others) or 'none is left'}), or delete it to start over"
        )
    return found


def save_checkpoint(
    folder: str | Path, step: int, tensors: dict[str, Any], progress: dict[str, Any], process: Process, keep: int = 2
) -> Path:
    """Writes a checkpoint and makes it the latest; all processes have to call it.

    Args:
        folder: of checkpoints; made if missing.
        step: steps done.
        tensors: nested dictionaries of tensors, whole or spread over processes.
        progress: plain values; what the main process gives is kept.
        process: this one.
        keep: how many checkpoints to keep, the newest ones.

    Returns:
        Its folder.

    Raises:
        RunError: if it cannot be written, on a full disk for instance; ``latest`` then stays as it is.
    """
    folder = Path(folder)
    final, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}.partial"
    if (folder / LATEST_NAME).is_file() and find_latest(folder) == final:
        barrier()
        return final  # a run is a function of its step, so there is nothing new to write
    barrier()

    def begin() -> None:
        with writing(folder):
            _forget_scraps(folder)  # first: they take the room that this one needs
            partial.mkdir(parents=True)

    def finish() -> None:
        with writing(folder):
            text = json.dumps({"step": step, **progress}, indent=1) + "\n"
            (partial / PROGRESS_NAME).write_text(text, encoding="utf-8")
            _sync(partial / PROGRESS_NAME)
            shutil.rmtree(final, ignore_errors=True)  # of a run that was taken back to an earlier step
            partial.rename(final)
            _replace(folder / LATEST_NAME, final.name + "\n")
            _forget(folder, final, keep)

    on_main(process, begin)
    with warnings.catch_warnings(), writing(folder):
        warnings.simplefilter("ignore")
        save(tensors, checkpoint_id=partial, no_dist=not dist.is_initialized())
    barrier()
    on_main(process, finish)
    logger.info("saved %s", final)
    return final


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    return json.loads((checkpoint / PROGRESS_NAME).read_text(encoding="utf-8"))


def load_checkpoint(checkpoint: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    """Reads a checkpoint into tensors, in place; all processes have to call it, however many wrote it.

    Args:
        checkpoint: its folder.
        tensors: nested as given to :func:`save_checkpoint`, of the same shapes.

    Returns:
        The plain values.

    Raises:
        ValueError: if a tensor is missing, of another shape or one too many, as after a change of the model's sizes.
    """
    _refuse_surplus(checkpoint, tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(tensors, checkpoint_id=checkpoint, no_dist=not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        failures = error.failures.values() if isinstance(error, CheckpointException) else [(error, None)]
        reasons = "; ".join(sorted({str(reason) for reason, _ in failures}))
        raise ValueError(
            f"{checkpoint} does not fit this configuration ({reasons}); resume with the configuration that wrote it, "
            "or choose another out_dir"
        ) from error
    return read_progress(checkpoint)


def _refuse_surplus(checkpoint: Path, tensors: dict[str, Any]) -> None:
    """A load fills what it is asked for; tensors that nobody asks for are of a larger model or another optimiser.

    Raises:
        ValueError: if there are some, or the checkpoint cannot be read.
    """
    try:
        stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    except Exception as error:  # of a damaged pickle, almost anything
        raise ValueError(
            f"{checkpoint} cannot be read ({error}); write the name of another into "
            f"{checkpoint.with_name(LATEST_NAME)}, or choose another out_dir"
        ) from error
    if surplus := sorted(set(stored) - _names(tensors)):
        raise ValueError(
            f"{checkpoint} does not fit this configuration ({len(surplus)} of its tensors belong to no part of it, as "
            f"{surplus[0]}); resume with the configuration that wrote it, or choose another out_dir"
        )


def _names(tensors: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of nested tensors, as a checkpoint stores them."""
    found: set[str] = set()
    for name, value in tensors.items():
        found |= _names(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return found


def _replace(path: Path, text: str) -> None:
    """Replaces a small file whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    os.replace(partial, path)


def _sync(path: Path) -> None:
    """Waits until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(folder: Path, newest: Path, keep: int) -> None:
    """Removes older checkpoints."""
    complete = sorted(p for p in folder.glob("step-*") if p != newest)
    surplus = len(complete) - (keep - 1)
    for old in complete[: max(0, surplus)]:
        shutil.rmtree(old, ignore_errors=True)


def _forget_scraps(folder: Path) -> None:
    """Removes what killed runs and failed saves left half-written."""
    for scrap in folder.glob(".step-*.partial"):
        shutil.rmtree(scrap, ignore_errors=True)
