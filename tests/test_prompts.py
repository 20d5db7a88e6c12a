"""Prompts: every kind, in every space and orientation, means one place; whatever does not fit is refused in words."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.prompts import Box, Lasso, Mask, Points, PromptSet, Scribble, Text
from promptseg.volume import Volume

from .conftest import ORIENTATIONS, affines, make_affine, make_array

SHAPE = (12, 10, 8)


def make_prompts(volume: Volume, **arguments: Any) -> PromptSet:
    return PromptSet.from_arguments(volume, **arguments)


@pytest.fixture
def volume() -> Volume:
    """Stored to the left, posterior and superior, as scanners do."""
    return Volume(make_array(SHAPE), make_affine("LPS", (1.0, 1.5, 2.0), (30, -20, 10)))


shares = st.tuples(*[st.floats(0.02, 0.98)] * 3)


def in_world(volume: Volume, voxels: Any, space: str) -> np.ndarray:
    return np.asarray(voxels, float) if space == "voxel" else volume.voxel_to_world(voxels, space)


@given(affines(), st.lists(shares, min_size=1, max_size=4), st.sampled_from(["ras", "lps"]))
def test_points_and_strokes_are_the_same_in_voxels_and_millimetres(
    affine: np.ndarray, places: list[tuple[float, ...]], space: str
) -> None:
    volume = Volume(make_array(SHAPE), affine)
    voxels = np.round(np.array(places) * SHAPE - 0.5, 3)
    both = [
        make_prompts(volume, points=p, scribbles=Scribble(p, radius_mm=1.5 * volume.spacing_mm.min()), space=s)
        for s in ("voxel", space)
        for p in [in_world(volume, voxels, s)]
    ]
    np.testing.assert_allclose(both[0].points, both[1].points, atol=1.1e-6)
    assert np.array_equal(volume.from_canonical_points(both[0].points).round(3), voxels + 0.0)
    assert len(both[0].strokes) == 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_kind_is_the_same_in_every_orientation(orientation: str) -> None:
    """Prompts given by millimetre on a body whose array is stored in any way."""
    reference = Volume(make_array(SHAPE), make_affine("RAS", (1.0, 1.5, 2.0)))
    volume = _turned(reference, orientation)
    assert volume.orientation == orientation
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 3:7, 1:3] = True
    voxels: dict[str, Any] = {
        "points": [(3, 4, 2), (8, 8, 6)],
        "line": [(2, 2, 2), (9, 7, 5), (9, 2, 2)],
        "contour": [(2, 2, 3), (9, 2, 3), (9, 7, 3), (2, 7, 3)],
    }
    for space in ("voxel", "ras", "lps"):
        found = []
        for image in (reference, volume):
            canonical = {k: image.from_canonical_points(np.array(v, float), space) for k, v in voxels.items()}
            corners = image.from_canonical_points(np.array([(1, 2, 3), (6, 7, 5)]) - 0.5, space)
            corners = corners + (0.5 if space == "voxel" else 0)
            found.append(
                make_prompts(
                    image,
                    points=canonical["points"],
                    labels=[1, 0],
                    box=(corners.min(axis=0), corners.max(axis=0)),
                    scribbles=[Scribble(canonical["line"], radius_mm=1.6), Scribble(canonical["line"], label=0)],
                    lassos=Lasso(canonical["contour"]),
                    mask=image.from_canonical_array(mask),
                    space=space,
                )
            )
        first, second = found
        np.testing.assert_allclose(first.points, second.points, atol=1.1e-6)
        assert first.labels.tolist() == second.labels.tolist() == [1, 0]
        for a, b, wanted in zip(first.boxes[0], second.boxes[0], ((1, 2, 3), (6, 7, 5)), strict=True):
            np.testing.assert_allclose(a, wanted, atol=1.1e-6)
            np.testing.assert_allclose(b, wanted, atol=1.1e-6)
        for a, b in zip(first.strokes, second.strokes, strict=True):
            assert a.kind == b.kind
            assert a.label == b.label
            assert {tuple(v) for v in a.voxels} == {tuple(v) for v in b.voxels}
        assert np.array_equal(first.mask, second.mask)  # type: ignore[arg-type]
        assert np.array_equal(first.mask_low, second.mask_low)
        assert first.mask_low.tolist() == [2, 3, 1]


def _turned(volume: Volume, orientation: str) -> Volume:
    """The same voxels in the same places of the body, stored in another orientation."""
    import nibabel as nib

    target = nib.orientations.axcodes2ornt(tuple(orientation))
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(volume.affine), target)
    array = nib.orientations.apply_orientation(volume.array, change)
    return Volume(array, volume.affine @ nib.orientations.inv_ornt_aff(change, volume.shape))


@given(affines(oblique=False, sheared=False), st.data())
def test_boxes_on_a_slice_are_the_same_in_voxels_and_millimetres(affine: np.ndarray, data: st.DataObject) -> None:
    volume = Volume(make_array(SHAPE), affine)
    axis = data.draw(st.integers(0, 2))
    low = np.array([data.draw(st.integers(0, n - 2)) for n in SHAPE], float)
    high = np.array([data.draw(st.integers(int(a) + 1, n - 1)) for a, n in zip(low, SHAPE, strict=True)], float)
    high[axis] = low[axis]
    by_voxel = make_prompts(volume, box=Box(low, high, axis=axis)).boxes[0]
    assert (by_voxel[1] - by_voxel[0] >= 1).all()
    canonical_axis = volume.permutation.index(axis)
    assert by_voxel[1][canonical_axis] - by_voxel[0][canonical_axis] == 1
    for space in ("ras", "lps"):
        faces = np.stack([low, high]) - 0.5
        faces[:, axis] = low[axis]
        world_mm = volume.voxel_to_world(faces, space)
        given_box = Box(world_mm.min(axis=0), world_mm.max(axis=0), axis=canonical_axis)
        by_mm = make_prompts(volume, box=given_box, space=space).boxes[0]
        for a, b in zip(by_voxel, by_mm, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_every_form_of_a_box_is_one(volume: Volume) -> None:
    low, high = (1, 2, 3), (6, 7, 5)
    forms: list[Any] = [
        (low, high), [*low, *high], np.array([low, high]), torch.tensor([*low, *high]), Box(low, high),
        [Box(low, high)], [(low, high)], [[*low, *high]], np.array([[low, high]]),
    ]  # fmt: skip
    expected = make_prompts(volume, box=Box(low, high)).boxes
    for form in forms:
        found = make_prompts(volume, box=form).boxes
        assert len(found) == 1, form
        assert np.array_equal(found, expected), form
    assert len(make_prompts(volume, box=[(low, high), Box((0, 0, 0), (2, 2, 2))]).boxes) == 2


def test_every_form_of_points_is_one(volume: Volume) -> None:
    expected = make_prompts(volume, points=[(1, 2, 3), (4, 5, 6)], labels=[1, 0])
    forms: list[dict[str, Any]] = [
        {"points": np.array([(1, 2, 3), (4, 5, 6)], np.int16), "labels": np.array([True, False])},
        {"points": torch.tensor([(1.0, 2, 3), (4, 5, 6)], requires_grad=True), "labels": torch.tensor([1, 0])},
        {"points": Points([(1, 2, 3), (4, 5, 6)], [1, 0])},
    ]
    for form in forms:
        found = make_prompts(volume, **form)
        assert np.array_equal(found.points, expected.points)
        assert found.labels.tolist() == [1, 0]
    one = make_prompts(volume, points=(1, 2, 3))
    assert one.points.shape == (1, 3)
    assert one.labels.tolist() == [1]


def test_every_form_of_strokes_is_one(volume: Volume) -> None:
    line = [(1, 2, 3), (6, 2, 3)]
    for form in (line, np.array(line), Scribble(line), [Scribble(line)], [line], [np.array(line)]):
        strokes = make_prompts(volume, scribbles=form).strokes
        assert [s.kind for s in strokes] == ["scribble"]
        assert sorted(strokes[0].voxels[:, 0].tolist()) == [5, 6, 7, 8, 9, 10]  # from the left: 11 - i
    two = make_prompts(volume, scribbles=[line, Scribble(line, label=0)], lassos=[(1, 1, 1), (5, 1, 1), (5, 5, 1)])
    assert [(s.kind, s.label) for s in two.strokes] == [("scribble", 1), ("scribble", 0), ("lasso", 1)]


def test_a_point_may_lie_anywhere_in_its_voxel(volume: Volume) -> None:
    faces = make_prompts(volume, points=[(-0.5, -0.5, -0.5), (11.5, 9.5, 7.5)]).points
    assert (np.rint(faces) >= 0).all()
    assert (np.rint(faces) < volume.canonical_shape).all()


def test_prompts_cannot_be_changed_once_made(volume: Volume) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Points([(1, 2, 3)]).coordinates[0] = 5
    mine = np.array([[1.0, 2.0, 3.0]])
    prompts = make_prompts(volume, points=mine)
    mine[:] = 99
    assert prompts.points.max() < 12


def test_a_mask_is_cut_to_its_voxels_and_copied(volume: Volume) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 3:7, 1:3] = 255
    prompts = make_prompts(volume, mask=mask)
    mask[:] = 1
    assert prompts.mask is not None
    assert prompts.mask.shape == (3, 4, 2)
    assert prompts.mask.all()
    assert prompts.mask_low.tolist() == [7, 3, 1]
    assert prompts.mask_box is not None
    assert prompts.mask_box[1].tolist() == [10, 7, 3]


def test_logits_keep_their_grid(volume: Volume) -> None:
    logits = np.full(SHAPE, -2.0)
    logits[2, 3, 1] = 4
    prompts = make_prompts(volume, mask=Mask(logits, is_logits=True))
    assert prompts.mask_is_logits
    assert prompts.mask is not None
    assert prompts.mask.shape == SHAPE
    assert prompts.mask_box is not None
    assert [end.tolist() for end in prompts.mask_box] == [[9, 6, 1], [10, 7, 2]]
    assert make_prompts(volume, mask=Mask(logits - 9, is_logits=True), points=(1, 1, 1)).mask_box is None


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float32", "float16"])
def test_masks_of_any_dtype(volume: Volume, dtype: str) -> None:
    mask = np.zeros(SHAPE)
    mask[2:5, 3:7, 1:3] = 1
    for given_mask in (mask.astype(dtype), torch.from_numpy(mask.astype(dtype)), np.asfortranarray(mask.astype(dtype))):
        found = make_prompts(volume, mask=given_mask).mask
        assert found is not None
        assert found.sum() == 24


def test_several_words_are_kept(volume: Volume) -> None:
    assert make_prompts(volume, text=["left kidney", Text(" liver ")]).text == ("left kidney", "liver")


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["no prompt: give at least one of points="]),
    ({"points": []}, ["no prompt"]),
    ({"points": [(12, 0, 0)]}, ["point 0, (12, 0, 0), lies outside", "(12, 10, 8)", "space='voxel'"]),
    ({"points": [(1, 1, 1), (0, -1, 0)]}, ["point 1, (0, -1, 0), lies outside"]),
    ({"points": [(7, 9, 11)]}, ["in the order k, j, i it would be inside"]),
    ({"points": [(25, -30, 20)]}, ["with space='ras' it would be inside"]),
    ({"points": [(25, -30, 20)], "space": "lps"}, ["lies outside", "mm (space='lps')", "with space='ras'"]),
    ({"points": [(1, 1, 1)], "space": "ras"}, ["lies outside", "reaches from", "mm", "with space='voxel'"]),
    ({"points": [(1, 1, 1)], "space": "mm"}, ["space='mm': expected one of 'voxel', 'ras', 'lps'"]),
    ({"points": [(1, 1)]}, ["points", "three numbers per point"]),
    ({"points": [[(1, 1, 1)]] * 2}, ["(2, 1, 3)", "expected (N, 3)"]),
    ({"points": [(1, 1, np.nan)]}, ["coordinate 0", "nan", "finite"]),
    ({"points": [(1, 1, np.inf)]}, ["inf", "finite"]),
    ({"points": "here"}, ["points", "'here'", "expected coordinates"]),
    ({"points": [(1, 1, 1)], "labels": [2]}, ["labels=[2]", "1 (include) or 0 (exclude)"]),
    ({"points": [(1, 1, 1)], "labels": [-1]}, ["labels=[-1]"]),
    ({"points": [(1, 1, 1)], "labels": [0.5]}, ["labels=[0.5]"]),
    ({"points": [(1, 1, 1)], "labels": ["in"]}, ["labels=['in']"]),
    ({"points": [(1, 1, 1)], "labels": [1, 0]}, ["1 points but 2 labels"]),
    ({"labels": [1]}, ["without points", "give points="]),
    ({"points": Points([(1, 1, 1)]), "labels": [1]}, ["beside Points", "one of the two"]),
    ({"points": [(1, 1, 1), (1.2, 1, 1)], "labels": [1, 0]}, ["points 0 and 1", "one voxel with labels 1 and 0"]),
    ({"box": (6, 2, 3, 1, 7, 5)}, ["inverted along axis 0", "smaller corner first"]),
    ({"box": (1, 2, 3, 1, 7, 5)}, ["empty along axis 0", "half-open"]),
    ({"box": (1, 2, 3, 4, 5)}, ["box=(1, 2, 3, 4, 5)", "six numbers"]),
    ({"box": 7}, ["box=7"]),
    ({"box": "all"}, ["box='all'"]),
    ({"box": (1, 2, np.nan, 4, 5, 6)}, ["box corner", "nan"]),
    ({"box": (20, 2, 3, 30, 7, 5)}, ["box (20, 2, 3) to (30, 7, 5)", "wholly outside"]),
    ({"scribbles": [(1, 1, 1), (20, 1, 1)]}, ["scribble 0: point 1, (20, 1, 1), lies outside"]),
    ({"scribbles": 5}, ["5: expected a Scribble"]),
    ({"lassos": [(1, 1, 1), (5, 1, 2), (5, 5, 3)]}, ["lasso 0", "do not lie on one slice", "5 x 5 x 3", "axis="]),
    ({"lassos": [(1, 1, 1), (5, 1, 1)]}, ["lasso contour", "2 points", "at least 3"]),
    ({"lassos": [(50, 50, 50), (51, 50, 50), (51, 51, 50)]}, ["lasso 0 at (50, 50, 50)", "outside the image"]),
    ({"lassos": [(1e9, 1, 1), (0, 1, 1), (0, 5, 1)]}, ["outside the image"]),
    ({"mask": np.zeros((12, 10, 9))}, ["(12, 10, 9)", "(12, 10, 8)", "resample or transpose"]),
    ({"mask": np.zeros((8, 10, 12))}, ["(8, 10, 12)", "transpose"]),
    ({"mask": np.zeros((12, 10))}, ["(12, 10)", "expected an (I, J, K)"]),
    ({"mask": np.zeros(SHAPE)}, ["0 everywhere", "no other prompt"]),
    ({"mask": make_array(SHAPE)}, ["several values", "labels == 1"]),
    ({"mask": make_array(SHAPE) - 5}, ["values down to -5", "is_logits=True"]),
    ({"mask": np.full(SHAPE, np.nan)}, ["mask", "nan"]),
    ({"mask": "liver.nii.gz"}, ["mask", "array of numbers"]),
    ({"text": ""}, ["text=''", "expected a word"]),
    ({"text": 5}, ["text=5"]),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD)
def test_what_does_not_fit_is_refused_with_the_cure(
    volume: Volume, arguments: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        make_prompts(volume, **arguments)
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Box((0, 0, 0), (1, 1, 1), axis=3), "axis=3: expected 0, 1 or 2"),
        (lambda: Scribble([]), "has 0 points"),
        (lambda: Scribble([(1, 1, 1)], label=2), "scribble: label=2"),
        (lambda: Scribble([(1, 1, 1)], radius_mm=-1), "radius_mm=-1"),
        (lambda: Scribble([(1, 1, 1)], radius_mm=float("nan")), "radius_mm=nan"),
        (lambda: Lasso([(0, 0, 0), (1, 0, 0), (1, 1, 0)], label="in"), "lasso: label='in'"),  # type: ignore[arg-type]
        (lambda: Lasso([(0, 0, 0), (1, 0, 0), (1, 1, 0)], axis=-1), "axis=-1"),
        (lambda: Mask(np.zeros((2, 2, 2), complex)), "complex128"),
        (lambda: Mask(np.full((2, 2, 2), np.nan), is_logits=True), "contain NaN"),
        (lambda: Text("  "), "expected a word"),
    ],
)
def test_prompts_that_are_wrong_by_themselves_are_refused(make: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()


def test_a_brush_larger_than_the_image_is_refused(volume: Volume) -> None:
    with pytest.raises(ValueError, match="radius_mm=50 covers the whole image, whose longest side is 16 mm"):
        make_prompts(volume, scribbles=Scribble([(1, 1, 1)], radius_mm=50))


def test_a_box_on_a_slice_that_is_thick_is_refused(volume: Volume) -> None:
    with pytest.raises(ValueError, match="axis=2 says that it lies on one slice; leave axis out"):
        make_prompts(volume, box=Box((1, 1, 1), (5, 5, 5), axis=2))


def test_what_reaches_out_is_cut_off_and_reported(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        box = make_prompts(volume, box=(-5, 2, 3, 4, 70, 5)).boxes[0]
    assert (box[1] <= volume.canonical_shape).all()
    assert "reaches out of the image of shape (12, 10, 8)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        lasso = make_prompts(volume, lassos=[(-5, 2, 3), (5, 2, 3), (5, 7, 3), (-5, 7, 3)]).strokes[0]
    assert (lasso.voxels < volume.canonical_shape).all()
    assert "lasso 0 reaches out" in caplog.text


def test_an_empty_mask_beside_other_prompts_is_reported(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert make_prompts(volume, mask=np.zeros(SHAPE, bool), points=(1, 1, 1)).mask is None
    assert "0 everywhere" in caplog.text


@settings(max_examples=30)
@given(affines(), st.integers(0, 2), shares)
def test_a_lasso_in_millimetres_lies_on_one_slice(affine: np.ndarray, axis: int, centre: tuple[float, ...]) -> None:
    """Drawn in the array's plane and given in mm, whatever way the array lies in space."""
    volume = Volume(make_array(SHAPE), affine)
    middle = np.rint(np.array(centre) * (np.array(SHAPE) - 1))
    offsets = np.zeros((4, 3))
    plane = [a for a in range(3) if a != axis]
    offsets[:, plane] = [(-2, -2), (2, -2), (2, 2), (-2, 2)]
    contour = np.clip(middle + offsets, 0, np.array(SHAPE) - 1)
    found = [
        make_prompts(volume, lassos=Lasso(in_world(volume, contour, s)), space=s).strokes[0]
        for s in ("voxel", "ras", "lps")
    ]
    canonical_axis = volume.permutation.index(axis)
    for stroke in found:
        assert len(set(stroke.voxels[:, canonical_axis])) == 1
        assert {tuple(v) for v in stroke.voxels} == {tuple(v) for v in found[0].voxels}
        assert all(tuple(k) in {tuple(v) for v in stroke.voxels} for k in stroke.key_points.astype(int))
