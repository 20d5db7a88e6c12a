"""Where the answer lies: on the image's own grid, whatever kind, orientation, shape and type it has."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from promptseg import Predictor

from ..conftest import ORIENTATIONS, make_affine
from .conftest import make_image


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


def test_a_mask_repeats_the_header_of_an_image_that_no_file_holds(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given as an object, by a path that has lost its meaning, or from a file that was written over."""
    affine = make_affine("LPS", (1.0, 1.5, 2.0), (10, -20, 30), turn=(0.1, -0.05, 0.2)).astype(np.float32)
    image: Any = nib.Nifti1Image(make_image((30, 26, 20)), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header["descrip"] = b"scanner"
    monkeypatch.chdir(tmp_path)
    nib.save(image, "image.nii.gz")  # type: ignore[attr-defined]
    for given in (image, "image.nii.gz"):
        predictor.set_image(given)
        result = predictor.predict(points=[(10, 9, 8)])
        Path("image.nii.gz").unlink(missing_ok=True)
        saved: Any = nib.load(result.save("mask.nii.gz"))  # type: ignore[attr-defined]
        assert (int(saved.header["sform_code"]), int(saved.header["qform_code"])) == (1, 1)
        assert saved.header["descrip"] == b"scanner"
        assert np.array_equal(saved.affine, affine)
        nib.save(image, "image.nii.gz")  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("orientation", ["LPS", "RAI", "SPL"])
def test_a_slice_whose_axis_runs_backwards_is_answered(predictor: Predictor, orientation: str, dtype: str) -> None:
    for axis in range(3):
        shape = tuple(1 if a == axis else 30 for a in range(3))
        predictor.set_image(make_image(shape).astype(dtype), affine=make_affine(orientation, (1.0, 1.0, 1.0)))
        click = tuple(n // 2 for n in shape)
        assert predictor.predict(points=[click]).mask[click] == 1


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


@pytest.mark.parametrize("scale", [1e36, 2.0**120, 2.0**-140])
def test_intensities_that_float32_does_not_hold_are_answered_as_any(predictor: Predictor, scale: float) -> None:
    array = make_image().astype(np.float64)
    masks = []
    for image in (array, array * scale):
        predictor.set_image(image, affine=np.eye(4))
        masks.append(predictor.predict(points=[(16, 14, 13), (3, 3, 3)], labels=[1, 0]).mask)
    assert masks[0].any()
    assert np.array_equal(*masks)
