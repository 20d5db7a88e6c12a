"""Drawn label maps hold the shapes they are named for; batches on the device are functions of their key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from promptseg.data.batch_synthesis import PAINTED, REAL, SYNTHETIC, UNLABELLED, choose_objects, finish_batch
from promptseg.data.randomness import Randomness
from promptseg.data.sampler import SamplerConfig
from promptseg.data.supervoxels import drop_cut, flood, merge_regions, relief, start_basins, supervoxels
from promptseg.data.synthesis import (
    FIRST_BACKGROUND,
    FIRST_ELLIPSOID,
    FIRST_TUBE,
    add_ellipsoids,
    draw_balls,
    draw_tree,
    noise_labels,
    paint,
    shape_labels,
    split_background,
)
from promptseg.preprocessing import PreprocessingConfig

SIZE = 24


def test_blobs_fill_the_volume_and_touch():
    labels = noise_labels(Randomness((1,)), 2, SIZE)
    assert labels.shape == (2, SIZE, SIZE, SIZE)
    assert labels.min() == 1 and 3 <= labels.max() <= 9


def test_some_ellipsoids_are_nested():
    labels = add_ellipsoids(torch.zeros(8, SIZE, SIZE, SIZE, dtype=torch.long), Randomness((2,)), np.full(8, 5))
    shells = [(int(v) - FIRST_ELLIPSOID) % 2 for v in labels.unique() if v > 0]
    assert 0 in shells and 1 in shells


def test_balls_are_the_voxels_within_their_radius():
    points = torch.tensor([[5, 6, 7], [12, 12, 12], [1, 1, 1]])
    radii, volume = torch.tensor([2.5, 4.0, 3.0]), torch.tensor([0, 0, 1])
    drawn = draw_balls(points, radii, volume, 2, SIZE)
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIZE)] * 3, indexing="ij"), dim=-1).float()
    inside = [(grid - p).norm(dim=-1) <= r for p, r in zip(points, radii, strict=True)]
    assert torch.equal(drawn, torch.stack([inside[0] | inside[1], inside[2]]))


def test_a_tree_is_connected_and_thins_out():
    points, radii = draw_tree(np.random.default_rng(3), 64)
    assert len(points) == len(radii) >= 15
    assert radii.max() == radii[0] <= 5
    gaps = np.array([np.linalg.norm(points[:n] - p, axis=1).min() for n, p in enumerate(points) if n])
    assert gaps.max() < 1.5


def test_every_label_map_holds_an_object():
    labels = shape_labels(Randomness((4,)), 24, SIZE)
    assert (labels.flatten(1).amax(dim=1) > 0).all()
    assert labels.max() < FIRST_BACKGROUND
    assert (labels >= FIRST_TUBE).any() and (labels == 0).any()


def test_background_is_split_without_touching_labels():
    labels = torch.zeros(6, SIZE, SIZE, SIZE, dtype=torch.long)
    labels[:, 4:9, 4:9, 4:9] = 3
    split = split_background(labels, Randomness((5,)))
    assert torch.equal(split == 3, labels == 3)
    assert (split >= FIRST_BACKGROUND).any()


def test_a_painting_shows_its_labels():
    labels = noise_labels(Randomness((6,)), 4, SIZE)
    image = paint(labels, Randomness((7,)))
    assert image.shape == labels.shape and image.isfinite().all()
    within = torch.stack([image[n][labels[n] == 1].std() for n in range(4)])
    assert within.mean() < image.flatten(1).std(dim=1).mean()


def test_labels_are_painted_in_intensities_of_their_own():
    labels = torch.ones(60, 12, 12, 12, dtype=torch.long)
    labels[:, 6:] = 2
    image = paint(labels, Randomness((8,)))
    first, second = image[:, :6].flatten(1).mean(dim=1), image[:, 6:].flatten(1).mean(dim=1)
    assert (first - second).abs().median() > 0.3, "labels of an image"
    assert min(first.std(), second.std()) > 0.4, "a label in several images"


def ball_image(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright ball in a crop and the ball itself, (1, D, H, W)."""
    axis = torch.arange(SIZE) - SIZE / 2 + 0.5
    inside = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (SIZE / 4) ** 2)[None]
    generator = torch.Generator().manual_seed(0)
    return inside + noise * torch.randn(inside.shape, generator=generator), inside


