"""Every kind of prompt opens an object at a scale that fits it, and takes clicks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from promptseg import Predictor
from promptseg.prompts import Box, Lasso, Mask, Scribble

from .conftest import assert_changed_box_holds, make_image

KINDS: dict[str, dict[str, Any]] = {
    "box": {"box": (10, 9, 8, 26, 24, 20)},
    "boxes": {"box": [Box((10, 9, 8), (26, 24, 20)), Box((10, 9, 14), (26, 24, 14), axis=2)]},
    "flat box": {"box": (10, 9, 14, 26, 24, 15)},
    "scribble": {"scribbles": Scribble([(10, 9, 14), (20, 20, 14)], radius_mm=2)},
    "scribbles": {"scribbles": [Scribble([(10, 9, 14), (20, 20, 14)]), Scribble([(40, 9, 14), (40, 20, 14)], label=0)]},
    "lasso": {"lassos": Lasso([(10, 9, 14), (24, 9, 14), (24, 22, 14), (10, 22, 14)])},
    "mask": {"mask": make_image() > 150},
    "logits": {"mask": Mask(make_image() / 50.0 - 3, is_logits=True)},
    "everything": {
        "box": (10, 9, 8, 26, 24, 20),
        "scribbles": Scribble([(10, 9, 14), (20, 20, 14)]),
        "lassos": Lasso([(40, 9, 14), (44, 9, 14), (44, 22, 14)], label=0),
        "mask": make_image() > 150,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_opens_an_object_and_takes_clicks(ready: Predictor, kind: str) -> None:
    first = ready.predict(**KINDS[kind])
    assert first.mask.shape == ready.volume.shape
    points, labels = [(18, 16, 14), (45, 40, 35)], [1, 0]
    second = ready.predict(points=points, labels=labels, **KINDS[kind])
    assert [second.mask[p] for p in points] == labels
    assert_changed_box_holds(first.mask, second)
    at_once = ready.set_image(make_image(), spacing=(1.0, 1.2, 1.5)).predict(
        points=points, labels=labels, **KINDS[kind]
    )
    assert np.array_equal(at_once.mask, second.mask)


def test_strokes_are_added_in_any_order(ready: Predictor) -> None:
    lasso = Lasso([(10, 9, 14), (24, 9, 14), (24, 22, 14), (10, 22, 14)])
    scribble = Scribble([(30, 9, 14), (30, 20, 14)], label=0)
    first = ready.predict(lassos=lasso)
    calls = ready.encoder_calls
    second = ready.predict(scribbles=scribble, lassos=lasso)  # scribbles come first in the call, but it is the newer
    third = ready.predict(scribbles=scribble, lassos=lasso, points=[(15, 15, 14)])
    assert third.mask[15, 15, 14] == 1
    assert_changed_box_holds(first.mask, second)
    assert_changed_box_holds(second.mask, third)
    assert ready.encoder_calls - calls <= 8


def test_a_scribble_longer_than_a_tile_is_answered_along_all_of_it(predictor: Predictor) -> None:
    predictor.set_image(make_image((90, 30, 30)), spacing=1)
    line = Scribble([(4, 15, 15), (85, 15, 15)])
    drawn = predictor.predict(points=[(45, 15, 15)], scribbles=line).logits_lowres.canvas
    low, high = (drawn.lattice.from_level(end, drawn.level) for end in (drawn.low, drawn.high))
    assert low[0] <= 4
    assert high[0] >= 85


def test_only_excluding_prompts_are_refused_until_one_includes(ready: Predictor) -> None:
    before = ready.predict(points=[(20, 18, 15)])
    alone: list[dict[str, Any]] = [
        {"points": [(20, 18, 15), (5, 5, 5)], "labels": [0, 0]},
        {"scribbles": Scribble([(10, 9, 14), (20, 20, 14)], label=0)},
    ]
    for arguments in alone:
        with pytest.raises(ValueError, match="no prompt says where the object is.*add a point with label 1"):
            ready.predict(**arguments)
    again = ready.predict(points=[(20, 18, 15)])  # a refused call changes nothing
    assert np.array_equal(again.mask, before.mask)
    assert again.changed_box[0] == again.changed_box[1]
    result = ready.predict(points=[(5, 5, 5), (20, 18, 15)], labels=[0, 1])
    assert result.mask[5, 5, 5] == 0
    assert result.mask[20, 18, 15] == 1


def test_objects_larger_than_a_tile_are_drawn_in_one_piece(predictor: Predictor) -> None:
    predictor.set_image(make_image((100, 90, 80)), spacing=1)
    result = predictor.predict(box=(5, 5, 5, 95, 85, 75))
    canvas = result.logits_lowres.canvas
    assert canvas.lattice.level_spacing_mm(canvas.level) > 1
    low, high = (canvas.lattice.from_level(end, canvas.level) for end in (canvas.low, canvas.high))
    assert (low <= 5).all()
    assert (high >= (95, 85, 75)).all()
    filled = predictor.predict(mask=np.ones((100, 90, 80), np.uint8))
    assert filled.mask.shape == (100, 90, 80)


def test_objects_of_a_few_voxels_are_drawn_at_the_finest_level(predictor: Predictor) -> None:
    predictor.set_image(make_image((100, 90, 80)), spacing=1)
    tiny = np.zeros((100, 90, 80), bool)
    tiny[50:52, 40, 30] = True
    for arguments in ({"box": (50, 40, 30, 51, 41, 31)}, {"mask": tiny}):
        assert predictor.predict(**arguments).level_spacing_mm == 1
