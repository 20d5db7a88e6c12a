"""How an object is found, drawn and corrected over tiles and zoom levels."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .boxes import Box, intersect_box, union_box
from .canvas import Canvas
from .engine import TileEngine
from .models import DecoderOutput
from .prompts import PromptSet
from .ranking import RankingConfig, rank_candidates
from .tiles import TileKey

if TYPE_CHECKING:
    from .structures import Structure

NUM_OFFERED = 4
"""Alternatives that an answer to an ambiguous first prompt carries."""


MIN_RESCALE_STEPS = 3
"""Voxels of the finest level between a click on the object and one beside it from which they tell of its size."""


@dataclass(frozen=True)
class InteractionConfig:
    """How tiles and levels are chosen; the defaults were chosen on training cases."""

    fill: float = 0.9
    """Largest side of an object, relative to a tile's, for a level to be fine enough to draw it in one tile."""
    max_tiles: int = 27
    """Most tiles one drawing may use; coarser levels are used beyond."""
    coarsen_beyond: float = 0.9
    """Side of an object, relative to a tile's, from which drawing moves to a coarser level."""
    click_reach: float = 1.4
    """How far around a click the object is taken to go on, in multiples of the click's distance to the mask: who clicks
    in the middle of what is missing clicks as far from its end."""
    rescale_clicks: int = 4
    """Clicks up to which one beside the object may say that it is far smaller than drawn, and have it drawn anew."""
    refine_below: float = 0.45
    """Side of an object, relative to a tile's, below which drawing moves to a finer level."""
    ranking: RankingConfig = field(default_factory=RankingConfig)
    """Which answer to an ambiguous first prompt is best."""


