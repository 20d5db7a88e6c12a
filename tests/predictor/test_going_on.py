"""Going on from an answer: logits handed back, alternatives, probabilities, and what is said of empty masks."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from promptseg import Predictor

from .conftest import assert_changed_box_holds, make_image, make_predictor


def test_logits_handed_back_go_on_as_the_predictor_does(ready: Predictor) -> None:
    points, labels = [(20, 18, 15), (30, 20, 12)], [1, 0]
    first = ready.predict(points[:1], labels[:1])
    expected = ready.predict(points, labels)
    ready.predict(points=[(5, 5, 5)])  # another object meanwhile
    for mask in (first, first.logits_lowres):
        result = ready.predict(points, labels, mask=mask)
        assert np.array_equal(result.mask, expected.mask)
        assert_changed_box_holds(first.mask, result)
    third = ready.predict([*points, (25, 30, 20)], [*labels, 1])  # and the predictor goes on from there
    assert third.mask[25, 30, 20] == 1
    assert_changed_box_holds(expected.mask, third)


def test_clicks_of_logits_handed_back_stay_respected_elsewhere(predictor: Predictor) -> None:
    predictor.set_image(make_image((150, 60, 60)), spacing=1)
    first = predictor.predict(points=[(20, 30, 30), (24, 30, 30)], labels=[1, 0], box=(5, 15, 15, 40, 45, 45))
    result = predictor.predict(points=[(36, 40, 40)], mask=first)
    assert result.mask[36, 40, 40] == 1
    assert_changed_box_holds(first.mask, result)


def test_logits_of_another_image_are_refused(predictor: Predictor) -> None:
    first = predictor.set_image(make_image((30, 30, 30), 7), spacing=1).predict(points=[(10, 10, 10)])
    with pytest.raises(ValueError, match="alone change nothing; add a point"):
        predictor.predict(mask=first)
    predictor.set_image(make_image((30, 30, 30), 8), spacing=1)
    with pytest.raises(ValueError, match="belong to another image or model"):
        predictor.predict(points=[(10, 10, 10)], mask=first.logits_lowres)


def test_a_mask_changed_in_place_is_a_new_mask(ready: Predictor) -> None:
    mask = make_image() > 150
    first = ready.predict(mask=mask, points=[(18, 16, 14)])
    mask[:] = False
    mask[30:40, 30:40, 25:35] = True
    second = ready.predict(mask=mask, points=[(18, 16, 14)])
    expected = (
        make_predictor().set_image(make_image(), spacing=(1.0, 1.2, 1.5)).predict(mask=mask, points=[(18, 16, 14)])
    )
    assert np.array_equal(second.mask, expected.mask)
    assert first.mask.shape == second.mask.shape


def test_a_new_object_changes_both_its_place_and_the_last_ones(ready: Predictor) -> None:
    first = ready.predict(box=(2, 2, 2, 12, 12, 12))
    second = ready.predict(box=(30, 28, 25, 44, 40, 36))
    assert_changed_box_holds(first.mask, second)
    assert_changed_box_holds(np.zeros_like(first.mask), second)


def test_probability_and_mask_agree(ready: Predictor) -> None:
    result = ready.predict(points=[(20, 18, 15), (21, 18, 15)], labels=[1, 0])
    low, high = result.mask_box
    assert np.array_equal(result.probability() > 0.5, result.mask[tuple(map(slice, low, high))] > 0)
    box = ((10, 8, 5), (31, 30, 33))
    probability = result.probability(box)
    assert probability.dtype == np.float32
    assert np.array_equal(probability > 0.5, result.mask[tuple(map(slice, *box))] > 0)
    assert 0 <= probability.min() <= probability.max() <= 1
    for bad in (((0, 0, 0), (0, 5, 5)), ((0, 0, 0), (51, 5, 5)), ((-1, 0, 0), (5, 5, 5)), ((0, 0), (5, 5))):
        with pytest.raises(ValueError, match="inside the image of shape"):
            result.probability(bad)  # type: ignore[arg-type]


def test_an_ambiguous_click_has_alternatives_that_respect_it(ready: Predictor) -> None:
    result = ready.predict(points=[(20, 18, 15)])
    assert len(result.scores) >= 2
    for number, score in enumerate(result.scores):
        assert 0 <= score <= 1
        alternative = result.alternative(number)
        assert alternative.shape == result.mask.shape
        assert alternative[20, 18, 15] == 1
    with pytest.raises(ValueError, match=f"this prediction has {len(result.scores)}"):
        result.alternative(len(result.scores))
    settled = ready.predict(points=[(20, 18, 15), (30, 20, 12)], labels=[1, 0])
    assert len(settled.scores) == 1
    assert np.array_equal(settled.alternative(0), settled.mask)


def test_volume_and_box_measure_the_mask(ready: Predictor) -> None:
    result = ready.predict(points=[(20, 18, 15)])
    assert result.volume_ml == pytest.approx(result.mask.sum() * 1.0 * 1.2 * 1.5 / 1000)
    places = np.argwhere(result.mask)
    assert result.mask_box == (tuple(places.min(axis=0)), tuple(places.max(axis=0) + 1))


def test_an_empty_answer_is_reported(ready: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    with torch.no_grad():
        bias = ready.model.mask_decoder.mask_weights[0].fc2.bias
        before = bias.clone()
        bias[-1] = -50.0
    try:
        with caplog.at_level(logging.WARNING):
            result = ready.predict(box=(10, 9, 8, 26, 24, 20))
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert not result.mask.any()
    assert result.mask_box[0] == result.mask_box[1]
    assert result.probability().size == 0
    assert result.volume_ml == 0
    assert "the mask is empty" in caplog.text
    assert "add a point" in caplog.text


def test_a_result_is_a_key_and_one_line(ready: Predictor) -> None:
    first = ready.predict(points=[(14, 12, 11)])
    second = ready.predict(points=[(14, 12, 11)])
    assert {first: 1, second: 2}[first] == 1
    assert first == first
    assert first != second
    assert len({first.logits_lowres, second.logits_lowres}) == 2
    shape = " x ".join(map(str, ready.volume.shape))
    assert repr(first) == f"Prediction({first.volume_ml:.4g} ml, score {first.score:.2f}, of {shape} voxels)"
    assert "\n" not in repr(first.logits_lowres)
