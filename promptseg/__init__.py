"""promptseg: promptable segmentation of 3D medical images."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .drawing import InteractionConfig
    from .models import ModelConfig, PromptableModel
    from .prediction import Prediction
    from .predictor import Predictor
    from .prompts import Box, Lasso, Mask, Points, Scribble, Text
    from .volume import Volume

__version__ = "0.1.0"

_HOMES = {
    "Box": "prompts",
    "InteractionConfig": "drawing",
    "Lasso": "prompts",
    "Mask": "prompts",
    "ModelConfig": "models",
    "Points": "prompts",
    "Prediction": "prediction",
    "Predictor": "predictor",
    "PromptableModel": "models",
    "Scribble": "prompts",
    "Text": "prompts",
    "Volume": "volume",
}

__all__ = [
    "Box",
    "InteractionConfig",
    "Lasso",
    "Mask",
    "ModelConfig",
    "Points",
    "Prediction",
    "Predictor",
    "PromptableModel",
    "Scribble",
    "Text",
    "Volume",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``import promptseg`` and the command line start fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'promptseg' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
