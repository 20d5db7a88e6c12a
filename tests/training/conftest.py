"""A data set of tiny volumes on disk, and runs on it that take a second."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from promptseg.models.config import ModelConfig
from promptseg.training.config import PretrainConfig

TINY_MODEL = {
    "name": "test",
    "tile_size": 16,
    "stem_channels": (8, 8, 8),
    "stem_depths": (1, 1, 1),
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
    "decoder_depth": 1,
    "decoder_channels": (8, 8, 8),
    "point_features": True,
}


def _write_case(folder: Path, name: str, rng: np.random.Generator) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(36)] * 3, indexing="ij"), axis=-1)
    labels = np.zeros((36, 36, 36), dtype=np.uint8)
    labels[np.linalg.norm(grid - 14, axis=-1) < 9] = 1
    labels[np.linalg.norm(grid - 24, axis=-1) < 6] = 2
    image = (100 * labels + rng.normal(0, 20, labels.shape)).astype(np.int16)
    for kind, array in (("image", image), ("label", labels)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{name}_{kind}.nii.gz")  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one data set of two training cases and one validation case."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "balls"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cases = []
    for name, fold in (("a", "train"), ("b", "train"), ("c", "validation")):
        _write_case(folder, name, rng)
        cases.append(
            {"case": name, "fold": fold, "image": f"balls/{name}_image.nii.gz", "label": f"balls/{name}_label.nii.gz"}
        )
    description = {
        "name": "balls",
        "modality": "CT",
        "licence": "CC0",
        "citation": "none",
        "labels": {"1": "liver", "2": "spleen"},
        "cases": cases,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return root


MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture
def make_config(tiny_data: Path, tmp_path: Path) -> MakeConfig:
    """Makes a configuration of a tiny run; arguments replace its fields."""

    def make(**changes: Any) -> PretrainConfig:
        values: dict[str, Any] = {
            "out_dir": str(tmp_path / "run"),
            "data_root": str(tiny_data),
            "data_weights": {"balls": 1.0},
            "model": ModelConfig(**TINY_MODEL),  # type: ignore[arg-type]
            "device": "cpu",
            "batch_size": 1,
            "num_workers": 0,
            "max_steps": 6,
            "warmup_steps": 1,
            "decay_start": 2,
            "log_every": 2,
            "save_every_minutes": 1e6,
            "bf16": False,
            "ema_decay": 0.9,
            "round_probabilities": (0.5, 0.5),
        }
        values.update(changes)
        crop_size = values["model"].tile_size
        values.setdefault("sampler", {"crop_size": crop_size})
        return PretrainConfig(**{**values, "sampler": _sampler(values["sampler"])})

    return make


def _sampler(values: Any) -> Any:
    from promptseg.data.sampler import SamplerConfig

    return SamplerConfig(**values) if isinstance(values, dict) else values


def _child(
    rank: int, world_size: int, port: int, target: Callable[..., Any], args: tuple[Any, ...], results: Any
) -> None:
    import torch

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        results.put((rank, target(*args), None))
    except BaseException as error:
        results.put((rank, None, repr(error)))
        raise
    finally:
        from promptseg.training.distributed import stop

        stop()


RunProcesses = Callable[..., list[Any]]


@pytest.fixture
def run_processes() -> RunProcesses:
    """Runs ``target(*args)`` in several processes that form a group, as under torchrun; returns what each returned."""

    def run(world_size: int, target: Callable[..., Any], *args: Any) -> list[Any]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        children = [
            context.Process(target=_child, args=(rank, world_size, port, target, args, results))
            for rank in range(world_size)
        ]
        for child in children:
            child.start()
        found = [results.get() for _ in children]
        for child in children:
            child.join(120)
        assert not [error for _, _, error in found if error], found
        return [value for _, value, _ in sorted(found, key=lambda entry: entry[0])]

    return run
