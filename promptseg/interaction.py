"""How an object is found, drawn and corrected over tiles and zoom levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .canvas import Canvas
from .engine import TileEngine
from .prompts import PromptSet
from .tiles import TileKey


@dataclass(frozen=True)
class InteractionConfig:
    """How tiles and levels are chosen; the defaults were chosen on training cases."""

    fill: float = 0.9
    """Largest side of an object, relative to a tile's, for a level to be fine enough to draw it in one tile."""
    max_tiles: int = 27
    """Most tiles one drawing may use; coarser levels are used beyond."""
    border_penalty: float = 1.0
    """How much a guess loses for each share of its surface that the tile cuts off."""
    coarse_penalty: float = 0.02
    """How much a guess loses for each level of coarseness."""
    coarsen_beyond: float = 1.6
    """Side of an object, relative to a tile's, from which drawing moves to a coarser level."""
    refine_below: float = 0.45
    """Side of an object, relative to a tile's, below which drawing moves to a finer level."""


@dataclass(frozen=True)
class Drawing:
    """An object as drawn so far.

    Attributes:
        canvas: its logits.
        score: estimated IoU, 0 to 1.
        presence: estimated probability that the object is there, 0 to 1.
        candidates: the alternatives of an ambiguous first prompt with their scores, best first.
        changed: half-open box of canonical voxels (float) outside which nothing changed; None for everywhere.
    """

    canvas: Canvas
    score: float
    presence: float
    candidates: tuple[tuple[float, Canvas], ...] = ()
    changed: tuple[np.ndarray, np.ndarray] | None = None


