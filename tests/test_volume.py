"""Geometry: every way between native voxels, canonical voxels and the world, and back."""

from __future__ import annotations

import logging
import subprocess
import sys
import tracemalloc
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptseg.volume import SPACES, Volume

from .conftest import ORIENTATIONS, MakeVolume, make_affine, make_array, volumes

fractions = st.lists(st.tuples(*[st.floats(-0.5, 1.5)] * 3), min_size=1, max_size=5)


def all_voxels(shape: tuple[int, ...]) -> np.ndarray:
    return np.argwhere(np.ones(shape, dtype=bool))


def assert_close_vox(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_orientation_turns_to_ras(orientation: str, make_volume: MakeVolume) -> None:
    volume = make_volume(
        (3, 4, 5), orientation=orientation, spacing=(0.7, 1.1, 4.0), origin=(-3, 5, 9), turn=(0.1, 0.2, -0.1)
    )
    assert volume.orientation == orientation
    native = all_voxels(volume.shape)
    canonical = volume.to_canonical_points(native)
    assert np.array_equal(volume.canonical_array[tuple(canonical.astype(int).T)], volume.array[tuple(native.T)])
    steps_mm = np.stack([volume.voxel_to_world(volume.from_canonical_points(np.eye(3)[n])) for n in range(3)])
    steps_mm -= volume.voxel_to_world(volume.from_canonical_points(np.zeros(3)))
    assert (np.argmax(np.abs(steps_mm), axis=1) == range(3)).all()
    assert (np.diagonal(steps_mm) > 0).all()
    assert_close_vox(np.linalg.norm(steps_mm, axis=1), volume.canonical_spacing_mm)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@given(volumes())
def test_canonical_array_is_nibabels(volume: Volume) -> None:
    expected = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))  # type: ignore[attr-defined]
    assert np.array_equal(volume.canonical_array, np.asarray(expected.dataobj))
    assert volume.canonical_shape == expected.shape
    corners = all_voxels((2, 2, 2)) * (np.array(volume.canonical_shape) - 1)
    world_mm = volume.voxel_to_world(volume.from_canonical_points(corners))
    np.testing.assert_allclose(world_mm, nib.affines.apply_affine(expected.affine, corners), atol=1e-6)


@given(volumes())
def test_canonical_arrays_are_views_and_round_trip(volume: Volume) -> None:
    canonical = volume.canonical_array
    assert np.shares_memory(canonical, volume.array)
    back = volume.from_canonical_array(canonical)
    assert back.__array_interface__ == volume.array.__array_interface__
    other = np.zeros(volume.canonical_shape, dtype=np.uint8)
    assert volume.from_canonical_array(other).shape == volume.shape
    assert np.shares_memory(volume.from_canonical_array(other), other)


@given(volumes(), fractions, st.sampled_from(SPACES))
def test_points_round_trip_in_every_space(volume: Volume, places: list[tuple[float, ...]], space: str) -> None:
    voxels = np.array(places) * volume.shape
    given_points = voxels if space == "voxel" else volume.voxel_to_world(voxels, space)
    canonical = volume.to_canonical_points(given_points, space)
    assert_close_vox(canonical, volume.to_canonical_points(voxels))
    assert_close_vox(volume.to_voxel(volume.from_canonical_points(canonical, space), space), voxels)
    assert_close_vox(volume.to_voxel(given_points, space), voxels)


