"""``promptseg doctor``: whether this installation works, and with what."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata

from ..extras import EXTRAS
from .command import Command, option
from .loading import DEFAULT_MODEL, available_devices, load_predictor

CORE = ("torch", "torchvision", "timm", "monai", "numpy", "nibabel", "safetensors", "huggingface_hub")


@dataclass(frozen=True)
class DoctorConfig:
    """Checks the installation and prints what to tell in a bug report: versions, device, weights, a timed self-test.

    The exit code is 1 when something that is needed is missing or the self-test fails.
    """

    model: str = option(DEFAULT_MODEL, metavar="NAME")
    """weights for the self-test: a name that ships, or a folder"""
    device: str | None = option(None, metavar="DEVICE")
    """cpu, cuda, cuda:N or mps; a GPU is used if there is one"""
    self_test: bool = True
    """segment an organ of the volume that ships"""


def run(config: DoctorConfig) -> int:
    """Prints the report."""
    from .. import __version__

    _line("promptseg", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    missing = [name for name in CORE if _version(name) is None]
    _line("packages", ", ".join(f"{name} {_version(name) or 'MISSING'}" for name in CORE))
    for extra, names in EXTRAS.items():
        found = {name: _version(name) for name in names}
        absent = [name for name, version in found.items() if version is None]
        there = ", ".join(f"{n} {v}" for n, v in found.items() if v)
        advice = f"missing {', '.join(absent)}: pip install 'promptseg[{extra}]'" if absent else ""
        _line(f"[{extra}]", "; ".join(filter(None, (there, advice))))
    if missing:
        _line("problem", f"{', '.join(missing)} missing: install promptseg again")
        return 1

    _report_devices()
    from ..models.registry import list_models, search_paths

    models = list_models()
    for name, folder in models.items():
        _line("weights", f"{name} ({(folder / 'model.safetensors').stat().st_size / 1e6:.0f} MB) in {folder}")
    if not models:
        _line("weights", f"none found in {' or '.join(map(str, search_paths()))}")
    if not config.self_test:
        return 0
    if config.model not in models and not os.path.isdir(config.model):
        _line(
            "problem",
            f"no weights {config.model!r} for the self-test; install promptseg again, or name a folder with --model",
        )
        return 1
    return _self_test(config)


def _report_devices() -> None:
    import torch

    from ..cache import default_disk_dir
    from ..predictor import preferred_dtype

    threads = torch.get_num_threads()
    _line("processor", f"{_processor_name()}, {os.cpu_count()} cores, torch uses {threads} thread{'s' * (threads > 1)}")
    for name in available_devices():
        device = torch.device(name)
        computes = "bfloat16" if preferred_dtype(device) == torch.bfloat16 else "float32 (no fast bfloat16)"
        detail = ""
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            detail = f" {properties.name}, {properties.total_memory / 2**30:.0f} GiB,"
        _line("device", f"{name}:{detail} computes in {computes}")
    folder = default_disk_dir()
    _line("cache", f"{folder}{'' if folder.is_dir() else ' (not made yet)'}")


def _self_test(config: DoctorConfig) -> int:
    """Two clicks on the demo volume, held against what must be so for any weights."""
    from .. import demo

    thing = demo.OBJECTS[0]
    started = time.perf_counter()
    predictor = load_predictor(config.model, config.device)
    _line("self-test", f"{config.model} loaded in {time.perf_counter() - started:.1f} s")
    predictor.set_image(demo.IMAGE)
    for count, prompts in enumerate(thing.rounds()[:2], start=1):
        result = predictor.predict(**prompts)
        mask = result.mask
        _line("", f"click {count} on the {thing.name}: {result.volume_ml:.0f} ml in {result.seconds:.2f} s")
        wrong = [p for p, label in zip(thing.points[:count], thing.labels[:count], strict=True) if mask[p] != label]
        if mask.shape != predictor.volume.shape or wrong:
            _line("problem", f"the mask does not follow the clicks at {wrong}; please report this with the lines above")
            return 1
    _line("", "all is well")
    return 0


def _line(head: str, text: str) -> None:
    print(f"{head:<13}{text}".rstrip())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor_name() -> str:
    if sys.platform.startswith("linux"):
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:
                for line in file:
                    if line.startswith("model name"):
                        return line.split(":", 1)[1].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


COMMAND = Command(DoctorConfig, run, example="  promptseg doctor\n  promptseg doctor --no-self-test")
