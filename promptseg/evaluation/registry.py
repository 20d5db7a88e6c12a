"""From the name of a segmenter on the command line to the segmenter, without importing any that is not asked for."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .baselines import BASELINES, tuned_parameters
from .segmenters import ALL_PROMPTS, ClickedVoxelsSegmenter, EmptySegmenter, InteractiveSegmenter, OracleSegmenter

_KNOWN: dict[str, Callable[[], InteractiveSegmenter]] = {
    "oracle": OracleSegmenter,
    "empty": EmptySegmenter,
    "clicked-voxels": ClickedVoxelsSegmenter,
}
_ACCEPTED = {"nninteractive": ALL_PROMPTS - {"text", "automatic"}, "test": ALL_PROMPTS}


@dataclass(frozen=True)
class SegmenterSpec:
    """A segmenter that is still to be made; small, so that it can be sent to a worker.

    Attributes:
        name: in tables and files.
        kind: ``weights``, ``baseline``, ``test``, ``nninteractive`` or ``factory``.
        argument: what of that kind.
        device: where to compute, for those that can choose.
    """

    name: str
    kind: str
    argument: str
    device: str | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether it is a classical baseline or a segmenter for tests."""
        return self.kind in ("baseline", "test")

    def revision(self) -> str:
        """What tells two versions apart: a digest of weights or parameters; empty if that cannot be known.

        Raises:
            ValueError: for weights that are not there.
        """
        if self.kind == "weights":
            from .predictor_adapter import weights_revision

            return weights_revision(self.argument)
        if self.kind == "baseline":
            content = json.dumps(tuned_parameters(self.argument), sort_keys=True)
            return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        if self.kind == "nninteractive":
            from .nninteractive_adapter import folder_revision

            return folder_revision(self.argument)
        return ""

    def accepts(self, kinds: frozenset[str]) -> bool:
        """Whether it understands all kinds of prompts of a protocol; weights are loaded only to ask about text."""
        if self.kind == "baseline":
            return kinds <= BASELINES[self.argument].accepts
        if self.kind in ("nninteractive", "test"):
            return kinds <= _ACCEPTED[self.kind]
        if self.kind == "weights" and not kinds & {"text", "automatic"}:
            from .predictor_adapter import accepted_prompts

            return kinds <= accepted_prompts(self.argument)
        return kinds <= self.build().accepts

    def build(self) -> InteractiveSegmenter:
        """Makes the segmenter.

        Raises:
            ValueError: if its weights, package or factory are not there.
        """
        if self.kind == "weights":
            from .predictor_adapter import PredictorSegmenter

            return PredictorSegmenter.from_pretrained(self.argument, device=self.device)
        if self.kind == "baseline":
            return BASELINES[self.argument].tuned(self.argument)
        if self.kind == "nninteractive":
            from .nninteractive_adapter import NnInteractiveSegmenter

            return NnInteractiveSegmenter(self.argument, device=self.device)
        if self.kind == "factory":
            return _call_factory(self.argument)
        return _KNOWN[self.argument]()


def parse_spec(text: str, device: str | None = None) -> SegmenterSpec:
    """Reads ``[NAME=]MODEL``.

    Args:
        text: as on the command line.
        device: for segmenters that can choose.

    Raises:
        ValueError: for an empty name.

    Example:
        >>> parse_spec("new=runs/step_9000")
        SegmenterSpec(name='new', kind='weights', argument='runs/step_9000', device=None)
        >>> parse_spec("random-walker").kind
        'baseline'
    """
    name, _, model = text.rpartition("=")
    if not model or ("=" in text and not name):
        raise ValueError(f"--model {text!r}: expected MODEL or NAME=MODEL")
    if model in _KNOWN:
        kind, argument = "test", model
    elif model in BASELINES:
        kind, argument = "baseline", model
    elif model.startswith("nninteractive:"):
        kind, argument = "nninteractive", model.partition(":")[2]
    elif re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", model):
        kind, argument = "factory", model
    else:
        kind, argument = "weights", model
    default_name = {"weights": Path(argument).name or argument, "nninteractive": "nninteractive"}.get(kind, model)
    return SegmenterSpec(name or default_name, kind, argument, device)


def parse_specs(texts: tuple[str, ...], device: str | None = None) -> list[SegmenterSpec]:
    """Reads several, which must have different names.

    Raises:
        ValueError: for two of one name.
    """
    specs = [parse_spec(text, device) for text in texts]
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"--model: {', '.join(twice)} is there twice; give each a name of its own, as in --model new=FOLDER"
        )
    return specs


def _call_factory(argument: str) -> InteractiveSegmenter:
    module, _, function = argument.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {argument}: cannot import it ({error}); expected package.module:factory") from error
    made = factory()
    if not isinstance(made, InteractiveSegmenter):
        raise ValueError(
            f"--model {argument}: it made a {type(made).__name__}, expected an InteractiveSegmenter "
            "with accepts, set_image, start_object and predict"
        )
    return made