@dataclass(frozen=True)
class Drawing:
    """An object as drawn so far.

    Attributes:
        canvas: its logits.
        score: estimated IoU, 0 to 1.
        presence: estimated probability that the object is there, 0 to 1.
        candidates: the alternatives of an ambiguous first prompt with their scores, best first.
        changed: half-open box of canonical voxels (float) outside which nothing changed; None for everywhere.
        is_from_prompts: whether the prompts alone say what it is; not so where a mask was handed over.
    """

    canvas: Canvas
    score: float
    presence: float
    candidates: tuple[tuple[float, Canvas], ...] = ()
    changed: Box | None = None
    is_from_prompts: bool = True


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

        A name without anything that marks the object is looked for in the whole volume.

        Raises:
            ValueError: if none of them says where or what the object is.
        """
        extent = object_extent(prompts)
        if extent is None and prompts.structure is not None:
            return self.find(prompts.structure)
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
        return replace(self._refine(guess, prompts), candidates=others)

    def find(self, structure: Structure) -> Drawing:
        """Looks for a structure by its name, in the whole volume; a blank drawing where it is not there."""
        from .text_search import find_named

        (found,) = find_named(self.engine, [structure])
        canvas = Canvas.blank(self.lattice) if found.canvas is None else found.canvas
        return Drawing(canvas, found.score, found.presence)

    def _refine(self, drawing: Drawing, prompts: PromptSet) -> Drawing:
        """Draws an object found at a coarse level again at the finest level that holds it, guided by what was found."""
        canvas = drawing.canvas
        known = [box for box in (canvas.box_vox(), object_extent(prompts)) if box is not None]
        if canvas.box_vox() is None:
            return drawing
        low, high = functools.reduce(union_box, known)
        level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
        if level >= canvas.level and not canvas.open_tiles():
            return drawing
        return self.draw(min(level, canvas.level), (low, high), prompts, canvas)

    def guess(self, prompts: PromptSet, extent: Box) -> tuple[Drawing, tuple[tuple[float, Canvas], ...]]:
        """Asks every level that can hold the prompts and ranks all candidates by estimated IoU and completeness.

        Of a structure that was named, the size is known within a level, and what it is is not ambiguous.
        """
        low, high = extent
        centre = (low + high - 1) / 2
        first = self.lattice.finest_level_for(high - low, fill=1.0)
        levels = range(first, self.lattice.num_levels)
        if prompts.structure is not None and prompts.structure.is_trained:
            extent_vox = prompts.structure.extent_mm / np.array(self.lattice.spacing_mm)
            level = max(first, self.lattice.finest_level_for(extent_vox, fill=self.config.fill))
            levels = range(max(first, level - 1), min(level + 2, self.lattice.num_levels))
        tiles = [self.lattice.nearest(centre, level) for level in levels]
        output = self.engine.decode(tiles, prompts, None, multimask=prompts.structure is None)
        ranked = rank_candidates(self.lattice, tiles, output, self.config.ranking)
        canvases = [(c.iou, Canvas.from_tiles(self.lattice, [c.tile], c.logits[None])) for c in ranked[:NUM_OFFERED]]
        return Drawing(canvases[0][1], ranked[0].iou, ranked[0].presence), tuple(canvases)

    def draw(self, level: int, box_vox: Box, prompts: PromptSet, canvas: Canvas | None, anew: bool = False) -> Drawing:
        """Draws an object at a level on the tiles that cover a box, and on neighbours where it goes on.

        Args:
            level: zoom level; a coarser one is taken where it needs too many tiles.
            box_vox: half-open box of canonical voxels.
            prompts: of the object.
            canvas: the object so far, as mask prompt; None for none.
            anew: where a tile shows a prompt on the object, draw from the prompts and not from the canvas.
        """
        tiles = self._covering(box_vox, level)
        while len(tiles) > self.config.max_tiles and level < self.lattice.num_levels - 1:
            level += 1
            tiles = self._covering(box_vox, level)
        is_anew = [anew and self._shows_object(tile, prompts) for tile in tiles]
        output = self._decode(tiles, prompts, canvas, is_anew)
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
        if includes and not prompts.boxes and prompts.mask is None and canvas.box_vox() is None:
            return self.start(prompts)  # nothing was found before, so that there is nothing to go on from
        redraws = drawing.is_from_prompts and prompts.mask is None
        unchanged = replace(drawing, candidates=(), changed=(box_vox[0], box_vox[0]))
        beyond = self._beyond_click(canvas, box_vox) if includes else None
        extents = [object_extent(prompts), canvas.box_vox(), beyond]
        known = [box for box in extents if box is not None]
        if known:
            low, high = functools.reduce(union_box, known)
            span = ((high - low) / self.lattice.step_vox(canvas.level) / self.lattice.tile_size).max()
            grows = beyond is not None or not includes or not _lies_in(box_vox, canvas.box_vox())
            if (span > self.config.coarsen_beyond and grows) or span < self.config.refine_below:
                level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
                if level != canvas.level:
                    drawn = self.draw(level, (low, high), prompts, canvas, anew=redraws and level > canvas.level)
                    if level > canvas.level:
                        drawn = self._refine(drawn, prompts)
                    return replace(drawn, is_from_prompts=drawing.is_from_prompts)
        if not includes and redraws:
            smaller = self._smaller(canvas, prompts, (box_vox[0] + box_vox[1] - 1) / 2)
            if smaller is not None:
                return smaller
        if not includes:  # where nothing was drawn there is nothing to exclude
            drawn_box = tuple(
                self.lattice.from_level(end - 0.5, canvas.level) + 0.5 for end in (canvas.low, canvas.high)
            )
            shared = intersect_box(box_vox, (drawn_box[0], drawn_box[1]))
            if shared is None:
                return unchanged
            box_vox = shared
        tiles = self._tiles_around(box_vox, canvas.level)
        is_anew = [redraws and self._shows_object(t, prompts) and self._holds(t, canvas.box_vox()) for t in tiles]
        output = self._decode(tiles, prompts, canvas, is_anew)
        changed = self._reach(tiles[0])
        pasted = canvas
        for tile, logits in zip(tiles, output.mask_logits[:, 0, 0], strict=True):
            pasted = pasted.paste(tile, logits)
            changed = union_box(changed, self._reach(tile))
        drawn = replace(
            drawing,
            canvas=pasted.limited(canvas, adds=includes),
            score=_mean_score(output),
            presence=float(output.presence_scores.max()),
            candidates=(),
            changed=changed,
        )
        return self.extend(drawn, prompts, set(tiles), None, keeps_drawn=True) if includes else drawn

    def _smaller(self, canvas: Canvas, prompts: PromptSet, excluded_vox: np.ndarray) -> Drawing | None:
        """Draws the object anew at a finer level where an early click beside it says that it is far smaller than drawn.

        Args:
            canvas: the object so far.
            prompts: all of them.
            excluded_vox: (3,) the click beside the object.

        Returns:
            The drawing; None where the scale may be right, or nothing is found at the finer level.
        """
        included = prompts.points[prompts.labels == 1]
        if len(prompts.points) > self.config.rescale_clicks or prompts.boxes or not len(included):
            return None
        spacing_mm = np.array(self.lattice.spacing_mm)
        distance_mm = float(np.sqrt((((included - excluded_vox) * spacing_mm) ** 2).sum(axis=1)).min())
        if distance_mm < MIN_RESCALE_STEPS * self.lattice.level_spacing_mm(0):
            return None
        reach = self.config.click_reach * distance_mm / spacing_mm
        low = np.maximum(included.min(axis=0) - reach, 0.0)
        high = np.minimum(included.max(axis=0) + 1 + reach, np.array(self.lattice.shape, dtype=float))
        level = self.lattice.finest_level_for(high - low, fill=1.0)
        if level >= canvas.level:
            return None
        drawn = self.draw(level, (low, high), prompts, None)
        return None if drawn.canvas.box_vox() is None else drawn

    def _decode(
        self, tiles: list[TileKey], prompts: PromptSet, canvas: Canvas | None, is_anew: list[bool]
    ) -> DecoderOutput:
        """Decodes tiles, with the canvas as mask prompt but on those that are drawn anew."""
        if canvas is None or not any(is_anew):
            return self.engine.decode(tiles, prompts, canvas)
        groups = [[n for n, anew in enumerate(is_anew) if anew == wanted] for wanted in (True, False)]
        outputs = [
            self.engine.decode([tiles[n] for n in group], prompts, hint)
            for group, hint in zip(groups, (None, canvas), strict=True)
            if group
        ]
        order = torch.tensor(groups[0] + groups[1]).argsort()
        return DecoderOutput(
            torch.cat([o.mask_logits for o in outputs])[order],
            torch.cat([o.iou_logits for o in outputs])[order],
            torch.cat([o.presence_logits for o in outputs])[order],
        )

    def _shows_object(self, tile: TileKey, prompts: PromptSet) -> bool:
        """Whether a prompt that marks the object lies in a tile."""
        return any(intersect_box(self._reach(tile, margin=0.0), box) is not None for box in marked_boxes(prompts))

    def _holds(self, tile: TileKey, box_vox: Box | None) -> bool:
        """Whether a box of canonical voxels lies in a tile, up to two of the tile's voxels."""
        if box_vox is None:
            return True
        low, high = self._reach(tile, margin=2.0)
        return bool((box_vox[0] >= low).all() and (box_vox[1] <= high).all())

    def _beyond_click(self, canvas: Canvas, box_vox: Box) -> Box | None:
        """What a click outside the mask says of the object's size: a box around it; None where it says nothing."""
        centre = (box_vox[0] + box_vox[1] - 1) / 2
        place = self.lattice.to_level(centre, canvas.level) - canvas.low
        squares = [(torch.arange(n) - p) ** 2 for n, p in zip(canvas.logits.shape, place.tolist(), strict=True)]
        square = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        nearest = float(square.masked_fill_(~(canvas.logits > 0), torch.inf).min())
        if not np.isfinite(nearest):
            return None
        distance = self.config.click_reach * nearest**0.5
        if distance < 1:
            return None
        reach = distance * self.lattice.step_vox(canvas.level)
        return np.maximum(centre - reach, 0.0), np.minimum(
            centre + reach + 1, np.array(self.lattice.shape, dtype=float)
        )

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


