"""Structures that are named and not pointed at, on a whole volume: which tiles show them, and where.

Coarse to fine: the coarsest zoom level holds the volume in one tile and says where each structure may lie, for which
weights with a word head need no decoder; the structure's own level draws it on the tiles that cover that place. Weights
without a word head draw it on every level, with the coarser mask as mask prompt. A structure that a coarse level does
not show is looked for on the next one, on all of its tiles while they are few.
All structures that are looked for on the same tiles share the tiles' embeddings and the decoder's passes.
If asked to, it draws each structure on moved tiles, too, and takes the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .canvas import Canvas
from .engine import TileEngine
from .models import DecoderOutput, ImageEmbedding, PromptBatch
from .models.tokens import decode_with_tokens, empty_prompts
from .models.word_head import WORD_STRIDE, WordHint
from .tiles import TileKey, TileLattice

FILL = 0.9
"""Largest side of a structure, relative to a tile's, for a level to be fine enough to draw it."""
MAX_TILES = 27
"""Most tiles that one structure is drawn on at one level."""
MAX_SEARCH_TILES = 64
"""Most tiles of a level on which a structure that was not seen yet is looked for."""
MARGIN = 0.15
"""How much a coarse mask's box is widened on each side, relative to its size."""
SHIFTS = (1 / 24, -1 / 24, 1 / 12, -1 / 12)
"""By how much of their side tiles are moved along all axes to draw a structure again."""
MAX_AVERAGED_TILES = 8
"""Most tiles that a structure is drawn on again."""
MIN_PRESENCE = 0.3
"""Estimated probability of being there below which a tile's mask of a structure counts as empty."""
MIN_SEEN = 0.05
"""Estimate of the word head, 0 to 1, that a tile shows a structure, below which it is not drawn on the tile."""
MIN_PEAK = 0.25
"""Estimate of the word head, 0 to 1, from which on a cell is taken for the place of a structure."""
ABSENT_LOGIT = -4.0
"""Logit of masks that were not drawn."""
BATCH_MASKS = 16
"""Masks drawn in one decoder pass, tiles times structures."""
MAX_MASKS = 128
"""Masks of a level that are held at a time, tiles times structures."""


@dataclass(frozen=True)
class Finding:
    """A structure as far as it was found.

    Attributes:
        canvas: its logits; None where it was not found.
        presence: estimated probability that it is there, 0 to 1.
        score: estimated IoU, 0 to 1; 0 where it was not found.
        place_vox: (3,) canonical voxel near which a coarser level saw it; None where unknown.
        reach_vox: (3,) how far from there the place may be off, in canonical voxels.
    """

    canvas: Canvas | None = None
    presence: float = 0.0
    score: float = 0.0
    place_vox: np.ndarray | None = None
    reach_vox: np.ndarray | None = None


