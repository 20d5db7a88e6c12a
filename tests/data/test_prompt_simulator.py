"""Simulated prompts lie where a user would put them, for each object alone, and the same seed gives the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from promptseg.data.prompt_simulator import (
    PromptSimulatorConfig,
    bounds,
    box_mean,
    correct,
    corrupt_mask,
    draw_boxes,
    draw_indices,
    halve,
    pooled_mean,
    region_depth,
    sample_points,
    sample_several,
    values_at,
)
from promptseg.data.randomness import Randomness
from promptseg.data.stroke_simulator import draw_lines, draw_plane_strokes, draw_strokes
from promptseg.models.layers import dilate, dilate_padded, max_of_cells

SIZE = 32


def balls(count: int = 3, size: int = SIZE) -> torch.Tensor:
    """(count, size, size, size) bool, balls of different places and radii."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij"), dim=-1).float()
    return torch.stack([(grid - 10 - 3 * n).norm(dim=-1) < 5 + n for n in range(count)])


def test_the_deepest_point_of_a_ball_is_near_its_centre():
    points, found = sample_points(balls(), None)
    assert found.all()
    for n, point in enumerate(points):
        assert (point.float() - 10 - 3 * n).norm() < 2.5


def test_points_lie_in_their_region_and_prefer_its_depth():
    region = balls(1).expand(200, -1, -1, -1)
    points, _ = sample_points(region, Randomness((1,)), 0.0)
    assert values_at(region, points[:, None]).all()
    distance = (points.float() - 10).norm(dim=1)
    grid = balls(1)[0].nonzero().float()
    assert distance.mean() < 0.95 * (grid - 10).norm(dim=1).mean(), "nearer to the centre than voxels are on average"
    assert distance.unique().numel() > 10