class Interaction:
    """Draws objects with an engine.

    Args:
        engine: model and image.
        config: of the choice of tiles.
    """

    def __init__(self, engine: TileEngine, config: InteractionConfig | None = None) -> None:
        self.engine = engine
        self.lattice = engine.lattice
        self.config = config or InteractionConfig()

    def start(self, prompts: PromptSet) -> Drawing:
        """First answer to prompts: finds the scale, then draws at the finest level that suits it."""
        extent = prompts_extent(prompts)
        if prompts.boxes or prompts.mask is not None:
            low, high = extent
            level = self.lattice.finest_level_for(high - low, fill=1.0 if prompts.boxes else self.config.fill)
            return self.draw(level, (low, high), prompts, None)
        guess, others = self.guess(prompts, extent)
        box = guess.canvas.box_vox()
        if box is None:
            return guess
        low, high = np.minimum(box[0], extent[0]), np.maximum(box[1], extent[1])
        level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
        if level < guess.canvas.level or guess.canvas.open_sides():
            level = min(level, guess.canvas.level)
            drawn = self.draw(level, (low, high), prompts, guess.canvas)
        else:
            drawn = guess
        return Drawing(drawn.canvas, drawn.score, drawn.presence, others)

    def guess(
        self, prompts: PromptSet, extent: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Drawing, tuple[tuple[float, Canvas], ...]]:
        """Asks every level that can hold the prompts and ranks all candidates by estimated IoU and completeness."""
        low, high = extent
        centre = (low + high - 1) / 2
        first = self.lattice.finest_level_for(high - low, fill=1.0)
        tiles = [self.lattice.nearest(centre, level) for level in range(first, self.lattice.num_levels)]
        output = self.engine.decode(tiles, prompts, None, multimask=True)
        ranked: list[tuple[float, float, float, Canvas]] = []
        for number, tile in enumerate(tiles):
            for candidate in range(output.mask_logits.shape[2]):
                logits = output.mask_logits[number, 0, candidate]
                iou = float(output.iou_scores[number, 0, candidate])
                presence = float(output.presence_scores[number, 0])
                rank = (
                    iou
                    - self.config.border_penalty * self._cut_share(tile, logits)
                    - self.config.coarse_penalty * number
                )
                if not bool((logits > 0).any()):
                    rank -= 1.0
                ranked.append((rank, iou, presence, Canvas.from_tiles(self.lattice, [tile], logits[None])))
        ranked.sort(key=lambda r: -r[0])
        _, iou, presence, canvas = ranked[0]
        return Drawing(canvas, iou, presence), tuple((r[1], r[3]) for r in ranked[:4])

    def _cut_share(self, tile: TileKey, logits: Tensor) -> float:
        """Share of a mask's surface that lies on sides of the tile where the image goes on."""
        inside = logits > 0
        size = float(inside.sum())
        if size == 0:
            return 0.0
        cut = 0.0
        last = np.array(self.lattice.counts(tile.level)) - 1
        for axis in range(3):
            if tile.place[axis] > 0:
                cut += float(inside.select(axis, 0).sum())
            if tile.place[axis] < last[axis]:
                cut += float(inside.select(axis, -1).sum())
        return min(1.0, cut / (6 * size ** (2 / 3)))

    def draw(
        self, level: int, box_vox: tuple[np.ndarray, np.ndarray], prompts: PromptSet, canvas: Canvas | None
    ) -> Drawing:
        """Draws an object at a level on the tiles that cover a box, and on neighbours where it goes on."""
        while True:
            low = self.lattice.to_level(box_vox[0] - 0.5, level) + 0.5
            high = self.lattice.to_level(box_vox[1] - 0.5, level) + 0.5
            tiles = self.lattice.covering(low, high, level)
            if len(tiles) <= self.config.max_tiles or level == self.lattice.num_levels - 1:
                break
            level += 1
        output = self.engine.decode(tiles, prompts, canvas)
        drawn = Canvas.from_tiles(self.lattice, tiles, output.mask_logits[:, 0, 0])
        sizes = (output.mask_logits[:, 0, 0] > 0).flatten(1).sum(dim=1).float() + 1
        score = float((output.iou_scores[:, 0, 0] * sizes).sum() / sizes.sum())
        drawing = Drawing(drawn, score, float(output.presence_scores.max()))
        return self.extend(drawing, prompts, set(tiles), canvas)

    def extend(self, drawing: Drawing, prompts: PromptSet, done: set[TileKey], hint: Canvas | None) -> Drawing:
        """Joins neighbouring tiles where the mask reaches the canvas's end, twice at most."""
        canvas = drawing.canvas
        half = self.lattice.tile_size // 2
        for _ in range(2):
            tiles: list[TileKey] = []
            for axis, side in canvas.open_sides():
                face = (canvas.logits.select(axis, -side) > 0).nonzero().float().mean(dim=0).numpy()
                centre = np.insert(face, axis, 0.0 if side == 0 else canvas.logits.shape[axis] - 1.0) + canvas.low
                tile = self.lattice.nearest(self.lattice.from_level(centre, canvas.level), canvas.level)
                place = list(tile.place)
                edge = (canvas.low if side == 0 else canvas.high)[axis]
                place[axis] = int(edge // half) - 1
                place[axis] = int(np.clip(place[axis], 0, self.lattice.counts(canvas.level)[axis] - 1))
                key = TileKey(canvas.level, (place[0], place[1], place[2]))
                if key not in done:
                    tiles.append(key)
            if not tiles or len(done) + len(tiles) > self.config.max_tiles:
                break
            done |= set(tiles)
            mask = hint if hint is not None and hint.level != canvas.level else canvas
            output = self.engine.decode(tiles, prompts, mask)
            for tile, logits in zip(tiles, output.mask_logits[:, 0, 0], strict=True):
                canvas = canvas.paste(tile, logits)
        return Drawing(canvas, drawing.score, drawing.presence, drawing.candidates)

    def correct(self, drawing: Drawing, prompts: PromptSet, place_vox: np.ndarray) -> Drawing:
        """Answers one more prompt: re-draws the tile around it, or everything where the scale no longer fits.

        Args:
            drawing: the object so far.
            prompts: all prompts, the new one among them.
            place_vox: (3,) centre of the new prompt.

        Returns:
            The new drawing; ``changed`` bounds where it differs.
        """
        canvas = drawing.canvas
        low, high = prompts_extent(prompts, labels=(1,))
        box = canvas.box_vox()
        if box is not None:
            low, high = np.minimum(low, box[0]), np.maximum(high, box[1])
        span = (high - low) / self.lattice.step_vox(canvas.level) / self.lattice.tile_size
        if span.max() > self.config.coarsen_beyond or span.max() < self.config.refine_below:
            level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
            if level != canvas.level:
                return self.draw(level, (low, high), prompts, canvas)
        tile = self.lattice.nearest(place_vox, canvas.level)
        output = self.engine.decode([tile], prompts, canvas)
        pasted = canvas.paste(tile, output.mask_logits[0, 0, 0])
        tile_low = self.lattice.tile_low(tile)
        changed = (
            self.lattice.from_level(tile_low - 1.0, canvas.level),
            self.lattice.from_level(tile_low + self.lattice.tile_size + 1.0, canvas.level),
        )
        score = float(output.iou_scores[0, 0, 0])
        drawn = Drawing(pasted, score, float(output.presence_scores[0, 0]), changed=changed)
        if not pasted.open_sides():
            return drawn
        return self.extend(drawn, prompts, {tile}, None)


def prompts_extent(prompts: PromptSet, labels: tuple[int, ...] = (0, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Half-open box of canonical voxels around points, strokes, boxes and the mask with one of ``labels``.

    Raises:
        ValueError: where there is nothing to bound and no prompt at all.
    """
    lows, highs = [], []
    for low, high in prompts.boxes:
        lows.append(low)
        highs.append(high)
    chosen = prompts.points[np.isin(prompts.labels, labels)]
    if len(chosen):
        lows.append(chosen.min(axis=0))
        highs.append(chosen.max(axis=0) + 1)
    for stroke in prompts.strokes:
        if stroke.label in labels:
            lows.append(stroke.voxels.min(axis=0))
            highs.append(stroke.voxels.max(axis=0) + 1)
    if prompts.mask is not None:
        filled = prompts.mask > 0
        for axis in range(3):
            if not filled.any():
                break
        else:
            places = [np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
            lows.append(np.array([p[0] for p in places]))
            highs.append(np.array([p[-1] + 1 for p in places]))
    if not lows:
        if len(prompts.points) and labels != (0, 1):
            return prompts_extent(prompts)
        raise ValueError(
            "no prompt says where the object is: give a point, a box, a scribble, a lasso or a filled mask"
        )
    return np.min(lows, axis=0).astype(float), np.max(highs, axis=0).astype(float)


def sigmoid(logits: Tensor) -> np.ndarray:
    """Probabilities as float32."""
    return torch.sigmoid(logits).numpy()