def find_structures(
    engine: TileEngine, extents_mm: Sequence[float], tokens: Tensor, is_averaged: bool = False
) -> list[Finding]:
    """Looks for structures in a volume, and draws those that are there.

    Memory grows with the size of what is found, a few tiles for each structure, and not with the volume.

    Args:
        engine: image and model.
        extents_mm: typical largest side of each structure, which tells the level to draw it at.
        tokens: (P, T, C), tokens that stand for each structure.
        is_averaged: draw each structure of few tiles on moved ones, too, and take the mean: five times the work, and
            more exact.

    Returns:
        One finding for each structure.
    """
    lattice = engine.lattice
    spacing_mm = np.array(lattice.spacing_mm)
    targets = [lattice.finest_level_for(extent / spacing_mm, fill=FILL) for extent in extents_mm]
    has_words = engine.model.word_head is not None
    found = [Finding() for _ in extents_mm]
    for level in range(lattice.num_levels - 1, min(targets, default=0) - 1, -1):
        groups: dict[tuple[bool, tuple[TileKey, ...]], list[int]] = {}
        for number, (target, extent) in enumerate(zip(targets, extents_mm, strict=True)):
            if level >= target and (tiles := _tiles_for(engine, found[number], extent / spacing_mm, level)):
                is_drawn = level == target or not has_words
                if is_averaged and level == target and len(tiles) <= MAX_AVERAGED_TILES:
                    tiles += [tile.moved(round(shift * lattice.tile_size)) for shift in SHIFTS for tile in tiles]
                groups.setdefault((is_drawn, tuple(tiles)), []).append(number)
        for (is_drawn, tiles), members in groups.items():
            together = max(1, MAX_MASKS // len(tiles))
            for first in range(0, len(members), together):
                part = members[first : first + together]
                looked = _look(engine, list(tiles), tokens[part], [found[n] for n in part], is_drawn)
                for number, finding in zip(part, looked, strict=True):
                    found[number] = finding
    return found


def _look(
    engine: TileEngine, tiles: list[TileKey], tokens: Tensor, before: list[Finding], is_drawn: bool
) -> list[Finding]:
    """Draws structures on tiles of one level; or locates them there, and draws those that the word head cannot see."""
    if is_drawn:
        return _draw(engine, tiles, tokens, before)
    found = _locate(engine, tiles, tokens, before)
    unseen = [n for n, finding in enumerate(found) if finding.place_vox is None]
    if unseen:
        drawn = _draw(engine, tiles, tokens[unseen], [found[n] for n in unseen])
        for number, finding in zip(unseen, drawn, strict=True):
            found[number] = finding
    return found


def _tiles_for(engine: TileEngine, finding: Finding, extent_vox: np.ndarray, level: int) -> list[TileKey]:
    """Tiles of a level to look at: around the coarser mask or place, or all of them where there is none and few."""
    lattice = engine.lattice
    box = None if finding.canvas is None else finding.canvas.box_vox()
    if box is not None:
        margin = MARGIN * (box[1] - box[0]) + lattice.step_vox(level)
    elif finding.place_vox is not None and finding.reach_vox is not None:
        box = (finding.place_vox, finding.place_vox + 1)
        margin = finding.reach_vox + extent_vox / 2
    else:
        counts = int(np.prod(lattice.counts(level)))
        return lattice.all_tiles(level) if counts <= MAX_SEARCH_TILES else []
    ends = (np.maximum(box[0] - margin, 0), np.minimum(box[1] + margin, lattice.shape))
    low, high = (lattice.to_level(end - 0.5, level) + 0.5 for end in ends)
    tiles = lattice.covering(low, high, level)
    if len(tiles) > MAX_TILES and finding.canvas is None:
        return [lattice.nearest(box[0], level)]
    return tiles if len(tiles) <= MAX_TILES else []


@torch.no_grad()
def hint_on_tile(engine: TileEngine, tile: TileKey, tokens: Tensor) -> WordHint:
    """What the word head says of structures on a tile."""
    model = engine.model
    assert model.word_head is not None
    words = tokens.to(model.device, model.dtype)[None]
    are_present = torch.ones(words.shape[:3], dtype=torch.bool, device=model.device)
    return model.word_head(ImageEmbedding.concatenate(engine.embed([tile])), words, are_present)


def _locate(engine: TileEngine, tiles: list[TileKey], tokens: Tensor, before: Sequence[Finding]) -> list[Finding]:
    """Where the word head sees structures on tiles of one level; one that it does not see stays where it was."""
    sights, presences = [], []
    for tile in tiles:
        hint = hint_on_tile(engine, tile, tokens)
        maps = hint.mask_logits[0].float().cpu()
        axes = _cell_axes(engine.lattice, tile, maps.shape[1:])
        sights.append([_best_place(axes, *pair) for pair in zip(maps, before, strict=True)])
        presences.append(hint.presence_logits[0].float().cpu().sigmoid())
    located = []
    for number, finding in enumerate(before):
        presence = float(torch.stack([p[number] for p in presences]).max())
        peak, place = max((sight[number] for sight in sights), key=lambda sight: sight[0])
        if peak < MIN_PEAK:
            located.append(replace(finding, presence=presence))
            continue
        reach = WORD_STRIDE / 2 * engine.lattice.step_vox(tiles[0].level)
        located.append(replace(finding, presence=presence, place_vox=place, reach_vox=reach))
    return located


def _best_place(axes: Sequence[np.ndarray], logits: Tensor, finding: Finding) -> tuple[float, np.ndarray]:
    """Where the word head sees a structure best on a tile, near to where a coarser level saw it.

    Args:
        axes: of the tile's cells, see :func:`_cell_axes`.
        logits: (d, h, w) of its cells.
        finding: as far as it was found.

    Returns:
        The estimate there, 0 to 1, and the middle of mass of the cells around it, in canonical voxels (3,).
    """
    if finding.place_vox is not None and finding.reach_vox is not None:
        ends = zip(axes, finding.place_vox, finding.reach_vox, strict=True)
        penalties = [torch.from_numpy(((voxels - place) / reach) ** 2).float() for voxels, place, reach in ends]
        logits = logits - penalties[0][:, None, None] - penalties[1][:, None] - penalties[2]
    best = np.unravel_index(int(logits.argmax()), logits.shape)
    around = tuple(slice(max(n - 1, 0), n + 2) for n in best)
    weights = (2 * (logits[around] - logits.max())).exp().numpy()
    place = [
        float((weights.sum(axis=tuple(a for a in range(3) if a != axis)) * voxels[part]).sum() / weights.sum())
        for axis, (voxels, part) in enumerate(zip(axes, around, strict=True))
    ]
    return float(logits.max().sigmoid()), np.array(place)


def _cell_axes(lattice: TileLattice, tile: TileKey, counts: Sequence[int]) -> list[np.ndarray]:
    """Canonical voxel coordinates, along each axis, of the middles of so many of a tile's cells."""
    middles = WORD_STRIDE * np.arange(max(counts)) + (WORD_STRIDE - 1) / 2
    voxels = lattice.from_level(lattice.tile_low(tile) + middles[:, None], tile.level)
    return [voxels[:count, axis] for axis, count in enumerate(counts)]


def place_of(engine: TileEngine, finding: Finding, extent_mm: float, tokens: Tensor) -> np.ndarray:
    """The likeliest place of a structure that was seen and not drawn, at its own level: canonical voxel (3,).

    Args:
        engine: image and model.
        finding: with a place.
        extent_mm: typical largest side.
        tokens: (1, T, C).
    """
    assert finding.place_vox is not None
    lattice = engine.lattice
    tile = lattice.nearest(
        finding.place_vox, lattice.finest_level_for(extent_mm / np.array(lattice.spacing_mm), fill=FILL)
    )
    logits = hint_on_tile(engine, tile, tokens).mask_logits[0, 0].float().cpu()
    place = _best_place(_cell_axes(lattice, tile, logits.shape), logits, finding)[1]
    return np.clip(place, 0, np.array(lattice.shape) - 1.0)


def _draw(engine: TileEngine, tiles: list[TileKey], tokens: Tensor, before: Sequence[Finding]) -> list[Finding]:
    """Draws structures on tiles of one level, each with its coarser logits as mask prompt."""
    has_words = engine.model.word_head is not None
    coarser = [None if has_words else finding.canvas for finding in before]  # else it would displace what the head sees
    output = _decode_where_seen(engine, tiles, tokens, coarser)
    in_place = torch.tensor([not any(tile.shift) for tile in tiles])  # moved ones would only raise the highest
    presence, iou = output.presence_scores[in_place], output.iou_scores[:, :, 0]
    findings = []
    for number in range(len(tokens)):
        logits = output.mask_logits[:, number, 0]
        there = float(presence[:, number].max())
        sizes = (logits > 0).flatten(1).sum(dim=1).float()
        canvas = Canvas.from_tiles(engine.lattice, tiles, logits)
        if not bool((canvas.logits > 0).any()):
            findings.append(replace(before[number], canvas=None, presence=there, score=0.0))
            continue
        score = float((iou[:, number] * sizes).sum() / sizes.sum().clamp(min=1))
        # Tiles of the next level reach half a tile beyond the mask, and no further.
        canvas = canvas.cropped(engine.lattice.tile_size // 2)
        findings.append(replace(before[number], canvas=canvas, presence=there, score=score))
    return findings


def _decode_where_seen(
    engine: TileEngine, tiles: list[TileKey], tokens: Tensor, before: Sequence[Canvas | None]
) -> DecoderOutput:
    """As :func:`decode_structures`, but for the structures that the word head rules out on a tile: they are absent."""
    if engine.model.word_head is None:
        return decode_structures(engine, tiles, tokens, before)
    seen = torch.cat([hint_on_tile(engine, tile, tokens).presence_logits.float().cpu() for tile in tiles])  # (B, P)
    shape = (*seen.shape, 1)
    side = engine.lattice.tile_size
    output = DecoderOutput(torch.full((*shape, side, side, side), ABSENT_LOGIT), torch.full(shape, ABSENT_LOGIT), seen)
    together: dict[tuple[int, ...], list[int]] = {}  # structures -> the tiles that may show just these
    for row, may_show in enumerate(seen.sigmoid() >= MIN_SEEN):
        together.setdefault(tuple(may_show.nonzero()[:, 0].tolist()), []).append(row)
    for columns, rows in together.items():
        if columns:
            part = decode_structures(engine, [tiles[r] for r in rows], tokens[[*columns]], [before[c] for c in columns])
            where = torch.tensor(rows)[:, None], torch.tensor(columns)
            for whole, values in zip(
                (output.mask_logits, output.iou_logits, output.presence_logits),
                (part.mask_logits, part.iou_logits, part.presence_logits),
                strict=True,
            ):
                whole[where] = values
    return output


@torch.no_grad()
def decode_structures(
    engine: TileEngine, tiles: list[TileKey], tokens: Tensor, before: Sequence[Canvas | None]
) -> DecoderOutput:
    """Decodes several structures on several tiles.

    Args:
        engine: image and model.
        tiles: B of one level.
        tokens: (P, T, C).
        before: coarser logits of each structure, handed over as mask prompt; None where there are none.

    Returns:
        Float32 CPU tensors: logits (B, P, 1, T, T, T), negative where the structure is estimated to be absent from the
        tile, quality (B, P, 1), presence (B, P).
    """
    rows = []
    tiles_together = max(1, BATCH_MASKS // max(1, len(tokens)))
    for first in range(0, len(tiles), tiles_together):
        part = tiles[first : first + tiles_together]
        embedding = ImageEmbedding.concatenate(engine.embed(part))
        columns = [
            _decode_together(
                engine, part, embedding, tokens[start : start + BATCH_MASKS], before[start : start + BATCH_MASKS]
            )
            for start in range(0, len(tokens), BATCH_MASKS)
        ]
        rows.append(_join(columns, dim=1))
    return _join(rows, dim=0)


def _decode_together(
    engine: TileEngine,
    tiles: list[TileKey],
    embedding: ImageEmbedding,
    tokens: Tensor,
    before: Sequence[Canvas | None],
) -> DecoderOutput:
    """One decoder pass."""
    model = engine.model
    prompts = _with_masks(empty_prompts(len(tiles), len(tokens), model.device), tiles, before)
    output = decode_with_tokens(model, embedding, prompts, tokens.to(model.device))
    logits = output.mask_logits[:, :, :1].float().cpu()
    absent = (output.presence_scores.cpu() < MIN_PRESENCE)[:, :, None, None, None, None]
    return DecoderOutput(
        torch.where(absent, logits.clamp(max=-1.0), logits),
        output.iou_logits[:, :, :1].float().cpu(),
        output.presence_logits.float().cpu(),
    )


def _join(outputs: Sequence[DecoderOutput], dim: int) -> DecoderOutput:
    if len(outputs) == 1:
        return outputs[0]
    return DecoderOutput(
        torch.cat([o.mask_logits for o in outputs], dim),
        torch.cat([o.iou_logits for o in outputs], dim),
        torch.cat([o.presence_logits for o in outputs], dim),
    )


def _with_masks(prompts: PromptBatch, tiles: list[TileKey], before: Sequence[Canvas | None]) -> PromptBatch:
    """Prompts with the coarser logits of the structures that have them."""
    if all(canvas is None for canvas in before):
        return prompts
    reference = next(canvas for canvas in before if canvas is not None)
    blank = torch.zeros((reference.lattice.tile_size,) * 3)
    rows = [torch.stack([blank if c is None else c.for_tile(tile) for c in before]) for tile in tiles]
    masks = torch.stack(rows).to(prompts.points.device)  # (B, P, T, T, T)
    return replace(prompts, mask_logits=masks, masks_are_present=(masks != 0).flatten(2).any(dim=2))
