"""Simulated users for training: clicks, boxes, scribbles and lassos drawn from errors, batched and on the device.

Depth inside a region is approximated by repeated box means at half resolution, which costs two poolings instead of a
distance transform per object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.prompt_encoder import ABSENT

NUM_STROKE_KEY_POINTS = 4


@dataclass(frozen=True)
class PromptSimulatorConfig:
    """How often each kind of prompt opens an episode, and how it is drawn."""

    box_share: float = 0.22
    """Probability that a box opens an episode (alone or with a click)."""
    scribble_share: float = 0.1
    """Probability that a round's correction is a scribble."""
    lasso_share: float = 0.05
    """Probability that a round's correction is a lasso."""
    mask_share: float = 0.22
    """Probability that an episode opens with a coarse or corrupted mask beside its click."""
    deepest_share: float = 0.35
    """Probability that a click is the deepest point of the error; else drawn with weight by depth."""
    mask_dropout: float = 0.0
    """Probability that a correction is asked for without the mask that it corrects, from all prompts alone."""
    flat_box_share: float = 0.25
    """Share of boxes that lie on one slice."""
    box_jitter: float = 0.12
    """Standard deviation of a box side's shift, relative to the box."""


def region_depth(region: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each 2x2x2 cell in the region, and the cell's approximate depth.

    Args:
        region: (N, D, H, W) bool, even D, H, W.

    Returns:
        share and depth, (N, D/2, H/2, W/2) float32; depth is 0 outside the region.
    """
    share = region[..., ::2].float() + region[..., 1::2]
    share = share[..., ::2, :] + share[..., 1::2, :]
    share = (share[..., ::2, :, :] + share[..., 1::2, :, :]) / 8
    near = box_mean(share, 3)
    far = box_mean(near, 5)
    wide = box_mean(far, 9)
    return share, (near + far + 2 * wide) * (share > 0)


def box_mean(x: Tensor, side: int) -> Tensor:
    """Mean over a cube of odd ``side``, zeros outside: (..., D, H, W) -> the same shape.

    Summed by slices, axis by axis: on a CPU ten times faster than the same pooling.
    """
    for axis in (-3, -2, -1):
        total = x.clone()
        for shift in range(1, side // 2 + 1):
            size = x.shape[axis] - shift
            if size <= 0:
                break
            total.narrow(axis, 0, size).add_(x.narrow(axis, shift, size))
            total.narrow(axis, shift, size).add_(x.narrow(axis, 0, size))
        x = total
    return x / side**3


def dilate(x: Tensor) -> Tensor:
    """Largest value in each 3x3x3 neighbourhood: (..., D, H, W) -> the same shape."""
    for axis in (-3, -2, -1):
        out, size = x.clone(), x.shape[axis] - 1
        for low, high in ((0, 1), (1, 0)):
            view = out.narrow(axis, low, size)
            torch.maximum(view, x.narrow(axis, high, size), out=view)
        x = out
    return x


def draw_index(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row with probability proportional to its weight: (N, M) >= 0 -> (N,); one random number a row."""
    cumulative = weights.double().cumsum(dim=1)
    place = torch.rand(len(weights), 1, generator=generator, device=weights.device, dtype=torch.float64)
    return torch.searchsorted(cumulative, place * cumulative[:, -1:], right=True)[:, 0].clamp(max=weights.shape[1] - 1)


def sample_points(region: Tensor, generator: torch.Generator, deepest_share: float) -> tuple[Tensor, Tensor]:
    """One point in each region, weighted by depth or at the deepest place.

    Args:
        region: (N, D, H, W) bool, even D, H, W.
        generator: source of randomness.
        deepest_share: probability of the deepest place.

    Returns:
        points (N, 3) int64 voxels; and (N,) bool, False where the region is empty.
    """
    share, depth = region_depth(region)
    flat = depth.flatten(1)
    found = flat.amax(dim=1) > 0
    drawn = draw_index(flat.square(), generator)
    use_deepest = torch.rand(len(region), generator=generator, device=region.device) < deepest_share
    cell = torch.where(use_deepest, flat.argmax(dim=1), drawn)
    grid = share.shape[1:]
    cells = torch.stack(torch.unravel_index(cell, grid), dim=-1)  # (N, 3)
    offsets = torch.stack(torch.meshgrid(*[torch.arange(2, device=region.device)] * 3, indexing="ij"), -1).reshape(8, 3)
    voxels = 2 * cells[:, None] + offsets  # (N, 8, 3)
    rows = torch.arange(len(region), device=region.device)[:, None]
    member = region[rows, voxels[..., 0], voxels[..., 1], voxels[..., 2]].float()
    member = member * (0.5 + torch.rand(member.shape, generator=generator, device=region.device))
    points = voxels[rows[:, 0], member.argmax(dim=1)]
    return points, found


def correct(
    target: Tensor, predicted: Tensor, generator: torch.Generator, deepest_share: float
) -> tuple[Tensor, Tensor]:
    """Clicks on errors: a point of (target xor predicted) and its label, per object.

    Args:
        target: (N, D, H, W) bool.
        predicted: (N, D, H, W) bool.
        generator: source of randomness.
        deepest_share: see :func:`sample_points`.

    Returns:
        points (N, 3) int64 and labels (N,) int64: 1 missing, 0 wrongly included, -1 nothing to correct.
    """
    points, found = sample_points(target ^ predicted, generator, deepest_share)
    rows = torch.arange(len(target), device=target.device)
    labels = target[rows, points[:, 0], points[:, 1], points[:, 2]].long()
    return points, torch.where(found, labels, torch.full_like(labels, ABSENT))


def draw_boxes(target: Tensor, generator: torch.Generator, config: PromptSimulatorConfig) -> Tensor:
    """Jittered bounding boxes, some on one slice: (N, 6) float half-open, low then high."""
    boxes = []
    for mask in target:
        low, high = _bounds(mask)
        if torch.rand(1, generator=generator).item() < config.flat_box_share:
            axis = int(torch.randint(3, (1,), generator=generator).item())
            areas = mask.sum(dim=[a for a in range(3) if a != axis]).float()
            place = int(draw_index(areas[None], generator))
            low, high = _bounds(mask.select(axis, place).unsqueeze(axis))
            low[axis], high[axis] = place, place + 1
            fixed = axis
        else:
            fixed = None
        size = (high - low).float()
        jitter = config.box_jitter * torch.randn(2, 3, generator=generator) * (size + 2)
        limit = 0.25 * size + 1
        jitter = torch.maximum(torch.minimum(jitter, limit), -limit)
        new_low, new_high = low + jitter[0].round(), high + jitter[1].round()
        for axis, length in enumerate(mask.shape):  # an object cut by the tile goes on beyond it
            reach = float(torch.rand(1, generator=generator).item()) * length / 2
            new_low[axis] -= reach if low[axis] == 0 else 0
            new_high[axis] += reach if high[axis] == length else 0
        if fixed is not None:
            new_low[fixed], new_high[fixed] = low[fixed], high[fixed]
        boxes.append(torch.cat([new_low, torch.maximum(new_high, new_low + 1)]))
    return torch.stack(boxes)


def _bounds(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Half-open bounding box of a (D, H, W) bool mask as float tensors; the whole grid when empty."""
    low, high = torch.zeros(3), torch.tensor(mask.shape, dtype=torch.float32)
    for axis in range(3):
        line = mask.any(dim=2 if axis < 2 else 1).any(dim=0 if axis else 1).nonzero()
        if len(line):
            low[axis], high[axis] = float(line[0]), float(line[-1]) + 1
    return low, high


def draw_scribble(region: Tensor, start: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A line inside a region from a point on.

    Args:
        region: (D, H, W) bool.
        start: (3,) voxel in it.
        generator: source of randomness.

    Returns:
        stroke (D, H, W) float map, and key points (4, 3) along it.
    """
    ends, found = sample_points(region[None].expand(4, -1, -1, -1), generator, 0.0)
    end = ends[(ends - start).abs().sum(dim=1).argmax()] if bool(found.all()) else start
    steps = torch.linspace(0, 1, 48)[:, None]
    wiggle = torch.randn(3, generator=generator) * 2 * torch.sin(torch.pi * steps)
    line = (start + (end - start) * steps + wiggle * (torch.rand(1, generator=generator) < 0.5)).round().long()
    limit = torch.tensor(region.shape) - 1
    line = torch.minimum(line.clamp(min=0), limit)
    line = line[region[line[:, 0], line[:, 1], line[:, 2]]]
    line = line if len(line) else start[None]
    stroke = torch.zeros(region.shape)
    stroke[line[:, 0], line[:, 1], line[:, 2]] = 1.0
    keys = line[torch.linspace(0, len(line) - 1, NUM_STROKE_KEY_POINTS).round().long()]
    return dilate(stroke) * region, keys


def draw_lasso(region: Tensor, point: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A smoothed slice of a region through a point: stroke (D, H, W) float map and key points (4, 3)."""
    axis = int(torch.randint(3, (1,), generator=generator).item())
    place = int(point[axis])
    flat = region.select(axis, place).float()[None, None]
    smooth = F.avg_pool2d(flat, 5, stride=1, padding=2)[0, 0] > float(
        torch.empty(1).uniform_(0.35, 0.55, generator=generator)
    )
    if not bool(smooth.any()):
        smooth = flat[0, 0] > 0
    stroke = torch.zeros(region.shape)
    stroke.select(axis, place).copy_(smooth.float())
    members = stroke.nonzero()
    chosen = torch.randint(len(members), (NUM_STROKE_KEY_POINTS,), generator=generator)
    return stroke, members[chosen]


def corrupt_mask(target: Tensor, generator: torch.Generator) -> Tensor:
    """Logits of a coarse, displaced or eroded version of masks, as a coarser zoom level would hand down.

    Args:
        target: (N, D, H, W) bool, sides divisible by 8.
        generator: source of randomness.

    Returns:
        (N, D, H, W) float32 logits.
    """
    factor = (2, 2, 4, 4, 8)[int(torch.randint(5, (1,), generator=generator).item())]
    coarse = F.avg_pool3d(target[:, None].float(), factor)
    noise = torch.randn(coarse.shape, generator=generator)
    noise = F.avg_pool3d(noise, 3, stride=1, padding=1) * float(torch.empty(1).uniform_(0, 1.5, generator=generator))
    shift = torch.empty(len(target), 1, 1, 1, 1).uniform_(-0.35, 0.35, generator=generator)
    sharpness = float(torch.empty(1).uniform_(3, 10, generator=generator))
    logits = (coarse - 0.5 + shift + noise * 0.5) * sharpness
    return F.interpolate(logits, size=target.shape[1:], mode="trilinear", align_corners=False)[:, 0]