@pytest.mark.parametrize("key", range(4))
def test_supervoxels_end_where_the_image_changes(key: int) -> None:
    image, inside = ball_image(0.05)
    labels = supervoxels(image, Randomness((key,)))
    shares = [float(inside[labels == v].float().mean()) for v in labels.unique() if v > 0]
    purity = [max(share, 1 - share) for share in shares]
    assert len(purity) >= 1 and np.mean(purity) > 0.93


def test_regions_are_connected_and_few_ones_are_the_objects() -> None:
    image, inside = ball_image(0.02)
    basins = flood(relief(image), start_basins(relief(image), Randomness((0,))), 30)
    assert (basins > 0).all() and basins.unique().numel() > 20
    merged = merge_regions(basins[0], image[0], 2)
    assert merged.unique().tolist() == [1, 2]
    ball = merged == merged[SIZE // 2, SIZE // 2, SIZE // 2]
    assert float((ball & inside[0]).sum() / (ball | inside[0]).sum()) > 0.9
    for value in merge_regions(basins[0], image[0], 9).unique().tolist():
        assert ndimage.label((merge_regions(basins[0], image[0], 9) == value).numpy())[1] == 1


def test_a_region_that_the_crop_cuts_off_is_dropped_unless_all_are() -> None:
    labels = torch.ones(2, SIZE, SIZE, SIZE, dtype=torch.long)
    labels[0, 8:12, 8:12, 8:12] = 2
    assert drop_cut(labels)[0].unique().tolist() == [0, 2]
    assert drop_cut(labels)[1].unique().tolist() == [1]


def test_chosen_objects_are_unions_of_labels_and_differ_within_a_crop():
    labels = shape_labels(Randomness((9,)), 6, SIZE)
    config = SamplerConfig(crop_size=SIZE, objects_per_crop=2, merge_share=0.0, min_object_voxels=8)
    targets = choose_objects(labels, Randomness((10,)), config)
    assert targets.shape == (6, 2, SIZE, SIZE, SIZE) and targets.flatten(2).any(dim=2).all()
    for row in range(6):
        for target in targets[row]:
            inside, outside = labels[row][target].unique(), labels[row][~target].unique()
            assert not set(inside.tolist()) & set(outside.tolist())
            assert len(inside) <= 2, "an ellipsoid and its core at most"
    assert sum(torch.equal(a, b) for a, b in targets) <= 1


def test_a_batch_is_finished_as_its_key_says_and_real_crops_keep_their_objects():
    raw = {
        "image": torch.rand(4, 1, SIZE, SIZE, SIZE) * 2 - 1,
        "labels": torch.randint(0, 4, (4, SIZE, SIZE, SIZE), dtype=torch.uint8),
        "targets": torch.zeros(4, 1, SIZE, SIZE, SIZE, dtype=torch.bool),
        "spacing_mm": torch.ones(4, 3),
        "kind": torch.tensor([REAL, PAINTED, SYNTHETIC, UNLABELLED]),
    }
    raw["targets"][:2, :, 3:9, 3:9, 3:9] = True
    before = {k: v.clone() for k, v in raw.items()}
    config = SamplerConfig(crop_size=SIZE)
    first, again, other = (finish_batch(raw, Randomness((1, n)), config, PreprocessingConfig()) for n in (0, 0, 1))
    assert all(torch.equal(raw[k], before[k]) for k in raw), "what the loader gave is not written to"
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["image"], other["image"])
    assert torch.equal(first["targets"][:2], raw["targets"][:2])
    assert first["targets"][2:].flatten(1).any(dim=1).all()
    assert first["image"].abs().max() <= 1
