"""How an object is found, drawn and corrected over tiles and zoom levels."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .boxes import Box, contains_box, intersect_box, union_box
from .canvas import Canvas
from .drawing import Drawer, Drawing, mean_score, object_extent
from .prompts import PromptSet
from .ranking import rank_candidates
from .tiles import TileKey

if TYPE_CHECKING:
    from .structures import Structure

NUM_OFFERED = 4
"""Alternatives that an answer to an ambiguous first prompt carries."""


MIN_RESCALE_STEPS = 3
"""Voxels of the finest level between a click on the object and one beside it from which they tell of its size."""


class Interaction(Drawer):
    """Decides where and how finely objects are drawn, from the first prompt to the last correction.

    Args:
        engine: model and image.
        config: of the choice of tiles.
    """

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
            drawn = self.draw(level, extent, prompts, None)
            return drawn if prompts.mask is not None else self.in_parts(drawn, prompts)
        guess, others = self.guess(prompts, extent)
        return replace(self._refine(guess, prompts), candidates=others)

    def keep(self, drawing: Drawing, prompts: PromptSet) -> Drawing:
        """The user's own mask in place of what was drawn from it, a level finer than one tile that holds all of it.

        How good it is, and whether it is there, is what the decoder says of its drawing.
        """
        if prompts.mask_box is None:
            return drawing
        level = self._finest_level(*prompts.mask_box, self.config.fill * self.config.late_span)
        tiles = self.covering(prompts.mask_box, level)
        masks = (self.engine.mask_on_tile(prompts, tile) for tile in tiles)
        return replace(drawing, canvas=Canvas.from_tiles(self.lattice, tiles, masks), candidates=())

    def find(self, structure: Structure) -> Drawing:
        """Looks for a structure by its name, in the whole volume; a blank drawing where it is not there."""
        from .text_search import find_named

        (found,) = find_named(self.engine, [structure], config=self.config)
        canvas = Canvas.blank(self.lattice) if found.canvas is None else found.canvas
        return Drawing(canvas, found.score, found.presence, is_found_by_name=found.canvas is not None)

    def _refine(self, drawing: Drawing, prompts: PromptSet, mask_weight: float = 1.0) -> Drawing:
        """Draws an object found at a coarse level again at the finest level that holds it, guided by what was found."""
        canvas = drawing.canvas
        known = [box for box in (canvas.box_vox(), object_extent(prompts)) if box is not None]
        if canvas.box_vox() is None:
            return drawing
        low, high = functools.reduce(union_box, known)
        level = self.lattice.finest_level_for(high - low, fill=self.config.fill)
        if level >= canvas.level and not canvas.open_tiles():
            return drawing
        return self.draw(min(level, canvas.level), (low, high), prompts, canvas, mask_weight=mask_weight)

    def in_parts(self, drawing: Drawing, prompts: PromptSet) -> Drawing:
        """Draws an object of known extent again at a finer level, in tiles that each show a part of it.

        How good it is, and whether it is there, stays as the tile said that showed all of it.
        """
        box = drawing.canvas.box_vox()
        if box is None or self.config.late_span <= 1:
            return drawing
        level = self._finest_level(*box, self.config.fill * self.config.late_span)
        if level >= drawing.canvas.level:
            return drawing
        drawn = self.draw(level, box, prompts, drawing.canvas)
        return replace(drawn, score=drawing.score, presence=drawing.presence)

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
        weight = self.config.mask_weight if redraws else 1.0
        unchanged = replace(drawing, candidates=(), changed=(box_vox[0], box_vox[0]))
        beyond = self._beyond_click(canvas, box_vox) if includes else None
        known = [box for box in (object_extent(prompts), canvas.box_vox(), beyond) if box is not None]
        if known:
            whole = functools.reduce(union_box, known)
            drawn_box = canvas.box_vox()
            grows = beyond is not None or not includes or drawn_box is None or not contains_box(drawn_box, box_vox)
            rescaled = self._rescaled(drawing, prompts, whole, grows, redraws)
            if rescaled is not None:
                return rescaled if includes else replace(rescaled, canvas=rescaled.canvas.within(canvas))
            if redraws and self._span(canvas, whole) > self.config.coarsen_beyond:
                weight = self.config.part_mask_weight
        if not includes and redraws:
            smaller = self._smaller(canvas, prompts, (box_vox[0] + box_vox[1] - 1) / 2)
            if smaller is not None:
                return replace(smaller, canvas=smaller.canvas.within(canvas))
        if not includes:  # where nothing was drawn there is nothing to exclude
            drawn_box = tuple(
                self.lattice.from_level(end - 0.5, canvas.level) + 0.5 for end in (canvas.low, canvas.high)
            )
            shared = intersect_box(box_vox, (drawn_box[0], drawn_box[1]))
            if shared is None:
                return unchanged
            box_vox = shared
        tiles = self._tiles_around(box_vox, canvas.level)
        are_anew = [redraws and self.shows_object(t, prompts) and self.holds(t, canvas.box_vox()) for t in tiles]
        output = self.decode(tiles, prompts, canvas, are_anew, weight)
        changed = self.reach(tiles[0])
        pasted = canvas
        for tile, logits in zip(tiles, output.mask_logits[:, 0, 0], strict=True):
            pasted = pasted.paste(tile, logits)
            changed = union_box(changed, self.reach(tile))
        pasted = pasted.limited(canvas, adds=includes)
        place, score = self.lattice.to_level((box_vox[0] + box_vox[1] - 1) / 2, canvas.level), mean_score(output)
        reach = np.inf
        is_misread = score < drawing.score - self.config.misread_drop
        if bool((box_vox[1] - box_vox[0] <= 1).all()) and (is_misread or self._is_late(drawing, prompts)):
            reach = self._reach_of_click(canvas.distance_to(place, inside=includes), prompts, is_misread)
        if np.isfinite(reach):
            pasted = pasted.local(canvas, place, reach)
        drawn = replace(
            drawing,
            canvas=pasted,
            score=score,
            presence=float(output.presence_scores.max()),
            candidates=(),
            changed=changed,
        )
        if not includes:
            return drawn
        extended = self.extend(drawn, prompts, set(tiles), None, keeps_drawn=True, mask_weight=weight)
        if not np.isfinite(reach) or extended.canvas is pasted:
            return extended
        return replace(extended, canvas=extended.canvas.local(pasted, place, reach))

    def _rescaled(self, drawing: Drawing, prompts: PromptSet, whole: Box, grows: bool, redraws: bool) -> Drawing | None:
        """Draws the object anew at another level where its own no longer fits; None where it does.

        Args:
            drawing: the object so far.
            prompts: all of them.
            whole: half-open box around all that is known of it.
            grows: whether the newest prompt may make it larger.
            redraws: whether the prompts alone say what it is.
        """
        canvas, config = drawing.canvas, self.config
        drawn_box, span = canvas.box_vox(), self._span(canvas, whole)
        is_named_in_parts = (
            prompts.structure is not None and drawn_box is not None and self._span(canvas, drawn_box) > 1
        )
        most = config.late_span if is_named_in_parts or self._is_late(drawing, prompts) else 1.0  # tiles it may be long
        if not (span > config.coarsen_beyond * most and grows) and span >= config.refine_below * most:
            return None
        level = self._finest_level(*whole, config.fill * most)
        if level == canvas.level:
            return None
        redraws = redraws and not is_named_in_parts  # its name alone found it: there is nothing to draw it anew from
        fits = span * 2.0 ** (canvas.level - level) <= config.coarsen_beyond
        weight = config.mask_weight if redraws else 1.0
        drawn = self.draw(level, whole, prompts, canvas, redraws and level > canvas.level, weight if fits else 1.0)
        if level > canvas.level:
            drawn = self._refine(drawn, prompts, weight)
        return replace(drawn, is_from_prompts=drawing.is_from_prompts, is_found_by_name=drawing.is_found_by_name)

    def _span(self, canvas: Canvas, box: Box) -> float:
        """Longest side of a box of canonical voxels, in tiles of a canvas's level."""
        return float(((box[1] - box[0]) / self.lattice.step_vox(canvas.level) / self.lattice.tile_size).max())

    def _reach_of_click(self, nearest: float, prompts: PromptSet, is_misread: bool) -> float:
        """How far a click changes the mask that corrects its surroundings, and does not say what the object is.

        Args:
            nearest: level voxels from it to where it would have been right already.
            prompts: all of them.
            is_misread: it was taken for more than was meant.
        """
        if prompts.mask is not None:
            return self.config.given_reach * max(nearest, self.config.given_distance)
        least = self.config.misread_distance if is_misread else self.config.least_distance
        return self.config.local_reach * max(nearest, least)

    def _is_late(self, drawing: Drawing, prompts: PromptSet) -> bool:
        """Whether the prompts before the newest tell what the object as a whole is."""
        is_outlined = bool(prompts.boxes) or prompts.mask is not None or drawing.is_found_by_name
        return is_outlined or len(prompts.points) + len(prompts.strokes) >= self.config.late_from

    def _finest_level(self, low: np.ndarray, high: np.ndarray, fill: float) -> int:
        """Finest level at which a box is at most ``fill`` tiles long, and few tiles cover it."""
        level = self.lattice.finest_level_for(high - low, fill=fill)
        while level < self.lattice.num_levels - 1 and len(self.covering((low, high), level)) > self.config.max_tiles:
            level += 1
        return level

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
        depth = canvas.distance_to(self.lattice.to_level(excluded_vox, canvas.level), inside=False)
        depth_mm = depth * self.lattice.level_spacing_mm(canvas.level)
        radius_mm = (1000 * canvas.volume_ml * 3 / (4 * np.pi)) ** (1 / 3)
        if depth_mm < self.config.least_depth * radius_mm:
            return None
        reach = self.config.click_reach * distance_mm / spacing_mm
        low = np.maximum(included.min(axis=0) - reach, 0.0)
        high = np.minimum(included.max(axis=0) + 1 + reach, np.array(self.lattice.shape, dtype=float))
        level = self.lattice.finest_level_for(high - low, fill=1.0)
        if level >= canvas.level:
            return None
        drawn = self.draw(level, (low, high), prompts, None)
        return None if drawn.canvas.box_vox() is None else drawn

    def _beyond_click(self, canvas: Canvas, box_vox: Box) -> Box | None:
        """What a click outside the mask says of the object's size: a box around it; None where it says nothing."""
        centre = (box_vox[0] + box_vox[1] - 1) / 2
        nearest = canvas.distance_to(self.lattice.to_level(centre, canvas.level), inside=True)
        distance = self.config.click_reach * nearest
        if not np.isfinite(nearest) or distance < 1:
            return None
        reach = distance * self.lattice.step_vox(canvas.level)
        return np.maximum(centre - reach, 0.0), np.minimum(
            centre + reach + 1, np.array(self.lattice.shape, dtype=float)
        )

    def _tiles_around(self, box_vox: Box, level: int) -> list[TileKey]:
        """The tile nearest to a prompt's middle, or those that cover it where it is longer than a tile."""
        nearest = self.lattice.nearest((box_vox[0] + box_vox[1] - 1) / 2, level)
        low, high = self.reach(nearest, margin=0.0)
        middle_low, middle_high = (box_vox[0] + 0.5, box_vox[1] - 0.5)  # the outermost voxels may be cut in half
        if contains_box((low, high), (middle_low, middle_high)):
            return [nearest]
        tiles = self.covering(box_vox, level)
        return tiles if len(tiles) <= self.config.max_tiles else [nearest]
