"""An atlas finds its place in images of any contrast, and says where it has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg.atlas_search import MAX_MISMATCH, MIN_IN_VIEW
from promptseg.data.atlas_building import build_atlas
from promptseg.models.atlas import Atlas
from promptseg.registration import Registration, correlation_ratio, register

from .phantom_head import CENTRE_MM, NAMES, PARTS, SHAPE, SPACING_MM, intensities, label_map, pose, training_volume

TISSUES = [
    [n for n, name in enumerate(PARTS) if name.endswith(tissue)]
    for tissue in dict.fromkeys(name.removeprefix("left ").removeprefix("right ") for name in PARTS)
]


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return build_atlas([training_volume(seed) for seed in range(4)], "heads", SPACING_MM)


def _register(atlas: Atlas, image: np.ndarray, frame: np.ndarray | None = None) -> Registration:
    scaled = 2 * (image - image.min()) / np.ptp(image) - 1
    return register(atlas, torch.from_numpy(scaled.astype(np.float32)), SPACING_MM, TISSUES, frame)


def _errors_mm(atlas: Atlas, found: Registration, labels: np.ndarray) -> list[float]:
    """Distances between the middles of structures in an image and those of the atlas, taken there."""
    errors = []
    for value, name in NAMES.items():
        shares = atlas.shares_of([atlas.config.terms.index(name)]).numpy()
        middle = (atlas.config.positions_mm() * shares[..., None]).sum(axis=(0, 1, 2)) / shares.sum()
        there = np.argwhere(labels == value).mean(axis=0) * SPACING_MM
        errors.append(float(np.linalg.norm(found.matrix @ middle + found.offset_mm - there)))
    return errors


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_structures_are_found_in_any_pose_and_contrast(atlas, seed):
    labels = label_map(*pose(seed))
    found = _register(atlas, intensities(labels, seed))
    assert max(_errors_mm(atlas, found, labels)) < SPACING_MM
    assert found.mismatch < MAX_MISMATCH and found.in_view > MIN_IN_VIEW
    assert np.linalg.det(found.matrix) > 0  # left stays left


def test_a_head_that_is_upright_in_a_tilted_slab_is_found_from_there(atlas):
    frame = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # no start without it comes near
    labels = label_map(frame, CENTRE_MM)
    found = _register(atlas, intensities(labels, 16), frame)
    assert max(_errors_mm(atlas, found, labels)) < SPACING_MM
    assert found.mismatch < MAX_MISMATCH and found.in_view > MIN_IN_VIEW


def test_a_coils_shading_does_not_mislead(atlas):
    labels = label_map(*pose(14))
    image = intensities(labels, 14)
    image = np.where(labels > 0, image - image.min(), 0.0).astype(np.float32)  # air gives no signal
    shaded = image * np.linspace(0.4, 1.6, SHAPE[1], dtype=np.float32)[:, None]
    assert max(_errors_mm(atlas, _register(atlas, shaded), labels)) < 1.5 * SPACING_MM


def test_the_same_image_gives_the_same_registration(atlas):
    image = intensities(label_map(*pose(15)), 15)
    first, second = _register(atlas, image), _register(atlas, image)
    assert (first.matrix == second.matrix).all() and (first.offset_mm == second.offset_mm).all()


def test_what_is_no_head_does_not_fit(atlas):
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    assert _register(atlas, noise).mismatch > MAX_MISMATCH


def test_a_part_of_a_head_is_not_taken_for_a_whole_one(atlas):
    found = _register(atlas, intensities(label_map(), 3)[:, :, : SHAPE[2] // 2])
    assert found.in_view < MIN_IN_VIEW or found.mismatch > MAX_MISMATCH


def test_positions_go_to_the_atlas_and_back():
    matrix, offset = pose(1)
    registration = Registration(matrix, offset, 0.1, 1.0)
    places = np.random.default_rng(0).normal(size=(5, 3)) * 50
    np.testing.assert_allclose(registration.to_atlas_mm(places @ matrix.T + offset), places, atol=1e-9)


def test_the_correlation_ratio_is_what_the_tissues_leave_unexplained():
    shares = torch.zeros(2, 400)
    shares[0, :200], shares[1, 200:] = 1, 1
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(400, generator=rng)
    explained = torch.cat([torch.full((200,), 3.0), torch.full((200,), 7.0)])
    inside = torch.ones(3, 400)
    ratios = correlation_ratio(shares, torch.stack([explained, noise, explained + noise]), inside, 0.0)
    assert ratios[0] < 1e-3 and 0.97 < ratios[1] <= 1.0
    assert float(ratios[2]) == pytest.approx(1 / 5, rel=0.15)  # variance 1 of 1 + 4
    rescaled = correlation_ratio(shares, 5 - 2 * torch.stack([noise + explained]), inside[:1], 0.0)
    assert float(rescaled[0]) == pytest.approx(float(ratios[2]), rel=1e-3)


def test_places_outside_the_image_do_not_count():
    shares = torch.ones(1, 4)
    values = torch.tensor([[1.0, 1.0, 1.0, 900.0]])
    assert correlation_ratio(shares, values, torch.tensor([[1.0, 1.0, 1.0, 0.0]]), 1.0)[0] < 1e-3
