"""Automatic mode: the labels that adapters were tuned for, on a whole volume, without a prompt.

Coarse to fine: the coarsest zoom level holds the volume in one tile and says where each label may lie; each finer level
down to the label's own draws it again on the tiles that cover it, with the coarser mask as mask prompt. A label that a
coarse level does not show is looked for on the next one, on all of its tiles while they are few.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..canvas import Canvas
from ..engine import BATCH_TILES, TileEngine
from ..models import ImageEmbedding, PromptBatch
from ..tiles import TileKey
from ..volume import Volume
from .config import AdapterLabel
from .tokens import decode_with_tokens, empty_prompts

logger = logging.getLogger(__name__)

FILL = 0.9
"""Largest side of a label, relative to a tile's, for a level to be fine enough to draw it."""
MAX_TILES = 27
"""Most tiles that one label is drawn on at one level."""
MAX_SEARCH_TILES = 64
"""Most tiles of a level on which a label that was not seen yet is looked for."""
MARGIN = 0.15
"""How much a coarse mask's box is widened on each side, relative to its size."""
MIN_PRESENCE = 0.3
"""Estimated probability of being there below which a tile's mask of a label counts as empty."""
SLAB = 32
"""Voxels along the first axis that are written at a time, so that memory does not grow with the volume."""


@dataclass(frozen=True)
class LabelPrediction:
    """Labels of a volume, on its own grid.

    Attributes:
        volume: the image.
        labels: (I, J, K) uint8, or uint16 where a value needs it; 0 is background.
        names: label value -> name of all that were asked for.
        presence: label value -> estimated probability that it is there, 0 to 1.
        seconds: time it took.
        encoder_calls: tiles that had to be encoded; 0 when all were cached.
    """

    volume: Volume
    labels: np.ndarray
    names: dict[int, str]
    presence: dict[int, float]
    seconds: float
    encoder_calls: int

    def volumes_ml(self) -> dict[int, float]:
        """Label value -> volume in millilitres; 0 for one that was not found."""
        counts = np.bincount(self.labels.reshape(-1), minlength=max(self.names, default=0) + 1)
        voxel_ml = float(abs(np.linalg.det(self.volume.affine[:3, :3]))) / 1000
        return {value: float(counts[value]) * voxel_ml for value in self.names}

    def save(self, path: str | Path) -> Path:
        """Writes the label map with the image's own affine; returns the path."""
        from ..io import write_volume

        return write_volume(path, self.labels, self.volume.affine, reference=self.volume.source)


def predict_labels(
    engine: TileEngine, labels: Mapping[AdapterLabel, Tensor], names: Sequence[str] | None = None
) -> LabelPrediction:
    """Finds and draws labels.

    Args:
        engine: image, and the model with the adapters on.
        labels: label -> learned tokens (T, C); see :attr:`~promptseg.adapters.AdapterStack.labels`.
        names: which; None for all.

    Raises:
        ValueError: if there is none with tokens, or a name is not known.
    """
    started, encoded = time.perf_counter(), engine.num_encoded
    usable = {label: tokens for label, tokens in labels.items() if tokens.numel()}
    if not usable:
        raise ValueError(
            "no adapter with an automatic mode is on: load one that was tuned with labels, or give a prompt"
        )
    known = {label.name: label for label in usable}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"names={unknown}: the adapters that are on know {', '.join(known)}")
    chosen = [label for label in usable if names is None or label.name in names]
    tokens = torch.stack([usable[label] for label in chosen])
    drawn = draw_labels(engine, chosen, tokens)
    found = render_labels(engine, {label.value: canvas for label, (canvas, _) in drawn.items() if canvas is not None})
    for label, (canvas, presence) in drawn.items():
        if canvas is None:
            logger.info("%s was not found (presence %.2f)", label.name, presence)
    return LabelPrediction(
        volume=engine.volume,
        labels=engine.volume.from_canonical_array(found),
        names={label.value: label.name for label in chosen},
        presence={label.value: presence for label, (_, presence) in drawn.items()},
        seconds=time.perf_counter() - started,
        encoder_calls=engine.num_encoded - encoded,
    )


def draw_labels(
    engine: TileEngine, labels: Sequence[AdapterLabel], tokens: Tensor
) -> dict[AdapterLabel, tuple[Canvas | None, float]]:
    """Each label's logits, or None where it was not found, and its presence."""
    lattice = engine.lattice
    last = lattice.num_levels - 1
    targets = {label: _level_for(engine, label) for label in labels}
    canvases: dict[AdapterLabel, Canvas | None] = dict.fromkeys(labels)
    presence = dict.fromkeys(labels, 0.0)
    for level in range(last, min(targets.values()) - 1, -1):
        groups: dict[tuple[TileKey, ...], list[int]] = {}
        for number, label in enumerate(labels):
            if level >= targets[label] and (tiles := _tiles_for(engine, canvases[label], level)):
                groups.setdefault(tuple(tiles), []).append(number)
        for tiles, members in groups.items():
            before = [canvases[labels[n]] for n in members]
            logits, there = decode_labels(engine, list(tiles), tokens[members], before)
            for position, number in enumerate(members):
                label = labels[number]
                presence[label] = float(there[:, position].max())
                canvas = Canvas.from_tiles(lattice, list(tiles), logits[:, position])
                canvases[label] = canvas if bool((canvas.logits > 0).any()) else None
    return {label: (canvases[label], presence[label]) for label in labels}


