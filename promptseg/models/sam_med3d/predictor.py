"""SAM-Med3D's weights in the predictor: any orientation and spacing, cached embeddings, no ground truth."""

from __future__ import annotations

from ...volume import Volume
from ..fixed_spacing import bind
from ..foreign_predictor import ForeignPredictor
from .model import SamMed3DModel
from .tiles import SamMed3DEngine


class SamMed3DPredictor(ForeignPredictor):
    """A :class:`~promptseg.Predictor` for converted SAM-Med3D weights: points, and masks to go on from.

    Differs from promptseg's own models in the tiles, which are 128^3 at 1.5 mm and of one level, and in the
    intensities, which are normalised for each tile. bfloat16 encodes a tile in a third of the time, and changes random
    weights' embedding by 1 %.

    Example:
        >>> predictor = SamMed3DPredictor.from_pretrained("sam-med3d")  # doctest: +SKIP
        >>> predictor.set_image("ct.nii.gz")  # doctest: +SKIP
        >>> predictor.predict(points=[(120, 88, 45)]).save("liver.nii.gz")  # doctest: +SKIP
    """

    model_class = SamMed3DModel

    def _make_engine(self, volume: Volume) -> SamMed3DEngine:
        return bind(SamMed3DEngine, self.model, volume, self.cache, self._signature(volume))
