"""The quality estimate: from what is known of an answer to a number that means IoU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.canvas import Canvas
from promptseg.models import ModelConfig, PromptableModel
from promptseg.quality import FEATURES, calibrated_score, fit_calibration, quality_features
from promptseg.tiles import TileLattice

LATTICE = TileLattice((64, 64, 64), (1.0, 1.0, 1.0), 32)


def _canvas(sharpness: float, radius: float = 8, size: int = 32) -> Canvas:
    """A ball whose logits rise by ``sharpness`` a voxel."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(size).float()] * 3, indexing="ij"))
    distance = (grid - size / 2).square().sum(dim=0).sqrt()
    return Canvas(LATTICE, 0, np.zeros(3, dtype=int), sharpness * (radius - distance))


def test_a_decided_mask_counts_as_surer_than_a_vague_one():
    decided, vague = (dict(zip(FEATURES, quality_features(_canvas(s), 0.5, 1), strict=True)) for s in (4.0, 0.1))
    assert decided["certainty"] > vague["certainty"]
    assert decided["overlap"] > vague["overlap"]
    assert decided["sharpness"] < vague["sharpness"]
    assert decided["estimate"] == vague["estimate"] == 0


def test_an_empty_or_unknown_canvas_has_finite_features():
    empty = _canvas(1.0, radius=-50)
    unknown = Canvas(LATTICE, 0, np.zeros(3, dtype=int), torch.full((32, 32, 32), torch.nan))
    for canvas in (empty, unknown):
        assert np.isfinite(quality_features(canvas, 0.0, 0)).all()


def test_a_large_canvas_is_sampled_and_gives_nearly_the_same():
    grid = quality_features(_canvas(1.0, radius=30, size=64), 0.7, 3)
    large = quality_features(_canvas(0.5, radius=60, size=128), 0.7, 3)  # the same, twice as fine
    assert abs(grid[FEATURES.index("certainty")] - large[FEATURES.index("certainty")]) < 0.1


def test_a_calibration_is_found_again_from_its_own_answers():
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(400), rng.normal(size=(400, len(FEATURES) - 1))])
    truth = np.array([0.3, 1.0, -0.5, 0.2, 0.7, -0.1, 0.4, 0.6])
    found = fit_calibration(features, 1 / (1 + np.exp(-features @ truth)), ridge=0.0)
    assert np.abs(np.array(found) - truth).max() < 1e-2


def test_without_a_calibration_the_estimate_of_the_decoder_stays():
    assert calibrated_score((), _canvas(1.0), 0.37, 2) == 0.37
    assert 0 <= calibrated_score((1000.0, *[0.0] * (len(FEATURES) - 1)), _canvas(1.0), 0.37, 2) <= 1
    assert calibrated_score((5.0, *[0.0] * (len(FEATURES) - 1)), _canvas(1.0, radius=-50), 0.37, 2) == 0.0


def test_a_box_counts_beside_its_number_and_not_in_a_calibration_that_was_made_without():
    canvas, earlier = _canvas(1.0), (0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    clicked, boxed, both = (calibrated_score((*earlier, 1.0), canvas, 0.5, *n) for n in ((1, 0), (1, 1), (2, 1)))
    assert clicked == calibrated_score(earlier, canvas, 0.5, 1, 1) < boxed
    assert calibrated_score(earlier, canvas, 0.5, 2) < both < boxed


def test_a_calibration_of_another_length_is_refused():
    with pytest.raises(ValueError, match="expected 7, 8 or none"):
        ModelConfig(score_calibration=(1.0, 2.0))
    with pytest.raises(ValueError, match="named_score_calibration of 1 numbers"):
        ModelConfig(named_score_calibration=(1.0,))


def test_a_prediction_tells_the_calibrated_score_and_keeps_the_estimate_beside_it():
    sizes = {"stem_channels": (8, 8, 8), "decoder_channels": (8, 8, 8), "embed_dim": 24, "depth": 1, "num_heads": 2}
    scores = {}
    for constant in (None, -1.0, 2.0):
        torch.manual_seed(0)
        calibration = () if constant is None else (constant, *[0.0] * (len(FEATURES) - 1))
        config = ModelConfig(tile_size=32, score_calibration=calibration, **sizes)  # type: ignore[arg-type]
        predictor = Predictor(PromptableModel(config), dtype=torch.float32)
        predictor.set_image(np.random.default_rng(0).normal(size=(32, 32, 32)))
        result = predictor.predict(points=[(16, 16, 16)], labels=[1])
        scores[constant] = result.score, result.logits_lowres.state.drawing.score
    estimates = {estimate for _, estimate in scores.values()}
    assert len(estimates) == 1 and scores[None][0] in estimates
    assert scores[-1.0][0] == pytest.approx(1 / (1 + np.exp(1))) and scores[2.0][0] == pytest.approx(
        1 / (1 + np.exp(-2))
    )
