"""Loading and saving of complete checkpoints: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..safe_loading import load_into, read_tensors, replacing, save_tensors
from .config import ModelConfig
from .promptable_model import PromptableModel
from .registry import CONFIG_NAME, WEIGHTS_NAME, resolve, revision


def load_pretrained(name: str | Path) -> tuple[PromptableModel, str]:
    """Loads a checkpoint.

    Args:
        name: one that ships, or a folder.

    Returns:
        The model in evaluation mode, and the digest of its files.

    Raises:
        ValueError: for an unknown name, a damaged or incomplete folder, or weights of another architecture.
    """
    folder = resolve(name)
    model = PromptableModel(read_config(folder))
    load_into(model, read_tensors(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME))
    return model.eval(), revision(folder)


def read_config(folder: Path) -> ModelConfig:
    """Configuration of a checkpoint folder."""
    path = folder / CONFIG_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(values, dict) or not isinstance(values.get("model", values), dict):
        raise ValueError(f"{path}: expected an object of model fields, as save_pretrained writes it")
    return ModelConfig.from_dict(values.get("model", values), source=str(path))


def save_pretrained(model: PromptableModel, folder: str | Path, extra: dict[str, Any] | None = None) -> Path:
    """Writes a checkpoint folder that :func:`load_pretrained` reads.

    Args:
        model: to save.
        folder: made if missing.
        extra: further entries of ``config.json``, such as the training step.

    Returns:
        The folder.

    Raises:
        OSError: if it cannot be written; nothing half-written is left behind.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({k: v.float() for k, v in model.state_dict().items()}, folder / WEIGHTS_NAME)
    text = json.dumps({"model": model.config.to_dict(), **(extra or {})}, indent=1) + "\n"
    with replacing(folder / CONFIG_NAME) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder
