"""How an object is found, drawn and corrected over tiles and zoom levels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .boxes import Box, intersect_box, union_box
from .canvas import Canvas
from .engine import TileEngine
from .models import DecoderOutput
from .prompts import PromptSet
from .ranking import rank_candidates
from .tiles import TileKey

NUM_OFFERED = 4
"""Alternatives that an answer to an ambiguous first prompt carries."""


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
    agreement_weight: float = 0.5
    """How much a guess gains by the mean overlap of all guesses with it."""
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
    changed: Box | None = None


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
        """First answer to prompts: finds the scale, then draws at the finest level that suits it.

        Raises:
            ValueError: if none of them says where the object is.
        """
        extent = object_extent(prompts)
        if extent is None:
            raise ValueError(
                "no prompt says where the object is: all of them exclude; add a point with label 1, a box, a scribble, "
                "a lasso or a filled mask"
            )
        if prompts.boxes or prompts.mask is not None:
            level = self.lattice.finest_level_for(
                extent[1] - extent[0], fill=1.0 if prompts.boxes else self.config.fill
            )
            return self.draw(level, extent, prompts, None)
        guess, others = self.guess(prompts, extent)
        box = guess.canvas.box_vox()
        if box is None:
            return replace(guess, candidates=others)
        low, high = union_box(box, extent)
        level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
        drawn = guess
        if level < guess.canvas.level or guess.canvas.open_tiles():
            drawn = self.draw(min(level, guess.canvas.level), (low, high), prompts, guess.canvas)
        return replace(drawn, candidates=others)

    def guess(self, prompts: PromptSet, extent: Box) -> tuple[Drawing, tuple[tuple[float, Canvas], ...]]:
        """Asks every level that can hold the prompts and ranks all candidates by estimated IoU and completeness."""
        low, high = extent
        centre = (low + high - 1) / 2
        first = self.lattice.finest_level_for(high - low, fill=1.0)
        tiles = [self.lattice.nearest(centre, level) for level in range(first, self.lattice.num_levels)]
        output = self.engine.decode(tiles, prompts, None, multimask=True)
        ranked = rank_candidates(
            self.lattice,
            tiles,
            output,
            border_penalty=self.config.border_penalty,
            coarse_penalty=self.config.coarse_penalty,
            agreement_weight=self.config.agreement_weight,
        )
        canvases = [(c.iou, Canvas.from_tiles(self.lattice, [c.tile], c.logits[None])) for c in ranked[:NUM_OFFERED]]
        return Drawing(canvases[0][1], ranked[0].iou, ranked[0].presence), tuple(canvases)

    def draw(self, level: int, box_vox: Box, prompts: PromptSet, canvas: Canvas | None) -> Drawing:
        """Draws an object at a level on the tiles that cover a box, and on neighbours where it goes on."""
        tiles = self._covering(box_vox, level)
        while len(tiles) > self.config.max_tiles and level < self.lattice.num_levels - 1:
            level += 1
            tiles = self._covering(box_vox, level)
        output = self.engine.decode(tiles, prompts, canvas)
        drawn = Canvas.from_tiles(self.lattice, tiles, output.mask_logits[:, 0, 0])
        drawing = Drawing(drawn, _mean_score(output), float(output.presence_scores.max()))
        return self.extend(drawing, prompts, set(tiles), canvas)

    def _covering(self, box_vox: Box, level: int) -> list[TileKey]:
        low, high = (self.lattice.to_level(end - 0.5, level) + 0.5 for end in box_vox)
        return self.lattice.covering(low, high, level)

    def extend(
        self,
        drawing: Drawing,
        prompts: PromptSet,
        done: set[TileKey],
        hint: Canvas | None,
        keeps_drawn: bool = False,
    ) -> Drawing:
        """Joins neighbouring tiles where the mask reaches the end of what was drawn, twice at most.

        Args:
            drawing: the object so far.
            prompts: all of them.
            done: tiles just drawn; the others are added to them.
            hint: mask prompt if it is of another level; else the drawing itself is.
            keeps_drawn: leave what was drawn as it is.

        Returns:
            The drawing on more tiles; ``changed`` grows with them where it is known.
        """
        canvas, changed = drawing.canvas, drawing.changed
        for _ in range(2):
            room = self.config.max_tiles - len(done)
            tiles = [tile for tile in canvas.open_tiles() if tile not in done][: max(0, room)]
            if not tiles:
                break
            done |= set(tiles)
            mask = hint if hint is not None and hint.level != canvas.level else canvas
            output = self.engine.decode(tiles, prompts, mask)
            for tile, logits in zip(tiles, output.mask_logits[:, 0, 0], strict=True):
                canvas = canvas.paste(tile, logits, keeps_drawn)
                changed = None if changed is None else union_box(changed, self._reach(tile))
        return replace(drawing, canvas=canvas, changed=changed)

    def correct(self, drawing: Drawing, prompts: PromptSet, box_vox: Box, includes: bool) -> Drawing:
        """Answers one more prompt: re-draws the tiles around it, or everything where the scale no longer fits.

        Args:
            drawing: the object so far.
            prompts: all prompts, the new one among them.
            box_vox: half-open box around the new prompt.
            includes: whether it marks the object; else what lies beside it.

        Returns:
            The new drawing; ``changed`` bounds where it differs.
        """
        canvas = drawing.canvas
        unchanged = replace(drawing, candidates=(), changed=(box_vox[0], box_vox[0]))
        extents = [box for box in (object_extent(prompts), canvas.box_vox()) if box is not None]
        if extents:
            low, high = union_box(extents[0], extents[-1])
            span = ((high - low) / self.lattice.step_vox(canvas.level) / self.lattice.tile_size).max()
            if span > self.config.coarsen_beyond or span < self.config.refine_below:
                level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
                if level != canvas.level:
                    return self.draw(level, (low, high), prompts, canvas)
        if not includes:  # where nothing was drawn there is nothing to exclude
            drawn_box = tuple(
                self.lattice.from_level(end - 0.5, canvas.level) + 0.5 for end in (canvas.low, canvas.high)
            )
            shared = intersect_box(box_vox, (drawn_box[0], drawn_box[1]))
            if shared is None:
                return unchanged
            box_vox = shared
        tiles = self._tiles_around(box_vox, canvas.level)
        output = self.engine.decode(tiles, prompts, canvas)
        changed = self._reach(tiles[0])
        pasted = canvas
        for tile, logits in zip(tiles, output.mask_logits[:, 0, 0], strict=True):
            pasted = pasted.paste(tile, logits)
            changed = union_box(changed, self._reach(tile))
        drawn = Drawing(pasted, _mean_score(output), float(output.presence_scores.max()), changed=changed)
        return self.extend(drawn, prompts, set(tiles), None, keeps_drawn=True)

    def _tiles_around(self, box_vox: Box, level: int) -> list[TileKey]:
        """The tile nearest to a prompt's middle, or those that cover it where it is longer than a tile."""
        nearest = self.lattice.nearest((box_vox[0] + box_vox[1] - 1) / 2, level)
        low, high = self._reach(nearest, margin=0.0)
        middle_low, middle_high = (box_vox[0] + 0.5, box_vox[1] - 0.5)  # the outermost voxels may be cut in half
        if (middle_low >= low).all() and (middle_high <= high).all():
            return [nearest]
        tiles = self._covering(box_vox, level)
        return tiles if len(tiles) <= self.config.max_tiles else [nearest]

    def _reach(self, tile: TileKey, margin: float = 1.0) -> Box:
        """Half-open box of canonical voxels (float) that a tile's logits can change; ``margin`` in level voxels."""
        low = self.lattice.tile_low(tile) - 0.5
        return (
            self.lattice.from_level(low - margin, tile.level) + 0.5,
            self.lattice.from_level(low + self.lattice.tile_size + margin, tile.level) + 0.5,
        )


def _mean_score(output: DecoderOutput) -> float:
    """Estimated IoU of an object on several tiles, weighted by its share in each."""
    sizes = (output.mask_logits[:, 0, 0] > 0).flatten(1).sum(dim=1).float() + 1
    return float((output.iou_scores[:, 0, 0] * sizes).sum() / sizes.sum())


def object_extent(prompts: PromptSet) -> Box | None:
    """Half-open box of canonical voxels around all that marks the object; None where all prompts exclude."""
    marked = list(prompts.boxes)
    points = prompts.points[prompts.labels == 1]
    if len(points):
        marked.append((points.min(axis=0), points.max(axis=0) + 1))
    for stroke in prompts.strokes:
        if stroke.label == 1:
            marked.append((stroke.voxels.min(axis=0), stroke.voxels.max(axis=0) + 1))
    if prompts.mask_box is not None:
        marked.append(prompts.mask_box)
    if not marked:
        return None
    low, high = (np.array(ends, dtype=float) for ends in zip(*marked, strict=True))
    return low.min(axis=0), high.max(axis=0)
