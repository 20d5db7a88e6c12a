"""What predictors of other projects' weights have in common: a fixed spacing, and intensities of their own."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..drawing import InteractionConfig
from ..engine import TileEngine
from ..interaction import Interaction
from ..predictor import Predictor
from ..volume import Volume
from .registry import revision


class ForeignPredictor(Predictor):
    """A :class:`~promptseg.Predictor` for converted weights of another architecture.

    Weights are float32 as published unless another ``dtype`` is asked for.

    Args:
        model: converted weights.
        options: of :class:`~promptseg.Predictor`.
    """

    model_class: ClassVar[Any]
    """Has ``from_pretrained(folder)``."""

    def __init__(self, model: Any, **options: Any) -> None:
        if options.get("dtype") is None:
            options["dtype"] = torch.float32
        super().__init__(model, **options)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> ForeignPredictor:
        """Loads a folder that ``promptseg convert`` made.

        Args:
            name: the folder.
            options: of the constructor.

        Raises:
            ValueError: if a file is missing, damaged, or of another architecture.
        """
        model = cls.model_class.from_pretrained(name)
        return cls(model, revision=revision(Path(name)), **options)

    def set_image(self, image: Any, affine: Any = None, spacing: Any = None) -> ForeignPredictor:
        """Chooses the image that prompts refer to; see :meth:`promptseg.Predictor.set_image`."""
        volume = Volume.from_image(image, affine=affine, spacing=spacing)
        with self._lock:
            self._engine = self._make_engine(volume)
            self._interaction = self._make_interaction(self._engine)
            self._state = None
            self._history.clear()
        return self

    @abstractmethod
    def _make_engine(self, volume: Volume) -> TileEngine:
        """Binds the weights to an image."""

    def _make_interaction(self, engine: TileEngine) -> Interaction:
        """How objects are found and drawn."""
        return Interaction(engine, self._foreign_config)

    @property
    def _foreign_config(self) -> InteractionConfig:
        """How tiles are chosen, for weights that were trained on whole objects with all of the mask they correct."""
        all_of_it = {"mask_weight": 1.0, "part_mask_weight": 1.0, "local_reach": float("inf")}
        return replace(self.interaction_config, late_span=1.0, **all_of_it)

    def _signature(self, volume: Volume) -> str:
        """Names image, weights, numeric type and tiling: what an embedding depends on."""
        content = [volume.content_hash, self.revision, str(self.dtype), self.model.config.to_dict()]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
