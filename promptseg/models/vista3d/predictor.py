"""VISTA3D's weights in the predictor: clicks and class names on CT of any orientation and spacing."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from ...boxes import box_slices, filled_box
from ...canvas import Canvas
from ...drawing import Drawing
from ...interaction import Interaction
from ...object_state import advance
from ...prediction import Prediction, prediction_of
from ...prompts import PromptSet
from ...structures import warn_of_guessed_sides
from ...volume import Volume
from ..fixed_spacing import bind
from ..foreign_predictor import ForeignPredictor
from ..sam_med3d.model import expected_iou
from .classes import find_classes
from .model import Vista3DModel
from .tiles import Vista3DEngine

MARGIN = 4
"""Voxels of background that are kept around a class's mask."""


class Vista3DInteraction(Interaction):
    """Draws an object that is named on all tiles of the image; then, and otherwise, as for any other model."""

    engine: Vista3DEngine

    def start(self, prompts: PromptSet) -> Drawing:
        """First answer: the union of the named classes, or what the clicks point at."""
        if not prompts.text:
            return super().start(prompts)
        classes = find_classes(self.engine.model.config, prompts.text)  # type: ignore[arg-type]
        tiles = self.lattice.all_tiles(0)
        logits = (self.engine.class_logits(tile, classes) for tile in tiles)
        canvas = cropped(Canvas.from_tiles(self.lattice, tiles, logits))
        score = float(expected_iou(canvas.logits.nan_to_num(-10.0)[None, None]))
        presence = float(canvas.logits.nan_to_num(-10.0).max().sigmoid())
        return Drawing(canvas, score, presence, is_from_prompts=False)


def cropped(canvas: Canvas) -> Canvas:
    """A canvas without what lies far from its mask, which need not be kept; as it is where the mask is empty."""
    box = filled_box((canvas.logits > 0).numpy())
    if box is None:
        return canvas
    low = np.maximum(np.asarray(box[0]) - MARGIN, 0)
    high = np.minimum(np.asarray(box[1]) + MARGIN, canvas.logits.shape)
    return Canvas(canvas.lattice, canvas.level, canvas.low + low, canvas.logits[box_slices(low, high)].clone())


class Vista3DPredictor(ForeignPredictor):
    """A :class:`~promptseg.Predictor` for converted VISTA3D weights: points, class names, masks to go on from.

    Differs from promptseg's own models in the tiles, which are 128^3 at 1.5 mm and of one level, and in the
    intensities, which are Hounsfield units: other images than CT are outside its training. A name is looked for on the
    whole image; clicks then correct what it found. Each tile is encoded once for all clicks (50 MB in the cache) and
    once for all names (400 MB).

    Example:
        >>> predictor = Vista3DPredictor.from_pretrained("vista3d")  # doctest: +SKIP
        >>> predictor.set_image("ct.nii.gz")  # doctest: +SKIP
        >>> predictor.predict(text="liver").save("liver.nii.gz")  # doctest: +SKIP
    """

    model_class = Vista3DModel

    def _make_engine(self, volume: Volume) -> Vista3DEngine:
        return bind(Vista3DEngine, self.model, volume, self.cache, self._signature(volume))

    def _make_interaction(self, engine: Any) -> Interaction:
        return Vista3DInteraction(engine, self._foreign_config)

    @torch.no_grad()
    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        scribbles: Any = None,
        lassos: Any = None,
        mask: Any = None,
        text: Any = None,
        space: str = "voxel",
    ) -> Prediction:
        """Segments the object that the prompts point at; see :meth:`promptseg.Predictor.predict`.

        Args:
            points: as there.
            labels: as there.
            box: not known to these weights.
            scribbles: count by points on them.
            lassos: count by points on them.
            mask: as there; not beside ``text``.
            text: one of the names in ``model.config.class_names``, or several for their union.
            space: as there.

        Raises:
            ValueError: also for a name that is not known; the nearest are listed.
        """
        if text is None:
            return super().predict(points, labels, box, scribbles, lassos, mask, space=space)
        if box is not None or mask is not None:
            raise ValueError(f"text={text!r} beside a box or a mask: VISTA3D takes a name alone, or with clicks")
        started = time.perf_counter()
        with self._lock:
            engine = self._require_engine()
            before = engine.num_encoded
            given = {"points": points, "labels": labels, "scribbles": scribbles, "lassos": lassos, "text": text}
            assert self._interaction is not None
            prompts = PromptSet.from_arguments(engine.volume, **given, space=space)
            if self._state is None or self._state.prompts.text != prompts.text:
                warn_of_guessed_sides(engine.volume, prompts.text)
            self._state = advance(self._interaction, self._state, prompts)
            seconds = time.perf_counter() - started
            return prediction_of(engine.volume, engine.signature, self._state, seconds, engine.num_encoded - before)
