"""promptseg's own predictor in the table; the only module of the evaluation that imports the model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .names import meaning_of
from .prompts import ObjectPrompts
from .segmenters import SegmenterAnswer, SegmenterImage


class PredictorSegmenter:
    """A :class:`promptseg.Predictor`, or anything with its ``set_image`` and ``predict``.

    Args:
        predictor: to be measured.
        accepts: kinds of prompts it understands; None for those of promptseg's own weights, with text and automatic
            where they have learnt text.

    Example:
        >>> PredictorSegmenter.from_pretrained("promptseg-tiny")  # doctest: +SKIP
    """

    def __init__(self, predictor: Any, accepts: frozenset[str] | None = None) -> None:
        self.predictor = predictor
        spoken = {"text", "automatic"} if getattr(predictor, "understands_text", False) else set()
        self.accepts = accepts or frozenset({"points", "box", "scribbles", "mask", *spoken})
        self._found: Any = None

    @classmethod
    def from_pretrained(cls, name: str, device: str | None = None) -> PredictorSegmenter:
        """Loads weights.

        Args:
            name: a checkpoint that ships, or a folder; one that ``promptseg convert`` made, too.
            device: where to compute.

        Raises:
            ValueError: for weights that are not there.
        """
        from ..predictor import Predictor

        accepts = None if foreign_weights(name) is None else accepted_prompts(name)
        return cls(Predictor.from_pretrained(name, device=device), accepts)

    def set_image(self, image: SegmenterImage) -> None:
        """Hands over the array with its affine; embeddings of the image before are dropped."""
        self._found = None
        self.predictor.clear()
        self.predictor.set_image(np.ascontiguousarray(image.array), affine=image.affine)

    def start_object(self) -> None:
        """Nothing to do: the predictor sees from the prompts that the object is new."""

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """Asks the predictor with all prompts so far."""
        from ..prompts import Scribble

        if prompts.is_automatic:
            return self._find(prompts.text or "")
        with quiet("promptseg.predictor"), quiet("promptseg.structures"):  # an answer is scored, not warned of
            prediction = self.predictor.predict(
                points=prompts.points if len(prompts.points) else None,
                labels=prompts.labels if len(prompts.points) else None,
                box=prompts.box,
                scribbles=[Scribble(s.voxels, label=s.label) for s in prompts.strokes] or None,
                mask=None if prompts.mask is None else prompts.mask.astype(np.uint8),
                text=prompts.text,
            )
        presence = getattr(prediction, "presence", None)
        return SegmenterAnswer(prediction.mask, prediction.score, prediction.encoder_calls, presence)

    def _find(self, name: str) -> SegmenterAnswer:
        """One structure of those found without a prompt, all at once at the first call; empty for an unknown one."""
        encoder_calls, is_looked_up = 0, self._found is not None
        if self._found is None:
            self._found = self.predictor.segment_all()
            encoder_calls = self._found.encoder_calls
        found, wanted = self._found, meaning_of(name)
        values = [value for value, known in found.names.items() if meaning_of(known) == wanted]
        if wanted is None or not values:
            return SegmenterAnswer(np.zeros(found.labels.shape, dtype=bool), 0.0, encoder_calls, 0.0, is_looked_up)
        value = values[0]
        mask, score, presence = found.labels == value, found.scores[value], found.presence[value]
        return SegmenterAnswer(mask, score, encoder_calls, presence, is_looked_up)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silences a logger's warnings for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def accepted_prompts(name: str) -> frozenset[str]:
    """Kinds of prompts that weights understand, without loading them; of promptseg's own all but text."""
    architecture = foreign_weights(name)
    if architecture is None:
        return frozenset({"points", "box", "scribbles", "mask"})
    return frozenset({"points", "mask", "text"} if architecture == "vista3d" else {"points", "mask"})


def foreign_weights(name: str) -> str | None:
    """The architecture of another project's weights, which ``promptseg convert`` put into a folder; None for others."""
    from ..models.pretrained import foreign_architecture
    from ..models.registry import CONFIG_NAME

    return foreign_architecture(Path(name)) if (Path(name) / CONFIG_NAME).is_file() else None


def weights_revision(name: str) -> str:
    """Digest of a checkpoint's files.

    Raises:
        ValueError: for weights that are not there.
    """
    from ..models.registry import resolve, revision

    return revision(resolve(name))
