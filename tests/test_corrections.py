"""How objects are corrected over tiles and levels, with a decoder that knows the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from promptseg.canvas import Canvas
from promptseg.drawing import Drawing
from promptseg.prompts import PromptSet
from promptseg.strokes import Stroke
from promptseg.tiles import TileKey

from .knowing_engine import LATTICE, around, clicks, dice, make


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


@pytest.mark.parametrize("drop", [0.1, 0.4])
def test_an_early_click_after_which_the_estimate_falls_far_changes_what_lies_near_it(drop: float) -> None:
    settings = {"coarsen_beyond": 9.0, "refine_below": 0.0, "local_reach": 1.0, "rescale_clicks": 0}
    middle = LATTICE.from_level(LATTICE.tile_low(TileKey(0, (4, 4, 4))) + 8.0, 0)
    interaction, engine = make(tuple(middle), 5.0, **settings)
    drawn = interaction.draw(0, (middle - 5, middle + 6), clicks(tuple(middle)), None)
    engine.radii_vox = (2.0, 5.0, 5.0)
    place, far = middle + (3, 0, 0), middle - (3, 0, 0)
    prompts = clicks(tuple(middle), tuple(place), labels=[1, 0])
    expected = interaction.correct(drawn, prompts, around(tuple(place)), includes=False).score
    after = interaction.correct(replace(drawn, score=expected + drop), prompts, around(tuple(place)), includes=False)
    logits = after.canvas.sample(np.zeros(3, int), np.array(LATTICE.shape))
    near, beyond = (float(logits[tuple(np.rint(at).astype(int))]) for at in (place, far))
    assert near < 0
    assert (beyond > 0) == (drop > interaction.config.misread_drop)


def test_an_object_that_shrank_is_drawn_finer() -> None:
    interaction, engine = make((30.0, 30.0, 25.0), 4.0)
    coarse = interaction.draw(1, (np.array([20.0, 20, 17]), np.array([41.0, 41, 34])), clicks((30, 30, 25)), None)
    assert coarse.canvas.level == 1
    prompts = clicks((30, 30, 25), (37, 30, 25), labels=[1, 0])
    after = interaction.correct(coarse, prompts, around((37, 30, 25)), includes=False)
    assert after.canvas.level == 0
    assert dice(after, engine.truth) > 0.85


def test_a_late_click_does_not_let_the_object_grow_far_beyond_what_was_drawn() -> None:
    """The decoder takes all of the image for the object, and what was drawn ends beside the click."""
    settings = {"coarsen_beyond": 9.0, "refine_below": 0.0, "local_reach": 1.0, "least_distance": 2.0}
    interaction, engine = make((30.0, 37.0, 30.0), 5.0, **settings)
    box = (np.array([25.0, 32, 26]), np.array([36.0, 43, 35]))
    drawing = interaction.draw(0, box, clicks((30, 37, 30)), None)
    engine.radii_vox = (99.0, 99.0, 99.0)
    place = (36.0, 37.0, 30.0)
    after = interaction.correct(drawing, clicks(*[(30, 37, 30)] * 4, place), around(place), includes=True)
    shape = np.array(LATTICE.shape)
    before_mask, mask = (c.sample(np.zeros(3, int), shape).numpy() > 0 for c in (drawing.canvas, after.canvas))
    assert mask[36, 37, 30]
    grown = np.argwhere(mask & ~before_mask) - np.array(place)
    assert 0 < np.linalg.norm(grown, axis=1).max() < 8


@pytest.mark.parametrize(("least_depth", "is_smaller"), [(0.1, True), (0.4, False)])
def test_a_click_just_inside_the_end_of_a_mask_does_not_say_that_the_object_is_far_smaller(
    least_depth: float, is_smaller: bool
) -> None:
    interaction, engine = make((45.0, 37.0, 30.0), 32.0, refine_below=0.0, least_depth=least_depth)
    whole = (np.zeros(3), np.array(LATTICE.shape, dtype=float))
    first, place = (71.0, 37.0, 30.0), (75.0, 37.0, 30.0)
    drawing = interaction.draw(LATTICE.num_levels - 1, whole, clicks(first), None)
    engine.centre_vox, engine.radii_vox = first, (5.0, 5.0, 4.0)
    after = interaction.correct(drawing, clicks(first, place, labels=[1, 0]), around(place), includes=False)
    assert (after.canvas.level < drawing.canvas.level) == is_smaller


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


@pytest.mark.parametrize(("radius", "level"), [(9.0, 0), (5.0, 2)])
def test_an_excluding_click_adds_nothing_even_where_the_object_is_drawn_anew(radius: float, level: int) -> None:
    """At a coarser level, as what was drawn is too long for a tile, or a finer; the decoder by then sees far more."""
    middle, place = (45.0, 37.0, 30.0), (45 + radius - 2, 37.0, 30.0)
    interaction, engine = make(middle, radius)
    box = (np.array(middle) - radius, np.array(middle) + radius)
    drawing = interaction.draw(level, box, clicks(middle), None)
    engine.radii_vox = (40.0, 30.0, 25.0)
    after = interaction.correct(drawing, clicks(middle, place, labels=[1, 0]), around(place), includes=False)
    assert after.canvas.level != level
    before, drawn = drawing.canvas.box_vox(), after.canvas.box_vox()
    assert before is not None and drawn is not None
    steps = sum(LATTICE.step_vox(canvas.level) for canvas in (drawing.canvas, after.canvas))
    assert (drawn[0] >= before[0] - steps).all() and (drawn[1] <= before[1] + steps).all()
