"""A model that has just learnt two words finds the one that is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.quality import FEATURES

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


def test_names_have_a_calibration_of_their_own_and_clicks_keep_theirs(
    toy: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = [0.0] * (len(FEATURES) - 1)
    calibrated = replace(toy.model.config, score_calibration=(-1.0, *rest), named_score_calibration=(2.0, *rest))
    monkeypatch.setattr(toy.model, "config", calibrated)
    toy.set_image(draw_image(list(PLACES.values())), spacing=1)
    by_click, by_name = 1 / (1 + np.exp(1)), 1 / (1 + np.exp(-2))
    place = tuple(int(x) for x in PLACES["kidney"][0])
    assert toy.predict(points=[place], labels=[1]).score == pytest.approx(by_click)
    assert toy.predict(text="kidney").score == pytest.approx(by_name)
    assert toy.predict(text="kidney", points=[place], labels=[1]).score == pytest.approx(by_name)
    found = toy.segment_all(["kidney"])
    assert found.scores[1] == found.object("kidney").score == pytest.approx(by_name)
    assert found.object("kidney").logits_lowres.state.drawing.score != pytest.approx(by_name)
    monkeypatch.setattr(toy.model, "config", replace(calibrated, named_score_calibration=()))
    assert toy.predict(text="kidney").score == pytest.approx(by_click)
