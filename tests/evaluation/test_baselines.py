"""Classical baselines on a phantom that each of them must get right, and where their parameters come from."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from promptseg.evaluation.baselines import BASELINES, TUNED_PATH, ClassicalSegmenter, tuned_parameters
from promptseg.evaluation.metrics import dice
from promptseg.evaluation.prompts import ObjectPrompts, Stroke
from promptseg.evaluation.registry import parse_spec
from promptseg.evaluation.segmenters import InteractiveSegmenter
from promptseg.evaluation.working_grid import WorkingGrid

from .conftest import ball, make_image

SHAPE, SPACING, CENTRE = (34, 28, 15), (1.0, 1.0, 2.0), (13, 13, 7)
TRUTH = ball(SHAPE, CENTRE, 7.5, SPACING)
OTHER = (27, 13, 7)
IMAGE = make_image(
    (np.random.default_rng(0).normal(40, 6, SHAPE) + 80 * TRUTH + 80 * ball(SHAPE, OTHER, 4.0, SPACING)).astype(
        np.float32
    ),
    SPACING,
)
"""A bright ball beside a smaller one of the same intensity."""
LOOKING = sorted(set(BASELINES) - {"box-as-mask"})
LEAST_DICE = {"random-walker": 0.8, "region-growing": 0.8, "fast-marching": 0.35}
"""Of one click. The front of fast marching stops a voxel or two short of an edge as sharp as this."""


def made(name: str) -> ClassicalSegmenter:
    segmenter = BASELINES[name].tuned(name)
    segmenter.set_image(IMAGE)
    segmenter.start_object()
    return segmenter


def clicks(*places: tuple[int, int, int], labels: tuple[int, ...] = ()) -> ObjectPrompts:
    return ObjectPrompts(np.array(places), np.array(labels or [1] * len(places)))


def bounds() -> tuple[np.ndarray, np.ndarray]:
    voxels = np.argwhere(TRUTH)
    return voxels.min(axis=0), voxels.max(axis=0) + 1


@pytest.mark.parametrize("name", LOOKING)
def test_one_click_on_a_bright_ball_finds_it(name: str) -> None:
    mask = made(name).predict(clicks(CENTRE)).mask
    assert dice(TRUTH, mask) > LEAST_DICE[name]
    assert (mask & TRUTH).sum() > 0.75 * mask.sum()


@pytest.mark.parametrize("name", LOOKING)
def test_a_box_around_a_bright_ball_finds_it(name: str) -> None:
    mask = made(name).predict(ObjectPrompts(box=bounds())).mask
    assert dice(TRUTH, mask) > 0.8
    outside = np.ones(SHAPE, bool)
    low, high = bounds()
    outside[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = False
    assert not mask[outside].any()


def test_box_as_mask_is_the_box() -> None:
    mask = made("box-as-mask").predict(ObjectPrompts(box=bounds())).mask
    low, high = bounds()
    assert int(mask.sum()) == int(np.prod(high - low))
    assert mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]].all()


def test_box_as_mask_is_a_ball_in_millimetres_around_a_click() -> None:
    mask = made("box-as-mask").predict(clicks(CENTRE)).mask
    radius = tuned_parameters("box-as-mask")["radius_mm"]
    assert dice(ball(SHAPE, CENTRE, radius, SPACING), mask) > 0.95


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_every_click_and_stroke_is_respected_and_asking_again_gives_the_same(name: str) -> None:
    segmenter = made(name)
    prompts = clicks(CENTRE, (13, 13, 10), OTHER, (2, 2, 2), labels=(1, 0, 0, 1)).with_stroke(
        Stroke(np.array([[11, 13, 7], [12, 13, 7]]), 1)
    )
    mask = segmenter.predict(prompts).mask
    voxels, labels = prompts.marked_voxels()
    assert (mask[tuple(voxels.T)] == labels.astype(bool)).all()
    np.testing.assert_array_equal(mask, segmenter.predict(prompts).mask)


@pytest.mark.parametrize("name", LOOKING)
def test_an_excluding_click_takes_away_what_is_around_it(name: str) -> None:
    both = clicks(CENTRE, OTHER)
    with_other = made(name).predict(both).mask
    without = made(name).predict(clicks(CENTRE, OTHER, labels=(1, 0))).mask
    other = ball(SHAPE, OTHER, 3.0, SPACING)
    assert (with_other & other).sum() > (without & other).sum()
    assert dice(TRUTH, without) > LEAST_DICE[name] - 0.1


@pytest.mark.parametrize("name", LOOKING)
def test_a_mask_to_go_on_from_is_kept_in_its_middle(name: str) -> None:
    start = ball(SHAPE, CENTRE, 10.0, SPACING)
    mask = made(name).predict(ObjectPrompts(mask=start).with_point((13, 13, 11), 0)).mask
    assert mask[CENTRE]
    assert not mask[13, 13, 11]
    assert not mask[OTHER]


@pytest.mark.parametrize("name", sorted(BASELINES))
@pytest.mark.parametrize("place", [(0, 0, 0), (33, 27, 14)])
def test_a_click_in_the_images_corner_and_an_image_of_one_value_are_no_error(
    name: str, place: tuple[int, int, int]
) -> None:
    segmenter = made(name)
    segmenter.set_image(make_image(np.zeros(SHAPE, np.int16), SPACING))
    assert segmenter.predict(clicks(place)).mask[place]
    assert not segmenter.predict(clicks(place, labels=(0,))).mask[place]


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_run_with_the_parameters_that_were_tuned_on_the_training_fold(name: str) -> None:
    segmenter = parse_spec(name).build()
    assert isinstance(segmenter, InteractiveSegmenter)
    assert isinstance(segmenter, BASELINES[name])
    assert segmenter.parameters() == tuned_parameters(name)
    content = json.loads(TUNED_PATH.read_text())
    assert content["how"]["fold"] == "train"
    found = content["baselines"][name]
    assert found["clicks_dice"] >= found["untuned_clicks_dice"]


def tuning_script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "tune_baselines.py"
    spec = importlib.util.spec_from_file_location("tune_baselines", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def test_tuned_values_are_of_the_grids_that_the_script_searches() -> None:
    grids = tuning_script().GRIDS
    assert set(grids) == set(BASELINES)
    for name, method in BASELINES.items():
        untuned, tuned = method().parameters(), tuned_parameters(name)
        for parameter, value in tuned.items():
            assert value in [untuned[parameter], *grids[name].get(parameter, [])], f"{name}: {parameter}={value}"


def test_tuning_finds_the_better_of_two_values(monkeypatch: pytest.MonkeyPatch) -> None:
    script = tuning_script()
    monkeypatch.setitem(script.GRIDS, "box-as-mask", {"radius_mm": [2.0, 7.5]})
    from .conftest import make_target

    samples = [script.Sample("set", IMAGE, make_target(TRUTH, SPACING))]
    found = script.tune("box-as-mask", samples, clicks=1)
    assert found["parameters"]["radius_mm"] == 7.5
    assert found["clicks_dice"] > 0.95 > found["untuned_clicks_dice"]


def test_the_working_grid_is_bounded_and_comes_back_to_the_image() -> None:
    image = make_image(TRUTH.astype(np.float32), SPACING)
    prompts = clicks(CENTRE)
    fine = WorkingGrid.around(image, prompts, 100.0, 10**6)
    np.testing.assert_array_equal(fine.to_image(fine.image, SHAPE), TRUTH)
    coarse = WorkingGrid.around(image, prompts, 100.0, 4000)
    assert np.prod(coarse.shape) <= 4000
    np.testing.assert_allclose(coarse.spacing_mm, coarse.factors * SPACING)
    assert dice(TRUTH, coarse.to_image(coarse.image, SHAPE)) > 0.85
    assert tuple(coarse.to_grid(np.array([CENTRE]))[0]) == tuple((np.array(CENTRE) - coarse.low) // coarse.factors)
