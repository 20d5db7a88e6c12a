"""A mask of the user's stays as it is but near what is clicked; an answer goes on with the prompts that made it."""

from __future__ import annotations

import numpy as np
import pytest

from promptseg import Predictor
from promptseg.object_state import History

from .conftest import assert_changed_box_holds, make_image


@pytest.mark.parametrize("shape", [(50, 44, 40), (150, 60, 60)])
def test_a_mask_alone_is_the_answer(predictor: Predictor, shape: tuple[int, ...]) -> None:
    predictor.set_image(make_image(shape), spacing=(1.0, 1.2, 1.5))
    mask = make_image(shape) > 150  # ragged: finer than any level draws
    result = predictor.predict(mask=mask)
    assert np.array_equal(result.mask > 0, mask)
    again = predictor.predict(mask=result.mask)
    assert np.array_equal(again.mask, result.mask)


@pytest.mark.parametrize("label", [1, 0])
def test_a_click_changes_a_mask_near_it_and_its_own_way_alone(predictor: Predictor, label: int) -> None:
    shape = (220, 40, 40)
    predictor.set_image(make_image(shape), spacing=1)
    mask = np.zeros(shape, dtype=bool)
    mask[10:210, 12:30:2, 12:30] = True
    place = (20, 35, 35) if label else (20, 20, 20)
    result = predictor.predict(mask=mask, points=[place], labels=[label])
    changed = (result.mask > 0) != mask
    assert result.mask[place] == label and changed[place]
    assert not changed[150:].any()
    assert (result.mask[changed] == label).all()
    assert_changed_box_holds(mask, result)


def test_an_answer_keeps_the_prompts_that_made_it(ready: Predictor) -> None:
    points, labels = [(20, 18, 15), (30, 20, 12)], [1, 0]
    first = ready.predict(points, labels)
    expected = ready.predict([*points, (25, 30, 20)], [1, 0, 1])
    ready.predict(points=[(5, 5, 5)])  # another object meanwhile
    alone = ready.predict([(25, 30, 20)], mask=first)
    assert np.array_equal(alone.mask, expected.mask)
    several = ready.predict([(25, 30, 20), (24, 31, 20)], [1, 0], mask=first)
    assert several.mask[20, 18, 15] == several.mask[25, 30, 20] == 1
    assert several.mask[30, 20, 12] == several.mask[24, 31, 20] == 0
    meant_otherwise = ready.predict([(30, 20, 12)], [1], mask=first)
    assert meant_otherwise.mask[30, 20, 12] == 1


def test_undoing_decodes_nothing_and_gives_the_answer_of_before(ready: Predictor) -> None:
    points, labels = [(20, 18, 15), (30, 20, 12), (25, 30, 20), (14, 20, 22)], [1, 0, 1, 0]
    answers = [ready.predict(points[:n], labels[:n]).mask for n in range(1, 5)]
    decode, calls = ready.model.decode, []
    ready.model.decode = lambda *a, **k: calls.append(1) or decode(*a, **k)  # type: ignore[method-assign]
    try:
        for count in (3, 1):
            assert np.array_equal(ready.predict(points[:count], labels[:count]).mask, answers[count - 1])
        assert not calls, "decoded again"
        assert np.array_equal(ready.predict(points, labels).mask, answers[-1])
        ready.predict([*points[:2], (12, 12, 12)], [*labels[:2], 1])
        assert calls
    finally:
        ready.model.decode = decode  # type: ignore[method-assign]


def test_a_history_is_bounded_and_forgotten_with_the_image(ready: Predictor) -> None:
    ready._history = History(max_states=3)
    for place in range(8, 16):
        ready.predict(points=[(place, 18, 15)])
    assert len(ready._history) == 3
    ready._history = History(max_bytes=1)
    ready.predict(points=[(20, 18, 15), (30, 20, 12)], labels=[1, 0])
    assert len(ready._history) == 1
    ready.set_image(make_image(seed=3), spacing=1)
    assert len(ready._history) == 0
