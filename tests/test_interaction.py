"""How objects are found and drawn over tiles and levels, with a decoder that knows the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.drawing import object_extent
from promptseg.prompts import PromptSet
from promptseg.strokes import Stroke

from .knowing_engine import LATTICE, around, centres, clicks, dice, make


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