@given(volumes(), fractions)
def test_world_is_nibabels_ras_and_itks_lps(volume: Volume, places: list[tuple[float, ...]]) -> None:
    voxels = np.array(places) * volume.shape
    ras_mm = volume.voxel_to_world(voxels)
    np.testing.assert_allclose(ras_mm, nib.affines.apply_affine(volume.affine, voxels), atol=1e-9)
    image = sitk.Image([int(n) for n in volume.shape], sitk.sitkUInt8)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    image.SetSpacing(volume.spacing_mm.tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    itk_mm = [image.TransformContinuousIndexToPhysicalPoint(p.tolist()) for p in voxels]
    np.testing.assert_allclose(volume.voxel_to_world(voxels, "lps"), itk_mm, atol=1e-6)
    assert_close_vox(volume.world_to_voxel(itk_mm, "lps"), voxels)
    assert_close_vox(volume.world_to_voxel(ras_mm), voxels)


def test_the_volume_of_a_voxel_is_that_of_its_parallelepiped() -> None:
    affine = make_affine("LPS", (1.0, 2.0, 3.0), (10, -20, 30), turn=(0.3, -0.2, 0.1))
    assert Volume(make_array(), affine).voxel_ml == pytest.approx(6e-3)
    affine[:3, 1] += 0.5 * affine[:3, 0]  # a shear: the side grows, the volume does not
    assert Volume(make_array(), affine).voxel_ml == pytest.approx(6e-3)


def test_one_point_stays_one_point(make_volume: MakeVolume) -> None:
    volume = make_volume(orientation="LPS", spacing=(2, 2, 2))
    assert volume.voxel_to_world([1, 2, 3]).tolist() == [-2, -4, 6]
    assert volume.world_to_voxel([-2, -4, 6]).tolist() == [1, 2, 3]
    assert volume.to_canonical_points([1, 2, 3]).tolist() == [3, 3, 3]


@given(volumes(), st.data())
def test_boxes_hold_the_same_voxels(volume: Volume, data: st.DataObject) -> None:
    low = np.array([data.draw(st.integers(0, n - 1)) for n in volume.shape])
    high = np.array([data.draw(st.integers(a + 1, n)) for a, n in zip(low, volume.shape, strict=True)])
    inside = np.zeros(volume.shape, dtype=bool)
    inside[tuple(map(slice, low, high))] = True
    a, b = volume.to_canonical_box(low, high)
    assert np.array_equal(np.argwhere(volume.to_canonical_array(inside)).min(axis=0), a)
    assert np.array_equal(np.argwhere(volume.to_canonical_array(inside)).max(axis=0) + 1, b)
    for native, expected in zip(volume.from_canonical_box(a, b), (low, high), strict=True):
        assert native.dtype == np.int64
        assert np.array_equal(native, expected)


def test_fractional_and_empty_canonical_boxes(make_volume: MakeVolume) -> None:
    volume = make_volume((10, 10, 10), orientation="LAS")
    low, high = volume.from_canonical_box([2.4, 2.4, 2.4], [4.1, 4.1, 4.1])
    assert (low.tolist(), high.tolist()) == ([5, 2, 2], [8, 5, 5])
    low, high = volume.from_canonical_box([3, 3, 3], [3, 3, 3])
    assert (low.tolist(), high.tolist()) == ([7, 3, 3], [7, 3, 3])


@given(volumes(), st.data(), st.sampled_from(["ras", "lps"]))
def test_a_box_in_mm_holds_the_voxels_whose_centres_it_holds(volume: Volume, data: st.DataObject, space: str) -> None:
    centres_mm = volume.voxel_to_world(all_voxels(volume.shape), space)
    low, high = centres_mm.min(axis=0), centres_mm.max(axis=0)
    ends = np.array([[data.draw(st.floats(0, 1)) for _ in range(3)] for _ in range(2)]) * (high - low) + low
    low, high = ends.min(axis=0), ends.max(axis=0)
    held = ((centres_mm >= low) & (centres_mm <= high)).all(axis=1)
    box_low, box_high = volume.to_canonical_box(low, high, space)
    voxels = volume.to_canonical_points(all_voxels(volume.shape)) + 0.5  # a voxel reaches from its index to the next
    found = ((voxels >= box_low - 1e-6) & (voxels <= box_high + 1e-6)).all(axis=1)
    assert (found | ~held).all()


def test_a_box_in_mm_on_a_straight_grid_is_exact(make_volume: MakeVolume) -> None:
    volume = make_volume((9, 9, 9), orientation="PIR", spacing=(1, 2, 3), origin=(10, 20, 30))
    low, high = np.array([2.0, 1.0, 4.0]), np.array([5.0, 3.0, 6.0])
    faces_mm = volume.voxel_to_world(np.stack([low, high]) - 0.5, "lps")
    box = volume.to_canonical_box(faces_mm.min(axis=0), faces_mm.max(axis=0), "lps")
    for actual, expected in zip(box, volume.to_canonical_box(low, high), strict=True):
        assert_close_vox(actual, expected)


def test_every_kind_of_image_gives_the_same_volume() -> None:
    array = make_array((4, 5, 6), "int16")
    affine = make_affine("LPI", (0.5, 0.75, 3.0), (-10, 20, 30), turn=(0.25, 0, 0.125)).astype(np.float32).astype(float)
    itk = sitk.GetImageFromArray(array.T)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    itk.SetOrigin(lps[:3, 3].tolist())
    itk.SetSpacing(sides.tolist())
    itk.SetDirection((lps[:3, :3] / sides).ravel().tolist())
    expected = Volume(array, affine)
    images: dict[str, Any] = {
        "array": Volume.from_image(array, affine=affine),
        "nested affine": Volume.from_image(array, affine=affine.tolist()),
        "tensor": Volume.from_image(torch.from_numpy(array), affine=torch.from_numpy(affine)),
        "nibabel": Volume.from_image(nib.Nifti1Image(array, affine)),
        "itk": Volume.from_image(itk),
        "volume": Volume.from_image(expected),
    }
    for name, volume in images.items():
        assert np.array_equal(volume.array, array), name
        assert volume.array.dtype == np.int16, name
        np.testing.assert_allclose(volume.affine, affine, atol=1e-12, err_msg=name)
        assert volume.orientation == "LPI", name
    for name in ("array", "tensor", "nibabel", "volume"):
        assert np.shares_memory(images[name].array, array), name
        assert images[name].content_hash == expected.content_hash, name


def test_tensors_of_every_kind() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4)
    for given_tensor in (tensor.bfloat16(), tensor.clone().requires_grad_(), tensor.half(), tensor.double()):
        assert np.array_equal(Volume.from_image(given_tensor, spacing=1).array, tensor.numpy())
    assert np.array_equal(Volume.from_image(tensor[..., None], spacing=1).array, tensor.numpy())