def _level_for(engine: TileEngine, label: AdapterLabel) -> int:
    """Finest level at which a label fits a tile."""
    return engine.lattice.finest_level_for(label.extent_mm / np.array(engine.lattice.spacing_mm), fill=FILL)


def _tiles_for(engine: TileEngine, canvas: Canvas | None, level: int) -> list[TileKey]:
    """Tiles of a level to draw a label on: around the coarser mask, or all of them where there is none and few."""
    lattice = engine.lattice
    box = None if canvas is None else canvas.box_vox()
    if box is None:
        counts = int(np.prod(lattice.counts(level)))
        return lattice.all_tiles(level) if counts <= MAX_SEARCH_TILES else []
    margin = MARGIN * (box[1] - box[0]) + lattice.step_vox(level)
    low = lattice.to_level(box[0] - margin - 0.5, level) + 0.5
    high = lattice.to_level(box[1] + margin - 0.5, level) + 0.5
    tiles = lattice.covering(low, high, level)
    return tiles if len(tiles) <= MAX_TILES else []


@torch.no_grad()
def decode_labels(
    engine: TileEngine, tiles: list[TileKey], tokens: Tensor, before: Sequence[Canvas | None]
) -> tuple[Tensor, Tensor]:
    """Decodes several labels on several tiles.

    Args:
        engine: image and model.
        tiles: B of one level.
        tokens: (P, T, C).
        before: coarser logits of each label, handed over as mask prompt.

    Returns:
        Logits (B, P, T, T, T), negative where the label is estimated to be absent, and presence (B, P); float32, CPU.
    """
    model = engine.model
    logits, presence = [], []
    for tile_number in range(0, len(tiles), max(1, BATCH_TILES // max(1, len(tokens)))):
        part = tiles[tile_number : tile_number + max(1, BATCH_TILES // max(1, len(tokens)))]
        embedding = ImageEmbedding.concatenate(engine.embed(part))
        prompts = _with_masks(empty_prompts(len(part), len(tokens), model.device), part, before)
        output = decode_with_tokens(model, embedding, prompts, tokens.to(model.device))
        there = output.presence_scores.cpu()
        drawn = output.mask_logits[:, :, 0].float().cpu()
        absent = (there < MIN_PRESENCE)[:, :, None, None, None]
        logits.append(torch.where(absent, drawn.clamp(max=-1.0), drawn))
        presence.append(there)
    return torch.cat(logits), torch.cat(presence)


def _with_masks(prompts: PromptBatch, tiles: list[TileKey], before: Sequence[Canvas | None]) -> PromptBatch:
    """Prompts with the coarser logits of the labels that have them."""
    if all(canvas is None for canvas in before):
        return prompts
    reference = next(canvas for canvas in before if canvas is not None)
    blank = torch.zeros((reference.lattice.tile_size,) * 3)
    rows = [torch.stack([blank if c is None else c.for_tile(tile) for c in before]) for tile in tiles]
    masks = torch.stack(rows).to(prompts.points.device)  # (B, P, T, T, T)
    present = (masks != 0).flatten(2).any(dim=2)
    return PromptBatch(prompts.points, prompts.labels, mask_logits=masks, masks_are_present=present)


def render_labels(engine: TileEngine, canvases: Mapping[int, Canvas]) -> np.ndarray:
    """One label map of several labels' logits: at each voxel the largest positive one.

    Returns:
        (I, J, K) canonical voxels, uint8 or uint16.
    """
    shape = tuple(int(n) for n in engine.volume.canonical_shape)
    found = np.zeros(shape, dtype=np.uint8 if max(canvases, default=0) < 256 else np.uint16)
    boxes = {}
    for value, canvas in canvases.items():
        low, high = canvas.box_vox() or (np.zeros(3), np.zeros(3))
        margin = np.ceil(canvas.lattice.step_vox(canvas.level))
        boxes[value] = (
            np.clip(np.floor(low - margin), 0, shape).astype(int),
            np.clip(np.ceil(high + margin), 0, shape).astype(int),
        )
    for first in range(0, shape[0], SLAB):
        last = min(first + SLAB, shape[0])
        best = np.zeros((last - first, *shape[1:]), dtype=np.float16)
        for value, canvas in canvases.items():
            low, high = boxes[value]
            low, high = np.maximum(low, [first, 0, 0]), np.minimum(high, [last, *shape[1:]])
            if (low >= high).any():
                continue
            part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            local = (slice(part[0].start - first, part[0].stop - first), *part[1:])
            logits = canvas.sample(low, high).clamp(max=6e4).numpy().astype(np.float16)
            wins = logits > best[local]
            best[local][wins] = logits[wins]
            found[part][wins] = value
    return found
