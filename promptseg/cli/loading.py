"""What several subcommands do before they can work: choose a device, load weights, show progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..predictor import Predictor

DEFAULT_MODEL = "promptseg-tiny"


def load_predictor(
    model: str, device: str | None, uses_disk_cache: bool = False, adapters: tuple[str, ...] = ()
) -> Predictor:
    """Loads weights onto a device.

    Args:
        model: name, folder or Hub id.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; None to choose.
        uses_disk_cache: keep image embeddings in the folder that ``promptseg cache`` shows.
        adapters: folders or Hub ids of adapters to put on.

    Raises:
        ValueError: for unknown weights, or a device that is not there.
    """
    check_device(device)
    from ..cache import default_disk_dir
    from ..predictor import Predictor

    cache_dir = default_disk_dir() if uses_disk_cache else None
    return Predictor.from_pretrained(model, adapter=adapters or None, device=device, cache_dir=cache_dir)


def check_device(device: str | None) -> None:
    """Refuses a device that this machine does not have.

    Raises:
        ValueError: naming it and those that are there.
    """
    if device is None:
        return
    available = available_devices()
    name = "cuda:0" if device == "cuda" else device
    if name not in available:
        raise ValueError(f"--device {device}: not here; this machine has {', '.join(available)}")


def available_devices() -> list[str]:
    """Devices torch can compute on, as ``--device`` takes them."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def progress_bar(description: str, total: int, unit: str) -> tqdm[Any]:
    """A progress bar on stderr if that is a terminal, else one that stays silent."""
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