def _lies_in(inner: Box, outer: Box | None) -> bool:
    return outer is not None and bool((inner[0] >= outer[0]).all() and (inner[1] <= outer[1]).all())


def _mean_score(output: DecoderOutput) -> float:
    """Estimated IoU of an object on several tiles, weighted by its share in each."""
    sizes = (output.mask_logits[:, 0, 0] > 0).flatten(1).sum(dim=1).float() + 1
    return float((output.iou_scores[:, 0, 0] * sizes).sum() / sizes.sum())


def marked_boxes(prompts: PromptSet) -> list[Box]:
    """Half-open boxes of canonical voxels around each prompt that marks the object, the mask left out."""
    points = prompts.points[prompts.labels == 1]
    strokes = [stroke.voxels for stroke in prompts.strokes if stroke.label == 1]
    return [
        *prompts.boxes,
        *((point, point + 1) for point in points),
        *((voxels.min(axis=0), voxels.max(axis=0) + 1) for voxels in strokes),
    ]


def object_extent(prompts: PromptSet) -> Box | None:
    """Half-open box of canonical voxels around all that marks the object; None where all prompts exclude."""
    marked = marked_boxes(prompts)
    if prompts.mask_box is not None:
        marked.append(prompts.mask_box)
    if not marked:
        return None
    low, high = (np.array(ends, dtype=float) for ends in zip(*marked, strict=True))
    return low.min(axis=0), high.max(axis=0)
