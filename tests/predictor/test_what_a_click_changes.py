"""What a click may change: every click is respected, and nothing changes elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg import Predictor

from .conftest import assert_changed_box_holds, make_image, make_predictor

clicks_strategy = st.lists(
    st.tuples(st.integers(0, 49), st.integers(0, 43), st.integers(0, 39), st.integers(0, 1)),
    min_size=1,
    max_size=5,
    unique_by=lambda c: c[:3],
)


@settings(max_examples=15)
@given(clicks_strategy)
def test_every_click_is_respected_under_any_weights(clicks: list[tuple[int, int, int, int]]) -> None:
    """At once and one by one, and outside the changed box nothing changes."""
    clicks = sorted(clicks, key=lambda c: -c[3])
    if not clicks[0][3]:
        clicks[0] = (*clicks[0][:3], 1)
    predictor = SHARED.set_image(IMAGE, spacing=(1.0, 1.2, 1.5))
    before = np.zeros(IMAGE.shape, np.uint8)
    for count in range(1, len(clicks) + 1):
        points, labels = [c[:3] for c in clicks[:count]], [c[3] for c in clicks[:count]]
        result = predictor.predict(points, labels)
        mask = result.mask
        assert [mask[p] for p in points] == labels
        assert_changed_box_holds(before, result)
        before = mask
    at_once = predictor.set_image(IMAGE, spacing=(1.0, 1.2, 1.5)).predict(points, labels)
    assert np.array_equal(at_once.mask, before)
    assert at_once.score == pytest.approx(result.score, abs=1e-5)


SHARED = make_predictor()
IMAGE = make_image()


def test_clicks_between_voxels_count_for_the_voxel_they_are_in(ready: Predictor) -> None:
    result = ready.predict(points=[(20.4, 18.3, 14.6), (30.45, 18.2, 15.4)], labels=[1, 0])
    assert result.mask[20, 18, 15] == 1
    assert result.mask[30, 18, 15] == 0


def test_neighbouring_voxels_may_disagree(ready: Predictor) -> None:
    points = [(20, 18, 15), (21, 18, 15), (20, 19, 15), (20, 18, 16), (19, 18, 15)]
    result = ready.predict(points=points, labels=[1, 0, 1, 0, 0])
    assert [result.mask[p] for p in points] == [1, 0, 1, 0, 0]


def test_the_same_prompts_again_change_nothing(ready: Predictor) -> None:
    arguments: dict[str, Any] = {"points": [(20, 18, 15), (30, 20, 12)], "labels": [1, 0]}
    first = ready.predict(**arguments)
    again = ready.predict(**arguments)
    assert np.array_equal(first.mask, again.mask)
    low, high = again.changed_box
    assert low == high
    assert again.encoder_calls == 0


def test_fewer_prompts_undo_the_last(ready: Predictor) -> None:
    points, labels = [(20, 18, 15), (30, 20, 12), (25, 30, 20)], [1, 0, 1]
    masks = [ready.predict(points[:n], labels[:n]).mask for n in (1, 2, 3)]
    for n in (2, 1):
        result = ready.predict(points[:n], labels[:n])
        assert np.array_equal(result.mask, masks[n - 1])
        assert_changed_box_holds(masks[n], result)
