"""SAM-Med3D's weights in the predictor: any orientation and spacing, cached embeddings, no ground truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ...interaction import Interaction
from ...predictor import Predictor
from ...volume import Volume
from ..registry import revision
from .model import SamMed3DModel
from .tiles import make_engine


class SamMed3DPredictor(Predictor):
    """A :class:`~promptseg.Predictor` for converted SAM-Med3D weights: points, and masks to go on from.

    Differs from promptseg's own models in the tiles, which are 128^3 at 1.5 mm and of one level, and in the
    intensities, which are normalised for each tile. Weights are float32 as published unless another ``dtype`` is asked
    for: bfloat16 encodes a tile in a third of the time, and changes random weights' embedding by 1 %.

    Args:
        model: converted weights.
        options: of :class:`~promptseg.Predictor`.

    Example:
        >>> predictor = SamMed3DPredictor.from_pretrained("sam-med3d")  # doctest: +SKIP
        >>> predictor.set_image("ct.nii.gz")  # doctest: +SKIP
        >>> predictor.predict(points=[(120, 88, 45)]).save("liver.nii.gz")  # doctest: +SKIP
    """

    def __init__(self, model: SamMed3DModel, **options: Any) -> None:
        if options.get("dtype") is None:
            options["dtype"] = torch.float32
        super().__init__(model, **options)  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> SamMed3DPredictor:
        """Loads a folder that ``promptseg convert sam-med3d`` made.

        Args:
            name: the folder.
            options: of the constructor.

        Raises:
            ValueError: if a file is missing, damaged, or of another architecture.
        """
        model = SamMed3DModel.from_pretrained(name)
        return cls(model, revision=revision(Path(name)), **options)

    def set_image(self, image: Any, affine: Any = None, spacing: Any = None) -> SamMed3DPredictor:
        """Chooses the image that prompts refer to; see :meth:`promptseg.Predictor.set_image`."""
        volume = Volume.from_image(image, affine=affine, spacing=spacing)
        with self._lock:
            self._engine = make_engine(self.model, volume, self.cache, self._signature(volume))  # type: ignore[arg-type]
            self._interaction = Interaction(self._engine, self.interaction_config)
            self._state = None
        return self

    def _signature(self, volume: Volume) -> str:
        """Names image, weights, numeric type and tiling: what an embedding depends on."""
        content = [volume.content_hash, self.revision, str(self.dtype), self.model.config.to_dict()]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
