"""A model that has just learnt two words finds the one that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg import Predictor

from ..toy_text import KIDNEY, LIVER, draw_image, inside_ball, train_toy
from .conftest import dice

SHAPE = (28, 26, 24)
PLACES = {"kidney": (8.0, 8.0, 9.0), "liver": (19.0, 17.0, 14.0)}


@pytest.fixture(scope="module")
def toy() -> Predictor:
    """Trained for 60 steps."""
    return Predictor(train_toy(), dtype=torch.float32, device="cpu")


def test_words_select_what_they_mean_and_a_click_corrects_it(toy: Predictor) -> None:
    balls = [(PLACES["kidney"], 5.0, KIDNEY), (PLACES["liver"], 5.0, LIVER)]
    toy.set_image(draw_image(SHAPE, balls), spacing=1)
    truths = {name: inside_ball(SHAPE, place, 5.0) for name, place in PLACES.items()}
    for name, other in (("kidney", "liver"), ("liver", "kidney")):
        mask = toy.predict(text=name).mask > 0
        assert dice(mask, truths[name]) > 0.5, name
        assert dice(mask, truths[name]) > dice(mask, truths[other]) + 0.4, name
        corner = tuple(np.argwhere(mask)[0])
        corrected = toy.predict(text=name, points=[corner], labels=[0]).mask > 0
        assert not corrected[corner]
    found = toy.segment_all()
    assert dice(found.labels == 1, truths["kidney"]) > 0.5
    assert dice(found.labels == 2, truths["liver"]) > 0.5


def test_what_is_not_there_stays_empty(toy: Predictor) -> None:
    toy.set_image(draw_image(SHAPE, [(PLACES["kidney"], 5.0, KIDNEY)], seed=1), spacing=1)
    assert toy.predict(text="kidney").mask.sum() > 100
    assert toy.predict(text="liver").mask.sum() < 20
