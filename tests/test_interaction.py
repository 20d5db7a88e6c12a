"""How objects are found, drawn and corrected over tiles and levels, with a decoder that knows the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.canvas import Canvas
from promptseg.drawing import Drawing, InteractionConfig, object_extent
from promptseg.interaction import Interaction
from promptseg.models import DecoderOutput
from promptseg.native_mask import NativeMask
from promptseg.prompts import PromptSet
from promptseg.strokes import Stroke
from promptseg.tiles import TileKey, TileLattice

LATTICE = TileLattice((90, 75, 60), (1.0, 1.0, 1.25), 16)


@dataclass
class KnowingEngine:
    """Draws an ellipsoid wherever it is asked to, and remembers where that was."""

    centre_vox: tuple[float, float, float]
    radii_vox: tuple[float, float, float]
    lattice: TileLattice = LATTICE
    tile_lists: list[list[TileKey]] = field(default_factory=list)
    mask_weights: list[float | None] = field(default_factory=list)

    def level(self, places_vox: np.ndarray) -> np.ndarray:
        """Positive inside, 0 on the surface, in about millimetres."""
        offsets = (places_vox - self.centre_vox) / np.array(self.radii_vox)
        return (1 - np.linalg.norm(offsets, axis=-1)) * min(self.radii_vox)

    def decode(
        self,
        tiles: list[TileKey],
        prompts: PromptSet,
        canvas: Canvas | None,
        multimask: bool = False,
        mask_weight: float = 1.0,
    ) -> DecoderOutput:
        self.tile_lists.append(list(tiles))
        self.mask_weights.append(None if canvas is None else mask_weight)
        size = self.lattice.tile_size
        logits = []
        for tile in tiles:
            grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1) + self.lattice.tile_low(tile)
            logits.append(self.level(self.lattice.from_level(grid, tile.level)))
        masks = torch.from_numpy(np.stack(logits).astype(np.float32))[:, None, None]
        count = 4 if multimask else 1
        return DecoderOutput(
            masks.expand(-1, 1, count, -1, -1, -1).clone(),
            torch.full((len(tiles), 1, count), 2.0),
            torch.zeros(len(tiles), 1),
        )

    @property
    def truth(self) -> np.ndarray:
        voxels = np.stack(np.meshgrid(*[np.arange(n) for n in self.lattice.shape], indexing="ij"), axis=-1)
        return self.level(voxels.astype(float)) > 0


def make(
    centre: tuple[float, ...], radii: tuple[float, ...] | float, **config: Any
) -> tuple[Interaction, KnowingEngine]:
    sides = (radii,) * 3 if isinstance(radii, (int, float)) else radii
    engine = KnowingEngine(centre, sides)  # type: ignore[arg-type]
    return Interaction(engine, InteractionConfig(**config)), engine  # type: ignore[arg-type]


def clicks(*places: tuple[float, float, float], labels: list[int] | None = None, **more: Any) -> PromptSet:
    return PromptSet(np.array(places, float), np.array(labels or [1] * len(places)), **more)


def around(place: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(place, float), np.array(place, float) + 1


def dice(drawing: Drawing, truth: np.ndarray) -> float:
    mask = NativeMask.of_canvas(drawing.canvas, np.array(truth.shape)).cut((np.zeros(3, int), np.array(truth.shape)))
    return 2 * float((mask * truth).sum()) / float(mask.sum() + truth.sum())


centres = st.tuples(*[st.floats(0.25, 0.75)] * 3).map(lambda s: tuple(np.array(s) * LATTICE.shape))


@settings(max_examples=6)
@given(centres, st.floats(0.5, 1.5).map(lambda e: 10.0**e))
def test_a_click_on_an_object_of_any_size_draws_it(centre: tuple[float, float, float], radius: float) -> None:
    interaction, engine = make(centre, radius)
    drawing = interaction.start(clicks(centre))
    truth = engine.truth
    assert dice(drawing, truth) > (0.9 if radius > 6 else 0.75)
    places = np.argwhere(truth)
    sides = (np.ptp(places, axis=0) + 1) / LATTICE.step_vox(drawing.canvas.level) / LATTICE.tile_size
    assert sides.max() <= 1.0
    assert drawing.canvas.level == 0 or sides.max() > 0.35  # no coarser than need be
    assert len(drawing.candidates) == 4
    assert max(map(len, engine.tile_lists)) <= interaction.config.max_tiles


@settings(max_examples=6)
@given(centres, st.floats(6, 15), st.floats(0.6, 0.9))
def test_where_on_the_object_the_click_lies_matters_little(
    centre: tuple[float, float, float], radius: float, share: float
) -> None:
    interaction, engine = make(centre, radius)
    place = (centre[0] - share * radius, centre[1], centre[2])
    assert dice(interaction.start(clicks(place)), engine.truth) > 0.93


def test_an_object_at_the_images_end_is_drawn_to_the_end() -> None:
    for centre in ((0.0, 37.0, 30.0), (89.0, 74.0, 59.0)):
        interaction, engine = make(centre, 7.0)
        assert dice(interaction.start(clicks(centre)), engine.truth) > 0.93


def test_an_object_larger_than_a_tile_goes_on_beyond_the_box_it_was_asked_in() -> None:
    interaction, engine = make((40.0, 37.0, 30.0), (20.0, 6.0, 6.0))
    low, high = np.array([35.0, 31, 24]), np.array([46.0, 44, 36])
    drawing = interaction.draw(0, (low, high), clicks((40, 37, 30)), None)
    assert drawing.canvas.level == 0
    assert dice(drawing, engine.truth) > 0.95
    assert sum(map(len, engine.tile_lists)) <= interaction.config.max_tiles
    asked = [t for tiles in engine.tile_lists for t in tiles]
    assert len(set(asked)) == len(asked)  # no tile is decoded twice


def test_no_more_tiles_are_used_than_allowed() -> None:
    interaction, engine = make((45.0, 37.0, 30.0), 35.0, max_tiles=5)
    box = (np.zeros(3), np.array(LATTICE.shape, float))
    drawing = interaction.draw(0, box, clicks((45, 37, 30)), None)
    assert sum(map(len, engine.tile_lists)) <= 5
    assert dice(drawing, engine.truth) > 0.9


def test_a_box_chooses_the_level_that_it_fills_and_then_draws_a_level_finer_in_parts() -> None:
    interaction, engine = make((40.0, 35.0, 30.0), 10.0)
    box = (np.array([30.0, 25, 20]), np.array([51.0, 46, 41]))
    drawing = interaction.start(PromptSet(boxes=(box,)))
    assert engine.tile_lists[0][0].level == LATTICE.finest_level_for(box[1] - box[0], fill=1.0) == 1
    assert drawing.canvas.level == 0
    assert 1 < len(engine.tile_lists[1]) <= interaction.config.max_tiles
    assert engine.mask_weights[0] is None
    assert set(engine.mask_weights[1:]) == {1.0}
    assert dice(drawing, engine.truth) > 0.95
    beside = clicks((5, 5, 5), labels=[0], boxes=(box,))  # what excludes does not widen it
    assert interaction.start(beside).canvas.level == 0
    whole, _ = make((40.0, 35.0, 30.0), 10.0, late_span=1.0)
    assert whole.start(PromptSet(boxes=(box,))).canvas.level == 1


def test_an_object_is_drawn_finer_once_there_are_prompts_enough_and_stays_so() -> None:
    interaction, engine = make((40.0, 35.0, 30.0), 10.0)
    middle, place = (40.0, 35.0, 30.0), (49.0, 35.0, 30.0)
    drawing = interaction.start(clicks(middle))
    assert drawing.canvas.level == 1
    levels = []
    for count in range(2, 7):
        prompts = clicks(*[middle] * (count - 1), place, labels=[1] * (count - 1) + [0])
        engine.mask_weights.clear()
        engine.tile_lists.clear()
        drawing = interaction.correct(drawing, prompts, around(place), includes=False)
        levels.append(drawing.canvas.level)
    late = interaction.config.late_from - 2
    assert set(levels[:late]) == {1}
    assert set(levels[late:]) == {0}
    assert engine.mask_weights == [interaction.config.part_mask_weight]  # of the last, on one tile again
    assert [len(tiles) for tiles in engine.tile_lists] == [1]
    assert dice(drawing, engine.truth) > 0.95


def test_an_object_that_needs_too_many_tiles_is_not_drawn_finer_and_not_again_and_again() -> None:
    interaction, engine = make((40.0, 35.0, 30.0), 10.0, max_tiles=4)
    middle, place = (40.0, 35.0, 30.0), (49.0, 35.0, 30.0)
    drawing = interaction.start(clicks(middle))
    engine.tile_lists.clear()
    prompts = clicks(*[middle] * 5, place, labels=[1] * 5 + [0])
    after = interaction.correct(drawing, prompts, around(place), includes=False)
    assert after.canvas.level == drawing.canvas.level == 1
    assert [len(tiles) for tiles in engine.tile_lists] == [1]


def start_state(centre: tuple[float, float, float] = (30.0, 30.0, 25.0), radius: float = 5.0) -> Any:
    interaction, engine = make(centre, radius)
    drawing = interaction.start(clicks(centre))
    engine.tile_lists.clear()
    return interaction, engine, drawing


def test_a_correction_decodes_one_tile_and_says_where_it_changed() -> None:
    interaction, engine, drawing = start_state()
    engine.radii_vox = (4.0, 4.0, 4.0)  # the decoder changes its mind
    prompts = clicks((30, 30, 25), (35, 30, 25), labels=[1, 0])
    after = interaction.correct(drawing, prompts, around((35, 30, 25)), includes=False)
    assert [len(t) for t in engine.tile_lists] == [1]
    assert after.changed is not None
    low, high = np.floor(after.changed[0]).astype(int), np.ceil(after.changed[1]).astype(int)
    shape = np.array(LATTICE.shape)
    before_logits, after_logits = (c.sample(np.zeros(3, int), shape).numpy() for c in (drawing.canvas, after.canvas))
    differs = (before_logits > 0) != (after_logits > 0)
    assert differs.any()
    places = np.argwhere(differs)
    assert (places.min(axis=0) >= low).all()
    assert (places.max(axis=0) < high).all()


def test_what_was_fixed_elsewhere_stays() -> None:
    """A click at one end of a long object, which then goes on beyond what was drawn."""
    interaction, engine = make((45.0, 37.0, 30.0), (13.0, 4.0, 4.0), coarsen_beyond=9.0, refine_below=0.0)
    tiles = [TileKey(0, (p, 4, 4)) for p in (3, 4, 5)]
    output = engine.decode(tiles, clicks((45, 37, 30)), None)
    canvas = Canvas.from_tiles(LATTICE, tiles, output.mask_logits[:, 0, 0])
    canvas.logits[:20] = canvas.logits[:20].clamp(max=-2.0)  # the user took this part away
    engine.radii_vox = (30.0, 4.0, 4.0)
    place = (52.0, 37.0, 30.0)
    after = interaction.correct(Drawing(canvas, 0.5, 0.5), clicks(place), around(place), includes=True)
    assert after.canvas.high[0] > canvas.high[0]  # it went on to the right
    offset = canvas.low - after.canvas.low
    kept = after.canvas.logits[tuple(slice(o, o + n) for o, n in zip(offset, canvas.logits.shape, strict=True))]
    torch.testing.assert_close(kept[:15], canvas.logits[:15])


@pytest.mark.parametrize("is_from_prompts", [True, False])
def test_what_was_drawn_from_prompts_counts_little_against_a_new_one_and_a_mask_handed_over_in_full(
    is_from_prompts: bool,
) -> None:
    interaction, engine = make((45.0, 37.0, 30.0), (13.0, 4.0, 4.0), coarsen_beyond=9.0, refine_below=0.0)
    tiles = [TileKey(0, (p, 4, 4)) for p in (3, 4, 5)]
    output = engine.decode(tiles, clicks((45, 37, 30)), None)
    drawing = Drawing(
        Canvas.from_tiles(LATTICE, tiles, output.mask_logits[:, 0, 0]), 0.5, 0.5, is_from_prompts=is_from_prompts
    )
    engine.mask_weights.clear()
    place = (52.0, 37.0, 30.0)
    interaction.correct(drawing, clicks(place), around(place), includes=True)
    assert engine.mask_weights
    assert set(engine.mask_weights) == {interaction.config.mask_weight if is_from_prompts else 1.0}


@pytest.mark.parametrize("is_found_by_name", [True, False])
def test_a_click_on_what_a_name_found_changes_what_lies_near_it_alone(is_found_by_name: bool) -> None:
    interaction, engine = make(
        (45.0, 37.0, 30.0), (13.0, 4.0, 4.0), coarsen_beyond=9.0, refine_below=0.0, rescale_clicks=0, local_reach=0.5
    )
    tiles = [TileKey(0, (p, 4, 4)) for p in (3, 4, 5)]
    output = engine.decode(tiles, clicks((45, 37, 30)), None)
    # A new answer takes something away everywhere.
    canvas = Canvas.from_tiles(LATTICE, tiles, output.mask_logits[:, 0, 0] + 0.5)
    drawing = Drawing(canvas, 0.5, 0.5, is_found_by_name=is_found_by_name)
    place = (52.0, 37.0, 30.0)
    prompts = PromptSet(points=np.array([[45.0, 37.0, 30.0], place]), labels=np.array([1, 0]))
    after = interaction.correct(drawing, prompts, around(place), includes=False)
    change = (canvas.logits - after.canvas.logits).nan_to_num()
    where = np.rint(LATTICE.to_level(np.array([place, (47.0, 37.0, 30.0)]), 0) - canvas.low).astype(int)
    near, far = (float(change[tuple(w)]) for w in where)
    assert near > 0.1
    assert far < 0.05 if is_found_by_name else far > 0.1


def test_an_excluding_click_where_nothing_was_drawn_costs_nothing() -> None:
    interaction, engine, drawing = start_state()
    far = (85.0, 70.0, 55.0)
    after = interaction.correct(drawing, clicks((30, 30, 25), far, labels=[1, 0]), around(far), includes=False)
    assert after.canvas is drawing.canvas
    assert engine.tile_lists == []
    assert after.changed is not None
    assert np.array_equal(*after.changed)


def test_an_including_click_far_away_moves_to_a_coarser_level() -> None:
    interaction, engine, drawing = start_state()
    engine.centre_vox, engine.radii_vox = (45.0, 30.0, 25.0), (22.0, 6.0, 6.0)
    far = (65.0, 30.0, 25.0)
    after = interaction.correct(drawing, clicks((30, 30, 25), far), around(far), includes=True)
    assert after.canvas.level > drawing.canvas.level
    assert after.changed is None  # anywhere
    assert dice(after, engine.truth) > 0.9


def test_a_click_inside_a_mask_larger_than_a_tile_does_not_make_it_coarser() -> None:
    interaction, _ = make((45.0, 37.0, 30.0), 10.0)
    box = (np.array([35.0, 27, 22]), np.array([56.0, 48, 39]))
    drawing = interaction.draw(0, box, clicks((45, 37, 30)), None)
    place = (48.0, 37.0, 30.0)
    after = interaction.correct(drawing, clicks((45, 37, 30), place), around(place), includes=True)
    assert after.canvas.level == drawing.canvas.level == 0
    outside = (62.0, 37.0, 30.0)
    assert interaction.correct(drawing, clicks((45, 37, 30), outside), around(outside), includes=True).canvas.level > 0


def test_an_early_click_beside_a_far_too_large_mask_has_it_drawn_smaller() -> None:
    prompts = clicks((45, 37, 30), (55, 37, 30), labels=[1, 0])
    levels = {}
    for allowed in (0, 4):
        interaction, engine = make((45.0, 37.0, 30.0), 36.0, rescale_clicks=allowed, refine_below=0.0)
        whole = (np.zeros(3), np.array(LATTICE.shape, dtype=float))
        drawing = interaction.draw(LATTICE.num_levels - 1, whole, clicks((45, 37, 30)), None)
        engine.radii_vox = (5.0, 5.0, 4.0)  # the decoder learns that it was wrong
        after = interaction.correct(drawing, prompts, around((55, 37, 30)), includes=False)
        levels[allowed] = after.canvas.level
        if allowed:
            assert dice(after, engine.truth) > 0.8
    assert levels[4] < levels[0]


@pytest.mark.parametrize("includes", [True, False])
def test_a_click_on_the_object_only_adds_and_one_beside_it_only_takes_away(includes: bool) -> None:
    interaction, engine, drawing = start_state()
    engine.centre_vox = (33.0, 30.0, 25.0)  # the decoder would both add and take away
    place = (36.0, 30.0, 25.0)
    prompts = clicks((30, 30, 25), place, labels=[1, int(includes)])
    after = interaction.correct(drawing, prompts, around(place), includes=includes)
    shape = np.array(LATTICE.shape)
    before, now = (c.sample(np.zeros(3, int), shape).numpy() > 0 for c in (drawing.canvas, after.canvas))
    assert (before != now).any()
    assert not (before & ~now).any() if includes else not (now & ~before).any()


@pytest.mark.parametrize("opening", ["clicks", "box"])
def test_a_late_click_and_one_after_a_box_change_what_lies_near_them(opening: str) -> None:
    """The decoder changes its mind at both ends of an object, of which one is clicked on."""
    settings = {"coarsen_beyond": 9.0, "refine_below": 0.0, "local_reach": 1.0, "least_distance": 2.0}
    middle = LATTICE.from_level(LATTICE.tile_low(TileKey(0, (4, 4, 4))) + 8.0, 0)
    interaction, engine = make(tuple(middle), 5.0, **settings)
    box = (middle - 5, middle + 6)
    drawing = interaction.draw(0, box, clicks(tuple(middle)), None)
    engine.radii_vox = (2.0, 5.0, 5.0)
    place, far = middle + (3, 0, 0), middle - (3, 0, 0)
    count = interaction.config.late_from - 1 if opening == "clicks" else 1
    boxes = (box,) if opening == "box" else ()
    late = clicks(*[tuple(middle)] * count, tuple(place), labels=[1] * count + [0], boxes=boxes)
    early = clicks(tuple(middle), tuple(place), labels=[1, 0])
    shape = np.array(LATTICE.shape)
    values = {}
    for name, prompts in (("late", late), ("early", early)):
        after = interaction.correct(drawing, prompts, around(tuple(place)), includes=False)
        logits = after.canvas.sample(np.zeros(3, int), shape)
        values[name] = [float(logits[tuple(np.rint(at).astype(int))]) for at in (place, far)]
    assert values["late"][0] < 0 < values["late"][1]
    assert values["early"][0] < 0
    assert values["early"][1] < 0


def test_an_object_that_shrank_is_drawn_finer() -> None:
    interaction, engine = make((30.0, 30.0, 25.0), 4.0)
    coarse = interaction.draw(1, (np.array([20.0, 20, 17]), np.array([41.0, 41, 34])), clicks((30, 30, 25)), None)
    assert coarse.canvas.level == 1
    prompts = clicks((30, 30, 25), (37, 30, 25), labels=[1, 0])
    after = interaction.correct(coarse, prompts, around((37, 30, 25)), includes=False)
    assert after.canvas.level == 0
    assert dice(after, engine.truth) > 0.85


@pytest.mark.parametrize("includes", [True, False])
def test_a_stroke_longer_than_a_tile_is_answered_along_all_of_it(includes: bool) -> None:
    interaction, engine = make((40.0, 37.0, 30.0), (22.0, 3.0, 3.0), coarsen_beyond=9.0, refine_below=0.0)
    drawing = interaction.draw(0, (np.array([19.0, 35, 27]), np.array([61.0, 40, 33])), clicks((40, 37, 30)), None)
    engine.tile_lists.clear()
    voxels = np.stack([np.arange(20, 61), np.full(41, 37), np.full(41, 30)], axis=1)
    stroke = Stroke(voxels, int(includes), "scribble", voxels[::13].astype(float))
    prompts = clicks((40, 37, 30), strokes=(stroke,))
    after = interaction.correct(drawing, prompts, (voxels.min(axis=0), voxels.max(axis=0) + 1), includes)
    tiles = engine.tile_lists[0]
    assert len(tiles) > 1
    lows = np.stack([LATTICE.from_level(LATTICE.tile_low(t), 0) for t in tiles])
    assert lows[:, 0].min() <= 20
    assert lows[:, 0].max() + 15 >= 60
    assert after.changed is not None
    assert after.changed[0][0] <= 20
    assert after.changed[1][0] >= 61


def test_candidates_are_ranked_and_a_cut_off_mask_loses() -> None:
    interaction, engine = make((30.0, 30.0, 25.0), 10.0)
    guess, candidates = interaction.guess(clicks((30, 30, 25)), around((30, 30, 25)))
    assert guess.canvas.level == 1  # of equal scores the finest that holds it
    assert candidates[0][1].level == 1
    nothing, _ = make((30.3, 30.3, 25.3), 0.01)
    empty = nothing.start(clicks((30, 30, 25)))
    assert empty.canvas.box_vox() is None
    assert len(empty.candidates) == 4


def test_nothing_that_includes_is_refused() -> None:
    interaction, _ = make((30.0, 30.0, 25.0), 10.0)
    with pytest.raises(ValueError, match="all of them exclude; add a point with label 1"):
        interaction.start(clicks((30, 30, 25), labels=[0]))


def test_the_extent_is_that_of_what_includes() -> None:
    line = np.array([(3, 4, 5), (9, 4, 5)])
    strokes = (Stroke(line, 1, "scribble", line.astype(float)), Stroke(line * 10, 0, "scribble", line * 10.0))
    prompts = clicks((1, 8, 7), (100, 100, 100), labels=[1, 0], strokes=strokes)
    extent = object_extent(prompts)
    assert extent is not None
    assert [end.tolist() for end in extent] == [[1, 4, 5], [10, 9, 8]]
    assert object_extent(clicks((1, 1, 1), labels=[0])) is None
    box = (np.array([20.0, 0, 0]), np.array([30.0, 5, 5]))
    wide = object_extent(PromptSet(boxes=(box,), mask=np.ones((2, 2, 2), bool), mask_box=around((50, 1, 1))))
    assert wide is not None
    assert [end.tolist() for end in wide] == [[20, 0, 0], [51, 5, 5]]
