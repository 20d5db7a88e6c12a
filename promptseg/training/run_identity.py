"""What has to stay the same for a run to be the same run: what a resumed one is compared by."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import PretrainConfig

_MAY_CHANGE = ("model.name", "model.activation_checkpointing")
"""A name, and what trades memory for time: neither changes what is learnt."""


def run_identity(config: PretrainConfig) -> dict[str, Any]:
    """What a checkpoint keeps of its run's configuration, as plain values.

    Architecture, stage, seed, data and how crops are drawn. Rates, length, intervals, batches and the number of
    processes are not among them: they may change on the way.
    """
    kept = {
        "stage": config.stage,
        "seed": config.seed,
        "data_weights": config.data_weights,
        "model": dataclasses.asdict(config.model),
        "sampler": dataclasses.asdict(config.sampler),
    }
    if config.stage == "mae":
        kept["mae"] = dataclasses.asdict(config.mae)
    return json.loads(json.dumps(kept))


def refuse_another_run(config: PretrainConfig, progress: dict[str, Any]) -> None:
    """Compares a configuration with the run that wrote a checkpoint.

    Args:
        config: to resume with.
        progress: of the checkpoint. What it does not say, as those of earlier versions, is not compared.

    Raises:
        ValueError: if they differ; the fields are named with both values.
    """
    found = _differences(progress.get("run", {}), run_identity(config))
    if found:
        raise ValueError(
            f"{config.out_dir} holds a run at step {progress['step']} of another configuration: {'; '.join(found)}; "
            "resume with the configuration that it was started with, or choose another --out-dir (out_dir)"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """``name=now, not before`` for each field that differs, nested ones by their dotted names."""
    if prefix == "data_weights.":  # its names are data sets, and one that came or went is a difference
        return [] if before == now else [f"data_weights={now}, not {before}"]
    found: list[str] = []
    for name, value in before.items():
        if name not in now or prefix + name in _MAY_CHANGE:
            continue  # a field that another version has
        if isinstance(value, dict) and isinstance(now[name], dict):
            found += _differences(value, now[name], f"{prefix}{name}.")
        elif value != now[name]:
            found.append(f"{prefix}{name}={now[name]!r}, not {value!r}")
    return found
