"""The predictor, whatever its weights: where the answer lies, what a click costs, and what it may change."""

from __future__ import annotations

import copy
import itertools
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg import Predictor
from promptseg.models import ModelConfig, PromptableModel
from promptseg.prediction import Prediction
from promptseg.predictor import embedding_bytes
from promptseg.prompts import Box, Lasso, Mask, Scribble

from .conftest import ORIENTATIONS, make_affine

CONFIG = ModelConfig(
    name="random", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), num_levels=4, text_dim=6,
)  # fmt: skip


def make_predictor(seed: int = 0, **options: Any) -> Predictor:
    """Random weights; they draw something around each click."""
    torch.manual_seed(seed)
    return Predictor(PromptableModel(CONFIG), dtype=torch.float32, device="cpu", **options)


def make_image(shape: tuple[int, ...] = (50, 44, 40), seed: int = 0) -> np.ndarray:
    """Noise with a bright block."""
    image = np.random.default_rng(seed).normal(100, 10, shape)
    image[tuple(slice(n // 4, n // 2 + 1) for n in shape)] += 100
    return image.astype(np.int16)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """One for all tests that set their own image."""
    return make_predictor()


@pytest.fixture
def ready(predictor: Predictor) -> Predictor:
    """With an image of several tiles and levels."""
    return predictor.set_image(make_image(), spacing=(1.0, 1.2, 1.5))


def differs_in(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    places = np.argwhere(first != second)
    return (places.min(axis=0), places.max(axis=0) + 1) if len(places) else None


def assert_changed_box_holds(before: np.ndarray, result: Prediction) -> None:
    changed = differs_in(before, result.mask)
    low, high = (np.array(end) for end in result.changed_box)
    assert (low >= 0).all()
    assert (high <= before.shape).all()
    if changed is not None:
        assert (low <= changed[0]).all()
        assert (high >= changed[1]).all()


# ---------------------------------------------------------------------------------------------- where the answer lies


def test_every_kind_of_image_gives_the_same_answer(predictor: Predictor, tmp_path: Path) -> None:
    array = make_image((30, 26, 20))
    affine = make_affine("LPS", (1.0, 1.5, 2.0), (10, -20, 30))
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)  # type: ignore[attr-defined]
    itk = sitk.GetImageFromArray(array.T)
    itk.SetSpacing((1.0, 1.5, 2.0))
    itk.SetOrigin((-10.0, 20.0, 30.0))
    images: list[tuple[Any, dict[str, Any]]] = [
        (path, {}),
        (str(path), {}),
        (array, {"affine": affine}),
        (torch.from_numpy(array), {"affine": torch.from_numpy(affine)}),
        (nib.Nifti1Image(array, affine), {}),  # type: ignore[attr-defined]
        (itk, {}),
    ]
    masks = []
    for image, arguments in images:
        assert predictor.set_image(image, **arguments) is predictor
        result = predictor.predict(points=[(10, 9, 8)])
        assert result.mask.shape == array.shape
        assert result.mask.dtype == np.uint8
        saved = nib.load(result.save(tmp_path / "mask.nii.gz"))  # type: ignore[attr-defined]
        assert np.array_equal(saved.affine, affine)
        assert np.array_equal(np.asarray(saved.dataobj), result.mask)
        masks.append(result.mask)
    assert all(np.array_equal(masks[0], m) for m in masks)
    assert masks[0].any()


def test_all_48_orientations_give_the_same_mask_turned(predictor: Predictor) -> None:
    """The same body, its array stored every way there is; clicks by voxel and by millimetre."""
    array = make_image((22, 19, 14))
    affine = make_affine("RAS", (1.0, 1.3, 1.6), (7, -8, 9), turn=(0.1, -0.05, 0.2))
    clicks = np.array([(9, 8, 6), (3, 3, 3)])
    labels = [1, 0]
    expected = predictor.set_image(array, affine=affine).predict(clicks, labels)
    world_mm = predictor.volume.voxel_to_world(clicks, "lps")
    orders = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    assert len(orders) == len(ORIENTATIONS)
    for number, (order, signs) in enumerate(orders):
        turned = array.transpose(order)[tuple(slice(None, None, s) for s in signs)]
        matrix = np.eye(4)
        matrix[:3, :3] = 0
        for axis, (source, sign) in enumerate(zip(order, signs, strict=True)):
            matrix[source, axis] = sign
            matrix[source, 3] = array.shape[source] - 1 if sign < 0 else 0
        turned_affine = affine @ matrix
        predictor.set_image(np.ascontiguousarray(turned) if number % 2 else turned, affine=turned_affine)
        if number % 2:
            result = predictor.predict(world_mm, labels, space="lps")
        else:
            voxels = (clicks - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
            result = predictor.predict(np.rint(voxels), labels)
        wanted = expected.mask.transpose(order)[tuple(slice(None, None, s) for s in signs)]
        assert np.array_equal(result.mask, wanted), (order, signs)
        assert result.score == pytest.approx(expected.score, abs=1e-5)
    assert expected.mask.any()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((30, 28, 1), (1.0, 1.0, 5.0)),  # one slice
        ((1, 40, 36), (0.5, 0.5, 0.5)),
        ((7, 5, 6), (1.0, 1.0, 1.0)),  # smaller than a tile
        ((2, 1, 1), (1.0, 1.0, 1.0)),
        ((120, 9, 8), (1.0, 1.0, 1.0)),  # a rod
        ((40, 40, 9), (0.4, 0.4, 6.0)),  # anisotropic
        ((40, 30, 20), (3e-4, 3e-4, 1e-3)),  # microscopy
    ],
)
def test_images_of_any_shape(predictor: Predictor, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> None:
    predictor.set_image(make_image(shape), spacing=spacing)
    corners = [(0, 0, 0), tuple(n - 1 for n in shape)]
    for click in {*corners, tuple(n // 2 for n in shape)}:
        result = predictor.predict(points=[click])
        assert result.mask.shape == shape
        assert result.mask[click] == 1
        assert 0 <= result.score <= 1
        assert 0 <= result.presence <= 1
    result = predictor.predict(points=corners, labels=[1, 0])
    assert result.mask[corners[0]] == 1
    assert result.mask[corners[1]] == 0


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", "bool"])
def test_images_of_any_dtype(predictor: Predictor, dtype: str) -> None:
    image = make_image((20, 20, 20))
    array = image > 150 if dtype == "bool" else image.clip(0, 255).astype(dtype)
    assert predictor.set_image(array, spacing=1).predict(points=[(8, 8, 8)]).mask[8, 8, 8] == 1


def test_voxels_that_are_not_finite_are_reported_and_do_no_harm(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_image((20, 20, 20)).astype(np.float32)
    image[0, 0, :3] = np.nan
    image[1, 1, 1] = np.inf
    with caplog.at_level(logging.WARNING):
        result = predictor.set_image(image, spacing=1).predict(points=[(8, 8, 8)])
    assert "4 of 8000 voxels were NaN or infinite" in caplog.text
    assert predictor.volume.nonfinite_count == 4
    assert np.isfinite(result.logits_lowres.array).all()
    assert np.isfinite(result.score)


def test_a_bad_image_is_refused_and_the_last_one_stays(ready: Predictor) -> None:
    before = ready.predict(points=[(20, 18, 15)]).mask
    with pytest.raises(ValueError, match="every voxel is 3"):
        ready.set_image(np.full((5, 6, 7), 3), spacing=1)
    with pytest.raises(ValueError, match="2 axes"):
        ready.set_image(np.zeros((5, 6)), spacing=1)
    assert np.array_equal(ready.predict(points=[(20, 18, 15)]).mask, before)


# ------------------------------------------------------------------------------------------------- what a click costs


def test_a_second_click_nearby_encodes_nothing(ready: Predictor) -> None:
    ready.cache.clear()
    first = ready.predict(points=[(20, 18, 15)])
    assert first.encoder_calls >= 2  # every zoom level that can hold it
    calls = ready.encoder_calls
    for near in ((21, 18, 15), (20, 20, 16), (18, 17, 14)):
        result = ready.predict(points=[(20, 18, 15), near], labels=[1, 0])
        assert result.encoder_calls == 0
    assert ready.predict(points=[(20, 18, 15)]).encoder_calls == 0
    assert ready.encoder_calls == calls


def test_switching_between_images_encodes_each_once(predictor: Predictor) -> None:
    predictor.cache.clear()
    images = [make_image((30, 30, 30), seed) for seed in (1, 2)]
    calls = [predictor.set_image(i, spacing=1).predict([(15, 15, 15)]).encoder_calls for i in images]
    again = [predictor.set_image(i, spacing=1).predict([(15, 15, 15)]).encoder_calls for i in images]
    assert min(calls) > 0
    assert again == [0, 0]
    moved = predictor.set_image(images[0], affine=make_affine(origin=(1, 0, 0)))  # another place is another image
    assert moved.predict([(15, 15, 15)]).encoder_calls > 0


def test_embeddings_on_disk_serve_the_next_process_but_not_other_weights(tmp_path: Path) -> None:
    image = make_image((30, 30, 30))
    first = make_predictor(cache_dir=tmp_path).set_image(image, spacing=1).predict([(15, 15, 15)])
    second = make_predictor(cache_dir=tmp_path).set_image(image, spacing=1).predict([(15, 15, 15)])
    assert (first.encoder_calls > 0, second.encoder_calls) == (True, 0)
    assert np.array_equal(first.mask, second.mask)
    other = make_predictor(seed=1, cache_dir=tmp_path).set_image(image, spacing=1)
    assert other.predict([(15, 15, 15)]).encoder_calls > 0
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-50])
    third = make_predictor(cache_dir=tmp_path).set_image(image, spacing=1).predict([(15, 15, 15)])
    assert third.encoder_calls == first.encoder_calls
    assert np.array_equal(first.mask, third.mask)


def test_precompute_leaves_only_the_decoder(predictor: Predictor) -> None:
    predictor.set_image(make_image(seed=3), spacing=1)
    predictor.cache.clear()
    total = sum(len(predictor.lattice.all_tiles(level)) for level in range(predictor.lattice.num_levels))
    assert predictor.precompute(progress=False) == total
    assert predictor.encoder_calls == total
    for click in ((0, 0, 0), (49, 43, 39), (25, 20, 10)):
        assert predictor.predict(points=[click]).encoder_calls == 0


def test_precompute_in_the_background_lets_clicks_through(predictor: Predictor) -> None:
    predictor.set_image(make_image(seed=4), spacing=1)
    predictor.cache.clear()
    future = predictor.precompute(background=True)
    assert not isinstance(future, int)
    result = predictor.predict(points=[(20, 20, 20)])
    assert result.mask[20, 20, 20] == 1
    assert future.result(timeout=300) == len(predictor.cache)
    assert predictor.predict(points=[(40, 40, 30)]).encoder_calls == 0


def test_precompute_stops_when_the_image_changes(predictor: Predictor) -> None:
    predictor.set_image(make_image((90, 90, 90), seed=5), spacing=1)
    predictor.cache.clear()
    future = predictor.precompute(background=True)
    assert not isinstance(future, int)
    predictor.set_image(make_image((20, 20, 20)), spacing=1)
    assert future.result(timeout=300) < 125
    assert predictor.predict(points=[(8, 8, 8)]).mask[8, 8, 8] == 1


def test_precompute_chooses_levels_and_counts(predictor: Predictor) -> None:
    predictor.set_image(make_image(seed=6), spacing=1)
    predictor.cache.clear()
    top = predictor.lattice.num_levels - 1
    assert predictor.precompute(levels=[top], progress=False) == 1
    assert predictor.precompute(levels=[0], max_tiles=3, progress=False) == 3
    assert predictor.precompute(levels=[], progress=False) == 0
    with pytest.raises(ValueError, match=rf"levels=\[{top + 1}\]: this image has levels 0 to {top}"):
        predictor.precompute(levels=[0, top + 1])


def test_precompute_says_what_the_cache_could_keep() -> None:
    torch.manual_seed(0)
    size = embedding_bytes(PromptableModel(CONFIG))
    predictor = make_predictor(cache_bytes=int(3.5 * size)).set_image(make_image(), spacing=1)
    assert predictor.precompute(progress=False) == 3  # all that fit, the coarsest first
    assert predictor.precompute(levels=[0], progress=False) == 3  # more were asked for than fit
    assert predictor.cache.num_bytes <= predictor.cache.max_bytes


def test_the_size_of_an_embedding_is_known_before(ready: Predictor) -> None:
    ready.cache.clear()
    ready.precompute(levels=[0], max_tiles=2, progress=False)
    assert ready.cache.num_bytes == pytest.approx(2 * embedding_bytes(ready.model), rel=0.01)


def test_nothing_of_the_images_size_is_held_in_float(predictor: Predictor) -> None:
    image = np.zeros((400, 300, 300), dtype=np.int16)
    image[100:150, 100:150, 100:150] = 100
    model = copy.deepcopy(predictor.model)
    with torch.no_grad():
        for weights in model.mask_decoder.mask_weights:  # a small object: masks are held in bytes
            weights.fc2.bias[-1] = -20.0
    predictor = Predictor(model)
    tracemalloc.start()
    predictor.set_image(image, spacing=1)
    predictor.predict(points=[(120, 120, 120)])
    predictor.predict(points=[(120, 120, 120), (170, 60, 60)], labels=[1, 0])
    peak = tracemalloc.get_traced_memory()[1]  # numpy's, which all that is read passes through
    tracemalloc.stop()
    assert peak < image.nbytes / 2


# --------------------------------------------------------------------------------------------- what a click may change

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


# ----------------------------------------------------------------------------------------------------- going on from it


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


# ------------------------------------------------------------------------------------------------- without an image


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
