"""Pictures: proportions, sides and colours are those of the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from promptseg.render import (
    COLOURS,
    EXCLUDED,
    INCLUDED,
    RenderConfig,
    render_overlay,
    save_picture,
)
from promptseg.volume import Volume

from .conftest import make_affine

FLAT = RenderConfig(tint=1.0, near_mm=0.0)


def oriented(array: np.ndarray, codes: str, spacing: tuple[float, float, float]) -> tuple[Volume, np.ndarray]:
    """A canonical array stored in another orientation, and a function's worth of the same for masks: the RAS affine."""
    import nibabel as nib
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = nib.apply_orientation(array, transform)  # type: ignore[attr-defined]
    affine = np.diag([*spacing, 1.0]) @ inv_ornt_aff(transform, array.shape)
    return Volume.from_image(stored, affine=affine), transform


def coloured(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(N, 2) column and row of the pixels of a colour."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - colour).max(axis=-1) <= 3)[:, ::-1]


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 5, shape).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3),
)
def test_picture_does_not_depend_on_how_the_image_is_stored(
    order: list[int], flips: tuple[bool, bool, bool], spacing: tuple[float, float, float]
) -> None:
    import nibabel as nib

    array = noise((20, 24, 16))
    mask = np.zeros(array.shape, np.uint8)
    mask[3:8, 10:20, 9:14] = 1
    codes = "".join(("RL", "AP", "SI")[axis][flips[axis]] for axis in order)
    straight, _ = oriented(array, "RAS", spacing)
    stored, transform = oriented(array, codes, spacing)
    stored_mask = nib.apply_orientation(mask, transform)  # type: ignore[attr-defined]
    click = np.array([[5, 12, 10]])
    native = stored.from_canonical_points(click)
    first = render_overlay(straight, mask, click, [1])
    second = render_overlay(stored, stored_mask, native, [1])
    assert first.size == second.size
    assert np.array_equal(np.asarray(first), np.asarray(second))


def test_proportions_are_physical() -> None:
    """A cube of 30 mm looks square in each slice of an image with 1 x 2 x 5 mm voxels."""
    volume = Volume.from_image(noise((90, 45, 18)), spacing=(1.0, 2.0, 5.0))
    mask = np.zeros(volume.shape, np.uint8)
    mask[30:60, 15:30, 6:12] = 1
    picture = render_overlay(volume, mask, centre=(45, 22, 9), config=FLAT)
    found = coloured(picture, COLOURS[0])
    thirds = np.digitize(found[:, 0], [picture.width / 3, 2 * picture.width / 3])
    for third in range(3):
        width, height = np.ptp(found[thirds == third], axis=0) + 1
        assert width == pytest.approx(height, rel=0.03)
        assert width == pytest.approx(picture.width / 9, rel=0.06)


@pytest.mark.parametrize("convention", ["radiological", "neurological"])
def test_sides(convention: str) -> None:
    """What lies right, anterior and superior is where the convention says."""
    volume = Volume.from_image(noise((40, 40, 40)), affine=np.eye(4))
    mask = np.zeros(volume.shape, np.uint8)
    mask[30:36, 30:36, 30:36] = 1  # right, anterior, superior
    config = RenderConfig(convention, tint=1.0)  # type: ignore[arg-type]
    picture = render_overlay(volume, mask, centre=(33, 33, 33), config=config)
    found = coloured(picture, COLOURS[0])
    panel = picture.width / 3
    for number in range(3):
        here = found[np.digitize(found[:, 0], [panel, 2 * panel]) == number]
        x, y = here.mean(axis=0) - [number * panel, 0]
        assert y < picture.height / 2  # anterior or superior is up
        is_on_the_left = x < panel / 2
        assert is_on_the_left == (number == 2 or convention == "radiological")


def test_clicks_are_drawn_where_they_are() -> None:
    volume = Volume.from_image(noise((40, 40, 40)), affine=np.eye(4))
    points = [(20, 20, 20), (10, 20, 20), (20, 20, 35)]
    picture = render_overlay(volume, None, points, [1, 0, 0], config=FLAT)
    included, excluded = coloured(picture, INCLUDED), coloured(picture, EXCLUDED)
    panel = picture.width / 3
    assert set(np.digitize(included[:, 0], [panel, 2 * panel])) == {0, 1, 2}
    axial = excluded[excluded[:, 0] < panel]
    assert axial[:, 0].mean() > panel / 2  # i = 10 is to the left, so on the picture's right
    in_axial_only = render_overlay(volume, None, points[:1] + points[2:], [1, 0], config=FLAT)
    assert not len([x for x, _ in coloured(in_axial_only, EXCLUDED) if x < panel])