def test_a_meta_tensor_brings_its_affine() -> None:
    class MetaTensor(torch.Tensor):
        """As MONAI's: a tensor with an affine."""

        affine: torch.Tensor

    tensor = torch.arange(24.0).reshape(2, 3, 4).as_subclass(MetaTensor)
    tensor.affine = torch.from_numpy(make_affine("LPS", (1, 2, 3)))
    volume = Volume.from_image(tensor)
    assert volume.orientation == "LPS"
    assert volume.spacing_mm.tolist() == [1, 2, 3]


def test_spacing_alone_and_nothing_at_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        volume = Volume.from_image(make_array(), spacing=(1, 2, 0.0003))
        assert volume.orientation == "RAS"
        assert volume.spacing_mm.tolist() == [1, 2, 0.0003]
        assert "orientation unknown" in caplog.text
        caplog.clear()
        for _ in range(2):
            assert np.array_equal(Volume.from_image(make_array()).affine, np.eye(4))
    assert [r.getMessage().count("spacing=") for r in caplog.records] == [1]


def test_nonfinite_voxels_are_replaced_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    array = make_array((4, 5, 6)) - 50
    array[1, 2, 3], array[0, 0, :2], array[3, 4, 5] = np.nan, np.inf, -np.inf
    before = array.copy()
    with caplog.at_level(logging.WARNING):
        volume = Volume.from_image(array, spacing=1)
    assert volume.nonfinite_count == 4
    finite = np.isfinite(before)
    assert np.array_equal(volume.array[finite], before[finite])
    assert (volume.array[~finite] == before[finite].min()).all()
    assert np.array_equal(array, before, equal_nan=True)  # the user's own stays as it is
    assert "4 of 120 voxels" in caplog.text
    assert Volume.from_image(before[:, :1, 2:5], spacing=1).nonfinite_count == 0


def test_blocks_of_large_arrays_are_all_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptseg.volume_checks.BLOCK_BYTES", 64)
    for order in "CF":
        array = np.asarray(make_array((5, 6, 7)), order=order)  # type: ignore[call-overload]
        array[0, 0, 0] = array[2, 3, 4] = array[4, 5, 6] = np.nan
        volume = Volume(array, np.eye(4))
        assert volume.nonfinite_count == 3
        assert np.isfinite(volume.array).all()
        assert volume.array.flags[f"{order}_CONTIGUOUS"]


SINGULAR = make_affine()
SINGULAR[:3, 2] = SINGULAR[:3, 0] + SINGULAR[:3, 1]


