"""Several structures of one image at once: a label map with names, volumes and scores, in which each is an object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .canvas import Canvas
from .drawing import Drawing
from .engine import TileEngine
from .label_map import render_labels
from .object_state import state_of
from .prediction import Prediction, prediction_of
from .prompts import PromptSet
from .quality import calibrated_score
from .search import Finding
from .volume import Volume
from .volume_checks import blocks


@dataclass(frozen=True, eq=False, repr=False)
class LabelPrediction:
    """Structures of a volume, on its own grid; two are equal only where they are the same one.

    Attributes:
        volume: the image.
        labels: (I, J, K) uint8, or uint16 where a value needs it; 0 is background. A whole has the voxels that none of
            its parts has; of others that overlap the surest one has the voxel.
        names: label value -> name of all that were asked for.
        presence: label value -> estimated probability that it is there, 0 to 1.
        scores: label value -> estimated IoU, 0 to 1; 0 for one that was not found.
        seconds: time it took.
        encoder_calls: tiles that had to be encoded; 0 when all were cached.
        weights: name of the weights.

    Example:
        >>> result = predictor.segment_all(["liver", "left kidney"])  # doctest: +SKIP
        >>> result.save("labels.nii.gz"), result.volumes_ml()  # doctest: +SKIP
        >>> predictor.predict(mask=result.object("liver"), points=[(120, 88, 45)], labels=[0])  # doctest: +SKIP
    """

    volume: Volume
    labels: np.ndarray
    names: dict[int, str]
    presence: dict[int, float]
    scores: dict[int, float]
    seconds: float
    encoder_calls: int
    weights: str = ""
    _found: Mapping[int, tuple[PromptSet, Drawing]] = field(default_factory=dict, repr=False)
    _sizes: Mapping[int, int] = field(default_factory=dict, repr=False)
    _signature: str = field(default="", repr=False)
    _calibration: Sequence[float] = field(default=(), repr=False)

    def __repr__(self) -> str:
        found = sum(count > 0 for count in self._counts().values())
        shape = " x ".join(map(str, self.volume.shape))
        return f"LabelPrediction({found} of {len(self.names)} labels, of {shape} voxels)"

    def volumes_ml(self) -> dict[int, float]:
        """Label value -> volume in the label map, in millilitres; 0 for one that was not found."""
        return {value: count * self.volume.voxel_ml for value, count in self._counts().items()}

    def _counts(self) -> dict[int, int]:
        """Label value -> voxels in the label map."""
        length = max(self.names, default=0) + 1
        # Block by block: numpy counts a copy of eight bytes a voxel.
        counts = np.sum([np.bincount(b.reshape(-1), minlength=length) for b in blocks(self.labels)], axis=0)
        return {value: int(counts[value]) for value in self.names}

    def object(self, which: str | int) -> Prediction:
        """One structure as an object of its own, whole even where another one lies over it in the label map.

        Pass it as ``mask=`` with a click, and the predictor goes on from it; a name stays known to what follows.

        Args:
            which: name or label value.

        Raises:
            ValueError: for one that was not asked for.
        """
        values = [value for value, name in self.names.items() if which in (value, name)]
        if not values:
            raise ValueError(f"{which!r} is not in this label map; it holds {', '.join(self.names.values())}")
        prompts, drawing = self._found[values[0]]
        state = state_of(drawing.canvas.lattice, drawing, prompts)
        return prediction_of(self.volume, self._signature, state, calibration=self._calibration)

    def save(self, path: str | Path) -> Path:
        """Writes the label map with the image's own affine, or as DICOM segmentation; returns the path.

        See :func:`promptseg.io.write_labels`; in a segmentation, those that were not found are left out and the others
        numbered from 1.
        """
        from .io import write_labels

        return write_labels(path, self.labels, self.volume, self.names, is_automatic=True)

    def table(self) -> list[dict[str, Any]]:
        """One row per structure: ``value``, ``name``, ``volume_ml``, ``score``, ``presence``, ``found`` and ``shown``.

        ``shown`` is the share of the structure, 0 to 1, that no other one covers in the label map; 0 for one not found.
        """
        counts = self._counts()
        return [
            {
                "value": value,
                "name": name,
                "volume_ml": round(counts[value] * self.volume.voxel_ml, 4),
                "score": round(self.scores[value], 4),
                "presence": round(self.presence[value], 4),
                "found": bool(self._found[value][1].score) if value in self._found else counts[value] > 0,
                "shown": round(counts[value] / max(1, self._sizes.get(value, counts[value])), 4),
            }
            for value, name in self.names.items()
        ]

    def save_table(self, path: str | Path) -> Path:
        """Writes :meth:`table` and the name of the weights as JSON; returns the path."""
        from .io.atomic import atomic_path

        content = {"weights": self.weights, "image": self.volume.source, "labels": self.table()}
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return Path(path)


@dataclass(frozen=True)
class LabelRequest:
    """A structure that a label map shall hold.

    Attributes:
        value: in the label map.
        name: of the structure.
        prompts: what stands for it in later corrections; without a name where tokens of an adapter found it.
    """

    value: int
    name: str
    prompts: PromptSet


def assemble(
    engine: TileEngine,
    requests: Sequence[LabelRequest],
    found: Sequence[Finding],
    seconds: float,
    encoder_calls: int,
    parts: Mapping[int, Sequence[int]] | None = None,
    advantages: Mapping[int, float] | None = None,
    calibration: Sequence[float] = (),
) -> LabelPrediction:
    """A label map of what was found.

    Args:
        engine: image and model.
        requests: what was asked for.
        found: one finding for each.
        seconds: time it took.
        encoder_calls: tiles that had to be encoded.
        parts: label value of a whole -> those of its parts.
        advantages: label value -> what counts beside a structure's logits where it overlaps others; None for nothing.
        calibration: of the scores; see :mod:`promptseg.quality`.
    """
    volume = engine.volume
    canvases = {r.value: f.canvas for r, f in zip(requests, found, strict=True) if f.canvas is not None}
    labels, sizes = render_labels(volume.canonical_shape, canvases, parts, advantages)
    drawings = {}
    for request, finding in zip(requests, found, strict=True):
        canvas = Canvas.blank(engine.lattice) if finding.canvas is None else finding.canvas
        has_name = request.prompts.structure is not None
        is_found = has_name and finding.canvas is not None
        drawing = Drawing(canvas, finding.score, finding.presence, is_from_prompts=has_name, is_found_by_name=is_found)
        drawings[request.value] = (request.prompts, drawing)
    return LabelPrediction(
        volume=volume,
        labels=volume.from_canonical_array(labels),
        names={r.value: r.name for r in requests},
        presence={r.value: f.presence for r, f in zip(requests, found, strict=True)},
        scores={
            value: calibrated_score(calibration, drawing.canvas, drawing.score, 0)
            for value, (_, drawing) in drawings.items()
        },
        seconds=seconds,
        encoder_calls=encoder_calls,
        weights=engine.model.config.name,
        _found=drawings,
        _sizes=sizes,
        _signature=engine.signature,
        _calibration=calibration,
    )
