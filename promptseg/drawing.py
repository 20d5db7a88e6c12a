"""An object on the tiles of one zoom level: drawn with an engine, and joined where it goes on beyond them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .boxes import Box, contains_box, intersect_box, union_box
from .canvas import Canvas
from .engine import TileEngine
from .models import DecoderOutput
from .prompts import PromptSet
from .ranking import RankingConfig
from .tiles import TileKey


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
    least_depth: float = 0.15
    """How deep in the mask it must lie to say so, relative to the radius of a ball of the mask's volume; one nearer to
    the mask's end says that the end is wrong."""
    late_from: int = 4
    """Prompts that tell what an object as a whole is, as a box or a mask does alone. From then on it is drawn finer,
    and a click changes what lies near it."""
    late_span: float = 2.0
    """How many times as long as the tile an object may be then, in tiles that each show a part of it; 1 for no finer
    drawing."""
    local_reach: float = 5.0
    """How far it changes the mask, in multiples of its distance to where it would have been right already."""
    least_distance: float = 5.0
    """Least such distance, in voxels of the level. This and the four before were chosen on training cases."""
    misread_drop: float = 0.2
    """A click after which the estimated IoU is lower by more than this was taken for more than was meant, and is kept
    to its surroundings, however early it comes."""
    misread_distance: float = 1.0
    """Least such distance then. Both were chosen on training cases."""
    given_reach: float = 3.0
    """How far a click changes a mask that was handed over, in the same multiples."""
    given_distance: float = 2.0
    """Least such distance then. Both were chosen on masks of training cases, to which a ball was added or of which one
    was taken."""
    refine_below: float = 0.45
    """Side of an object, relative to a tile's, below which drawing moves to a finer level."""
    mask_weight: float = 0.1
    """How much of what was drawn before a correction counts, where prompts on the object tell what it is: a mask that
    counts in full keeps its errors, of which a click then mends the nearest part alone. Found on training crops, and
    kept to corrections by a comparison on the validation fold."""
    part_mask_weight: float = 0.3
    """The same where no tile shows all of the object, so that the mask alone tells what lies around. Found on training
    cases."""
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
        is_found_by_name: whether its name alone found it, which tells what the object as a whole is.
    """

    canvas: Canvas
    score: float
    presence: float
    candidates: tuple[tuple[float, Canvas], ...] = ()
    changed: Box | None = None
    is_from_prompts: bool = True
    is_found_by_name: bool = False


class Drawer:
    """Draws objects on tiles.

    Args:
        engine: model and image.
        config: of the choice of tiles.
    """

    def __init__(self, engine: TileEngine, config: InteractionConfig | None = None) -> None:
        self.engine = engine
        self.lattice = engine.lattice
        self.config = config or InteractionConfig()

    def draw(
        self,
        level: int,
        box_vox: Box,
        prompts: PromptSet,
        canvas: Canvas | None,
        anew: bool = False,
        mask_weight: float = 1.0,
    ) -> Drawing:
        """Draws an object at a level on the tiles that cover a box, and on neighbours where it goes on.

        Args:
            level: zoom level; a coarser one is taken where it needs too many tiles.
            box_vox: half-open box of canonical voxels.
            prompts: of the object.
            canvas: the object so far, as mask prompt; None for none.
            anew: where a tile shows a prompt on the object, draw from the prompts and not from the canvas.
            mask_weight: how much the mask prompt counts on tiles that show points on the object.
        """
        tiles = self.covering(box_vox, level)
        while len(tiles) > self.config.max_tiles and level < self.lattice.num_levels - 1:
            level += 1
            tiles = self.covering(box_vox, level)
        is_anew = [anew and self.shows_object(tile, prompts) for tile in tiles]
        output = self.decode(tiles, prompts, canvas, is_anew, mask_weight)
        drawn = Canvas.from_tiles(self.lattice, tiles, output.mask_logits[:, 0, 0])
        drawing = Drawing(drawn, mean_score(output), float(output.presence_scores.max()))
        return self.extend(drawing, prompts, set(tiles), canvas, mask_weight=mask_weight)

    def covering(self, box_vox: Box, level: int) -> list[TileKey]:
        low, high = (self.lattice.to_level(end - 0.5, level) + 0.5 for end in box_vox)
        return self.lattice.covering(low, high, level)

    def extend(
        self,
        drawing: Drawing,
        prompts: PromptSet,
        done: set[TileKey],
        hint: Canvas | None,
        keeps_drawn: bool = False,
        mask_weight: float = 1.0,
    ) -> Drawing:
        """Joins neighbouring tiles where the mask reaches the end of what was drawn, twice at most.

        Args:
            drawing: the object so far.
            prompts: all of them.
            done: tiles just drawn; the others are added to them.
            hint: mask prompt if it is of another level; else the drawing itself is.
            keeps_drawn: leave what was drawn as it is.
            mask_weight: as for :meth:`draw`.

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
            output = self.engine.decode(tiles, prompts, mask, mask_weight=mask_weight)
            for tile, logits in zip(tiles, output.mask_logits[:, 0, 0], strict=True):
                canvas = canvas.paste(tile, logits, keeps_drawn)
                changed = None if changed is None else union_box(changed, self.reach(tile))
        return replace(drawing, canvas=canvas, changed=changed)

    def decode(
        self,
        tiles: list[TileKey],
        prompts: PromptSet,
        canvas: Canvas | None,
        is_anew: list[bool],
        mask_weight: float = 1.0,
    ) -> DecoderOutput:
        """Decodes tiles, with the canvas as mask prompt but on those that are drawn anew."""
        if canvas is None or not any(is_anew):
            return self.engine.decode(tiles, prompts, canvas, mask_weight=mask_weight)
        groups = [[n for n, anew in enumerate(is_anew) if anew == wanted] for wanted in (True, False)]
        outputs = [
            self.engine.decode([tiles[n] for n in group], prompts, hint, mask_weight=mask_weight)
            for group, hint in zip(groups, (None, canvas), strict=True)
            if group
        ]
        order = torch.tensor(groups[0] + groups[1]).argsort()
        return DecoderOutput(
            torch.cat([o.mask_logits for o in outputs])[order],
            torch.cat([o.iou_logits for o in outputs])[order],
            torch.cat([o.presence_logits for o in outputs])[order],
        )

    def shows_object(self, tile: TileKey, prompts: PromptSet) -> bool:
        """Whether a prompt that marks the object lies in a tile."""
        return any(intersect_box(self.reach(tile, margin=0.0), box) is not None for box in marked_boxes(prompts))

    def holds(self, tile: TileKey, box_vox: Box | None) -> bool:
        """Whether a box of canonical voxels lies in a tile, up to two of the tile's voxels."""
        return box_vox is None or contains_box(self.reach(tile, margin=2.0), box_vox)

    def reach(self, tile: TileKey, margin: float = 1.0) -> Box:
        """Half-open box of canonical voxels (float) that a tile's logits can change; ``margin`` in level voxels."""
        low = self.lattice.tile_low(tile) - 0.5
        return (
            self.lattice.from_level(low - margin, tile.level) + 0.5,
            self.lattice.from_level(low + self.lattice.tile_size + margin, tile.level) + 0.5,
        )


def mean_score(output: DecoderOutput) -> float:
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
