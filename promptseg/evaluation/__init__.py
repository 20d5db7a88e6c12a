"""An interactive benchmark: simulated users, metrics, classical baselines in the same run, a report, and comparisons.

Nothing here imports the model but the adapter that asks it; ``import promptseg.evaluation`` imports neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import CompareConfig, Comparison, compare_reports
    from .config import EvaluationConfig
    from .metrics import Scores, TrueObject
    from .monai_adapter import NetworkSegmenter
    from .nninteractive_adapter import NnInteractiveSegmenter
    from .predictor_adapter import PredictorSegmenter
    from .prompts import ObjectPrompts
    from .runner import EvaluationResult, run_evaluation
    from .segmenters import InteractiveSegmenter, SegmenterAnswer, SegmenterImage

_HOMES = {
    "CompareConfig": "compare",
    "Comparison": "compare",
    "EvaluationConfig": "config",
    "EvaluationResult": "runner",
    "InteractiveSegmenter": "segmenters",
    "NetworkSegmenter": "monai_adapter",
    "NnInteractiveSegmenter": "nninteractive_adapter",
    "ObjectPrompts": "prompts",
    "PredictorSegmenter": "predictor_adapter",
    "Scores": "metrics",
    "SegmenterAnswer": "segmenters",
    "SegmenterImage": "segmenters",
    "TrueObject": "metrics",
    "compare_reports": "compare",
    "run_evaluation": "runner",
}

__all__ = [
    "CompareConfig",
    "Comparison",
    "EvaluationConfig",
    "EvaluationResult",
    "InteractiveSegmenter",
    "NetworkSegmenter",
    "NnInteractiveSegmenter",
    "ObjectPrompts",
    "PredictorSegmenter",
    "Scores",
    "SegmenterAnswer",
    "SegmenterImage",
    "TrueObject",
    "compare_reports",
    "run_evaluation",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'promptseg.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
