"""Without an image, or with a prompt that the weights do not understand, the cure is named."""

from __future__ import annotations

import pytest

from promptseg import Predictor

from .conftest import make_image, make_predictor


def test_without_an_image_the_cure_is_named() -> None:
    predictor = make_predictor()
    for ask in (lambda: predictor.predict(points=[(0, 0, 0)]), predictor.precompute, lambda: predictor.volume):
        with pytest.raises(ValueError, match="no image is set: call set_image"):
            ask()
    predictor.set_image(make_image((20, 20, 20)), spacing=1).predict(points=[(8, 8, 8)])
    assert len(predictor.cache) > 0
    predictor.clear()
    assert len(predictor.cache) == 0
    with pytest.raises(ValueError, match="no image is set"):
        predictor.predict(points=[(8, 8, 8)])


def test_text_needs_weights_that_were_trained_with_it(ready: Predictor) -> None:
    with pytest.raises(ValueError, match="text='liver': weights 'random' were not trained with text; give a point"):
        ready.predict(text="liver")
