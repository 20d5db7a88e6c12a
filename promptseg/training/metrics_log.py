"""The record of a run: ``metrics.jsonl`` always, TensorBoard events if asked."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends rows to ``metrics.jsonl``, one JSON object a line, each with its ``step``.

    Args:
        folder: of the run.
        step: steps done; rows of later ones, which a killed run wrote after its last checkpoint, are taken out.
        tensorboard: also write events into ``folder/tensorboard``.

    Raises:
        ValueError: if TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / METRICS_NAME
        self._drop_after(step)
        self.writer: Any = None
        if tensorboard:
            self.writer = summary_writer()(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a row; a value that is not finite, which JSON does not know, is null."""
        finite = {k: v for k, v in values.items() if math.isfinite(v)}
        row = {"step": step, **{k: round(finite[k], 6) if k in finite else None for k in values}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if self.writer is not None:
            for name, value in finite.items():
                self.writer.add_scalar(name, value, step)
        logger.info("%s", row)

    def has(self, name: str, step: int) -> bool:
        """Whether a row of a step says something of this name."""
        if not self.path.exists():
            return False
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return any(_step_of(line) == step and name in json.loads(line) for line in lines)

    def close(self) -> None:
        """Flushes the events."""
        if self.writer is not None:
            self.writer.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            os.replace(partial, self.path)


class StepMeans:
    """Means of what steps measured since the last row; those that were skipped are counted and left out."""

    def __init__(self) -> None:
        self.steps = self.skipped_steps = 0
        self._values: dict[str, list[float]] = {}

    def add(self, measured: dict[str, float]) -> None:
        """Takes in a step: its ``loss``, the ``norm`` of its gradient, and whatever else."""
        self.steps += 1
        is_skipped = not (math.isfinite(measured["loss"]) and math.isfinite(measured["norm"]))
        self.skipped_steps += is_skipped
        for name, value in measured.items():
            kept = self._values.setdefault(name, [])
            if math.isfinite(value) and not is_skipped:
                kept.append(value)

    def row(self) -> dict[str, float]:
        """The mean of each value, NaN where there was none; and ``skipped_steps``."""
        means = {name: sum(kept) / len(kept) if kept else math.nan for name, kept in self._values.items()}
        return {**means, "skipped_steps": self.skipped_steps}


def summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"tensorboard=True: {error}; pip install tensorboard, or leave it out") from error
    return SummaryWriter


def _step_of(line: str) -> float:
    """Step of a row; infinite for a line cut short by a kill."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