def test_clicks_are_at_the_deepest_place_as_often_as_asked_for():
    region = balls(1, size=20)
    deepest = sample_points(region, None)[0] // 2  # its cell

    def share(asked: float) -> float:
        points, _ = sample_several(region, Randomness((7,)), asked, 4000)
        return float((points // 2 == deepest[:, None]).all(dim=-1).float().mean())

    by_chance = share(0.0)
    assert 0 < by_chance < 0.2
    for asked in (0.35, 0.8, 1.0):
        assert share(asked) == pytest.approx(asked + (1 - asked) * by_chance, abs=0.03)


def test_a_correction_is_at_the_deepest_place_of_the_error_if_always_asked_for():
    target = balls(1, size=20).expand(40, -1, -1, -1)
    deepest = sample_points(target, None)[0] // 2
    nothing = torch.zeros_like(target)
    assert torch.equal(correct(target, nothing, Randomness((8,)), 1.0)[0] // 2, deepest)
    assert not torch.equal(correct(target, nothing, Randomness((8,)), 0.0)[0] // 2, deepest)


def test_an_empty_region_is_reported_not_clicked():
    region = torch.zeros(2, SIZE, SIZE, SIZE, dtype=torch.bool)
    region[1, 4, 5, 6] = True
    points, found = sample_several(region, Randomness((1,)), 0.5, 3)
    assert found.tolist() == [False, True]
    assert (points[1] == torch.tensor([4, 5, 6])).all()


def test_a_correction_says_which_side_of_the_object_was_wrong():
    target = balls(3)
    predicted = target.clone()
    predicted[0] = False  # missed
    predicted[1] |= balls(3)[2]  # too much
    points, labels = correct(target, predicted, Randomness((2,)))
    assert labels.tolist() == [1, 0, -1]
    assert target[0][tuple(points[0])] and not target[1][tuple(points[1])]


def test_objects_do_not_depend_on_their_neighbours_in_the_batch():
    """Deterministic clicks of a batch are those of each object alone."""
    region = balls()
    together, _ = sample_points(region, None)
    alone = torch.cat([sample_points(region[n : n + 1], None)[0] for n in range(3)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: sample_points(balls(), r, 0.5)[0],
        lambda r: draw_boxes(balls(), r, PromptSimulatorConfig()),
        lambda r: corrupt_mask(balls(), r),
        lambda r: draw_strokes(balls(), sample_points(balls(), None)[0], ["scribble", "lasso", "scribble"], r)[0],
    ],
)
def test_the_same_seed_gives_the_same_prompts_and_another_seed_others(draw):
    assert torch.equal(draw(Randomness((5, 1))), draw(Randomness((5, 1))))
    assert not torch.equal(draw(Randomness((5, 1))), draw(Randomness((6, 1))))
    first, second = (Randomness.of(torch.Generator().manual_seed(3), "cpu") for _ in range(2))
    assert torch.equal(draw(first), draw(second))


def test_bounds_are_those_of_the_voxels():
    masks = balls()
    low, high = bounds(masks)
    for n, mask in enumerate(masks):
        voxels = mask.nonzero()
        assert torch.equal(low[n], voxels.min(0).values.float())
        assert torch.equal(high[n], voxels.max(0).values.float() + 1)


def test_boxes_without_jitter_are_tight_and_flat_ones_bound_their_slice():
    masks = balls()
    exact = PromptSimulatorConfig(flat_box_share=0.0, box_jitter=0.0)
    assert torch.equal(draw_boxes(masks, Randomness((1,)), exact), torch.cat(bounds(masks), dim=1))
    flat = draw_boxes(masks, Randomness((1,)), dataclasses.replace(exact, flat_box_share=1.0))
    for mask, box in zip(masks, flat.long(), strict=True):
        sides = box[3:] - box[:3]
        axis = int(sides.argmin())
        assert sides[axis] == 1
        voxels = mask.select(axis, int(box[axis])).nonzero()
        others = [a for a in range(3) if a != axis]
        assert torch.equal(box[others], voxels.min(0).values)
        assert torch.equal(box[[o + 3 for o in others]], voxels.max(0).values + 1)


def test_a_box_of_an_object_that_the_crop_cuts_reaches_beyond_it():
    cut = torch.zeros(64, SIZE, SIZE, SIZE, dtype=torch.bool)
    cut[:, :10, 10:20, 10:20] = True
    box = draw_boxes(cut, Randomness((1,)), PromptSimulatorConfig(flat_box_share=0.0, box_jitter=0.0))
    assert (box[:, 0] <= 0).all() and (box[:, 0] < -4).any()
    assert (box[:, 3] == 10).all() and (box[:, 1] == 10).all()
    assert (box[:, 3:] > box[:, :3]).all()


def test_strokes_stay_in_their_region_and_key_points_on_the_stroke():
    region = balls(4)
    start = sample_points(region, None)[0]
    for strokes, keys in (
        draw_lines(region, start, Randomness((3,))),
        draw_plane_strokes(region, start, ["centreline", "contour", "contour", "centreline"], Randomness((4,))),
        draw_strokes(region, start, ["scribble"] * 4, Randomness((5,))),
    ):
        assert ((strokes > 0) <= region).all()
        assert (strokes.flatten(1).amax(dim=1) == 1).all()
        assert values_at(strokes, keys).bool().all()
        assert strokes.flatten(1).sum(1).lt(region.flatten(1).sum(1)).all()


def test_a_lasso_lies_on_one_slice_and_covers_most_of_it():
    region = balls(4)
    strokes, keys = draw_strokes(region, sample_points(region, None)[0], ["lasso"] * 4, Randomness((6,)))
    for stroke, mask, points in zip(strokes, region, keys, strict=True):
        sides = bounds(stroke[None] > 0)
        axis = int((sides[1] - sides[0])[0].argmin())
        assert (sides[1] - sides[0])[0, axis] == 1
        place = int(sides[0][0, axis])
        drawn, actual = stroke.select(axis, place) > 0, mask.select(axis, place)
        assert (drawn & actual).sum() > 0.7 * (drawn | actual).sum()
        assert (points[:, axis] == place).all()


def test_a_stroke_in_an_empty_region_is_its_start():
    region = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.bool)
    start = torch.tensor([[3, 4, 5]])
    for kind in ("scribble", "lasso"):
        strokes, keys = draw_strokes(region, start, [kind], Randomness((1,)))
        assert strokes.sum() == 0 and (keys == start).all()


def test_a_corrupted_mask_is_recognisable_and_wrong():
    target = balls()
    overlap = []
    for seed in range(8):
        found = corrupt_mask(target, Randomness((seed,))) > 0
        overlap += (
            2 * (found & target).flatten(1).sum(1) / (found.flatten(1).sum(1) + target.flatten(1).sum(1))
        ).tolist()
    assert 0.3 < np.mean(overlap) < 0.95 and max(overlap) < 1


def test_sums_by_slices_are_the_poolings_they_replace():
    x = torch.rand(2, 8, 10, 12, generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.avg_pool3d(x, 5, stride=1, padding=2)
    torch.testing.assert_close(box_mean(x, 5), pooled)
    torch.testing.assert_close(halve(x), torch.nn.functional.avg_pool3d(x, 2))
    assert torch.equal(dilate(x), torch.nn.functional.max_pool3d(x, 3, stride=1, padding=1))
    assert torch.equal(max_of_cells(x), torch.nn.functional.max_pool3d(x, 2))
    share, depth = region_depth(x > 0.5)
    assert share.shape == depth.shape == (2, 4, 5, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_compiler_is_given_the_same_dilation(dtype):
    x = torch.randint(0, 9, (2, 1, 4, 5, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x - 9 if dtype == torch.float32 else x
    for axes in ((-3, -2, -1), (-2, -1), (-1,)):
        assert torch.equal(dilate_padded(x, axes), dilate(x, axes))


def test_a_gpu_takes_the_same_means_as_a_cpu():
    x = torch.rand(2, 8, 10, 12, generator=torch.Generator().manual_seed(0))
    for values, side, axes in ((x, 5, (-3, -2, -1)), (x, 9, (-2, -1)), (x[:, 0], 7, (-2, -1)), (x, 1, (-1,))):
        torch.testing.assert_close(pooled_mean(values, side, axes), box_mean(values, side, axes))


def test_indices_are_drawn_by_weight():
    weights = torch.tensor([[1.0, 0.0, 3.0], [0.0, 5.0, 0.0]])
    drawn = draw_indices(weights, Randomness((1,)), 4000)
    assert (drawn[1] == 1).all()
    assert (drawn[0] == 1).sum() == 0
    assert (drawn[0] == 2).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_shares_that_contradict_each_other_are_refused_by_name():
    with pytest.raises(ValueError, match=r"box_share=0.7 and mask_share=0.6"):
        PromptSimulatorConfig(box_share=0.7, mask_share=0.6)
    with pytest.raises(ValueError, match="flat_box_share=2"):
        PromptSimulatorConfig(flat_box_share=2)
