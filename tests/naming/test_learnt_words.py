"""A model that has just learnt two words finds the one that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg import Predictor

from ..toy_text import KIDNEY, LIVER, Ball, draw_image, inside_ball, train_toy
from .conftest import dice

PLACES: dict[str, Ball] = {"kidney": ((5.0, 5.0, 6.0), 3.5, KIDNEY), "liver": ((11.0, 10.0, 9.0), 3.5, LIVER)}


@pytest.fixture(scope="module")
def toy() -> Predictor:
    """Trained for 60 steps."""
    return Predictor(train_toy(), dtype=torch.float32, device="cpu")


def test_words_select_what_they_mean_and_a_click_corrects_it(toy: Predictor) -> None:
    toy.set_image(draw_image(list(PLACES.values())), spacing=1)
    truths = {name: inside_ball(centre, radius) for name, (centre, radius, _) in PLACES.items()}
    for name, other in (("kidney", "liver"), ("liver", "kidney")):
        mask = toy.predict(text=name).mask > 0
        assert dice(mask, truths[name]) > 0.6, name
        assert dice(mask, truths[other]) < 0.2, name
        corner = tuple(np.argwhere(mask)[0])
        corrected = toy.predict(text=name, points=[corner], labels=[0]).mask > 0
        assert not corrected[corner]
    found = toy.segment_all()
    assert dice(found.labels == 1, truths["kidney"]) > 0.6
    assert dice(found.labels == 2, truths["liver"]) > 0.6


def test_what_is_not_there_stays_empty(toy: Predictor) -> None:
    toy.set_image(draw_image([PLACES["kidney"]], seed=1), spacing=1)
    assert toy.predict(text="kidney").mask.sum() > 80
    assert toy.predict(text="liver").mask.sum() < 40