@pytest.mark.parametrize("orientation", ["RAS", "PSL"])
def test_boxes_are_drawn_around_what_they_hold(orientation: str) -> None:
    """On the slices through them, and on no other."""
    volume = Volume.from_image(noise((40, 40, 40)), affine=make_affine(orientation))
    mask = np.zeros(volume.shape, np.uint8)
    mask[10:20, 5:15, 24:36] = 1
    box = [(10, 5, 24), (20, 15, 36)]
    picture = render_overlay(volume, mask, boxes=box, config=FLAT)
    frame, inside = coloured(picture, INCLUDED), coloured(render_overlay(volume, mask, config=FLAT), COLOURS[0])
    panel = picture.width / 3
    for number in range(3):
        of_frame, of_mask = (xy[np.digitize(xy[:, 0], [panel, 2 * panel]) == number] for xy in (frame, inside))
        np.testing.assert_allclose(of_frame.min(axis=0), of_mask.min(axis=0), atol=2)
        np.testing.assert_allclose(of_frame.max(axis=0), of_mask.max(axis=0), atol=2)
    beside = render_overlay(volume, mask, centre=(5, 10, 30), boxes=box, config=FLAT)
    assert len(coloured(beside, INCLUDED)) < len(frame)


def test_labels_have_their_colours_and_legend() -> None:
    volume = Volume.from_image(noise((40, 40, 40)), affine=np.eye(4))
    mask = np.zeros(volume.shape, np.uint8)
    mask[5:15, 10:30, 10:30], mask[25:35, 10:30, 10:30] = 1, 2
    plain = render_overlay(volume, mask, centre=(10, 20, 20), config=FLAT)
    named = render_overlay(volume, mask, centre=(10, 20, 20), legend=["first", "second"], config=FLAT)
    for colour in COLOURS[:2]:
        assert len(coloured(plain, colour)) > 1000
        assert coloured(named, colour)[:, 1].max() > coloured(plain, colour)[:, 1].max()


@pytest.mark.parametrize("shape", [(40, 40, 40), (2, 2, 200)])
def test_a_long_legend_goes_on_in_further_rows(shape: tuple[int, int, int]) -> None:
    volume = Volume.from_image(noise(shape), affine=np.eye(4))
    names = [f"structure number {number}" for number in range(len(COLOURS))]
    config = RenderConfig(width=420, height=340)
    picture = render_overlay(volume, legend=names, config=config)
    assert picture.width <= config.width + 2
    assert picture.height <= config.height + 2
    squares = np.array([coloured(picture, colour).min(axis=0) for colour in COLOURS])
    assert len(np.unique(squares, axis=0)) == len(names)
    assert set(squares[:, 0]) == {12, squares[1, 0]}  # two in a row
    assert render_overlay(volume, legend=names * 9, config=config).height > 41 * 24 + 100  # the slices stay


def test_odd_shapes_are_drawn() -> None:
    for shape in ((1, 30, 30), (30, 1, 30), (200, 3, 2)):
        volume = Volume.from_image(noise(shape), affine=np.eye(4))
        picture = render_overlay(volume, np.ones(shape, np.uint8))
        assert picture.width <= RenderConfig().width + 2
        assert picture.height <= RenderConfig().height + 2


def test_bad_arguments() -> None:
    volume = Volume.from_image(noise((8, 9, 10)), affine=np.eye(4))
    with pytest.raises(ValueError, match=r"\(8, 9, 11\) is not the image's \(8, 9, 10\)"):
        render_overlay(volume, np.zeros((8, 9, 11)))
    with pytest.raises(ValueError, match="outside the image"):
        render_overlay(volume, centre=(8, 0, 0))
    for wrong in ({"convention": "upside"}, {"width": 3}, {"tint": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RenderConfig(**wrong)  # type: ignore[arg-type]


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.new("RGB", (8, 8))
    assert save_picture(picture, tmp_path / "a.png").is_file()
    with pytest.raises(ValueError, match=".png"):
        save_picture(picture, tmp_path / "a.nii")
    with pytest.raises(ValueError, match="does not exist"):
        save_picture(picture, tmp_path / "nowhere" / "a.png")

    def fill_up(self: Image.Image, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_up)
    with pytest.raises(OSError, match="No space left"):
        save_picture(picture, tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_scale_of_intensities_does_not_matter() -> None:
    array = np.random.default_rng(0).normal(100, 10, (12, 10, 8))
    pictures = [np.asarray(render_overlay(Volume(array * scale, np.eye(4)))) for scale in (1, 2.0**120, 2.0**-140)]
    assert all(np.array_equal(pictures[0], picture) for picture in pictures)