@pytest.mark.parametrize(
    ("array", "arguments", "expected"),
    [
        (np.zeros((4, 5)), {"spacing": 1}, ["(4, 5)", "2 axes", "image[:, :, None]"]),
        (np.zeros((4, 5, 6, 2)), {"spacing": 1}, ["(4, 5, 6, 2)", "4 axes", "image[..., 0]"]),
        (np.zeros((4, 0, 6)), {"spacing": 1}, ["(4, 0, 6)", "empty"]),
        (make_array(dtype="complex64"), {"spacing": 1}, ["complex64", "abs"]),
        (np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1")]), {"spacing": 1}, ["RGB", "R"]),
        (np.full((2, 2, 2), "a"), {"spacing": 1}, ["expected bool, integers or real"]),
        (np.full((2, 2, 2), 7, dtype=np.int16), {"spacing": 1}, ["every voxel is 7", "constant"]),
        (np.full((2, 2, 2), np.nan), {"spacing": 1}, ["none of its 8 voxels is finite"]),
        (make_array(), {"spacing": (1, 0, 1)}, ["spacing=[1.0, 0.0, 1.0]", "positive", "mm"]),
        (make_array(), {"spacing": (1, 1, -2)}, ["-2.0", "positive"]),
        (make_array(), {"spacing": (1, 1)}, ["[1.0, 1.0]", "three"]),
        (make_array(), {"spacing": (1, 1, np.nan)}, ["nan", "positive"]),
        (make_array(), {"spacing": "fine"}, ["fine", "numbers"]),
        (make_array(), {"affine": np.eye(3)}, ["(3, 3)", "(4, 4)"]),
        (make_array(), {"affine": SINGULAR}, ["singular", "spacing="]),
        (make_array(), {"affine": np.diag([1, 0, 1, 1])}, ["spacing is zero along axis 1"]),
        (make_array(), {"affine": np.diag([1, np.inf, 1, 1])}, ["not finite"]),
        (make_array(), {"affine": make_affine(origin=(1, 2, 3)).T}, ["row [1.0, 2.0, 3.0, 1.0]", "transposed"]),
        (make_array(), {"affine": np.eye(4), "spacing": 1}, ["affine=", "spacing=", "one"]),
        (nib.Nifti1Image(make_array(), np.eye(4)), {"spacing": 1}, ["spacing=", "nibabel image", "arrays"]),
        (Volume(make_array(), np.eye(4)), {"affine": np.eye(4)}, ["affine=", "volume"]),
        ([[[1, 2], [3, 4]]], {"spacing": 1}, ["list", "numpy array"]),
        (None, {}, ["NoneType", "path"]),
    ],
)
def test_bad_images_are_refused_with_the_cure(array: Any, arguments: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Volume.from_image(array, **arguments)
    for part in expected:
        assert part in str(caught.value)


def test_bad_spaces_and_coordinates_are_refused(make_volume: MakeVolume) -> None:
    volume = make_volume()
    with pytest.raises(ValueError, match="space='mm': expected one of 'voxel', 'ras', 'lps'"):
        volume.to_canonical_points([[0, 0, 0]], "mm")
    with pytest.raises(ValueError, match="space='voxel': expected one of 'ras', 'lps'"):
        volume.voxel_to_world([[0, 0, 0]], "voxel")
    with pytest.raises(ValueError, match=r"expected an \(N, 3\) array"):
        volume.to_canonical_points([[0, 0]])


@given(volumes())
def test_the_hash_names_content_and_not_layout(volume: Volume) -> None:
    for order in "CF":
        assert Volume(np.array(volume.array, order=order), volume.affine).content_hash == volume.content_hash  # type: ignore[call-overload]
    flipped = volume.array[::-1].copy()[::-1]
    assert Volume(flipped, volume.affine).content_hash == volume.content_hash
    changed = volume.array.copy()
    changed[tuple(n // 2 for n in volume.shape)] += 0.5
    moved = volume.affine.copy()
    moved[0, 3] = np.nextafter(moved[0, 3], np.inf)
    others = [
        Volume(changed, volume.affine),
        Volume(volume.array, moved),
        Volume(volume.array.astype(np.float64), volume.affine),
        Volume(volume.array.reshape(1, 1, -1), volume.affine),
    ]
    if volume.shape != (1, 1, volume.array.size):
        assert others[3].content_hash != volume.content_hash
    assert volume.content_hash not in [o.content_hash for o in others[:3]]
    assert len(volume.content_hash) == 32


def test_the_affine_cannot_be_changed_from_outside() -> None:
    affine = make_affine()
    volume = Volume(make_array(), affine)
    affine[0, 0] = 5
    assert volume.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 5


def test_nothing_of_the_images_size_is_allocated() -> None:
    array = np.zeros((128, 128, 64), dtype=np.int16)
    array[3, 4, 5] = 1
    tracemalloc.start()
    volume = Volume.from_image(array, affine=make_affine("LPS"))
    _ = volume.canonical_array, volume.to_canonical_points([[0, 0, 0]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 4


def test_geometry_and_prompts_import_nothing_heavy() -> None:
    code = "import sys, promptseg.volume, promptseg.prompts, promptseg.io; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"monai", "timm", "SimpleITK", "skimage", "scipy", "PIL", "nibabel", "torch"}
    assert not heavy & {m.partition(".")[0] for m in done.stdout.split()}
