"""Simulated users for training: clicks, boxes and masks drawn from objects and errors, batched and on the device.

Nothing here loops over objects. Decisions (which axis, how much) are drawn on the host, positions on the device, so a
GPU is never waited for. Depth inside a region is approximated by repeated box means at half resolution, which costs a
few additions of slices instead of a distance transform for each object. Scribbles and lassos are in
:mod:`promptseg.data.stroke_simulator`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.prompt_encoder import ABSENT
from .randomness import Randomness, RandomSource, hand_over

_SHARES = (
    "box_share",
    "scribble_share",
    "lasso_share",
    "mask_share",
    "mask_alone_share",
    "deepest_share",
    "mask_dropout",
    "astray_share",
    "text_alone_share",
    "flat_box_share",
)


@dataclass(frozen=True)
class PromptSimulatorConfig:
    """How often each kind of prompt is given, and how it is drawn; each object draws for itself.

    Raises:
        ValueError: for a share outside 0 to 1, or shares that exceed 1 together.
    """

    box_share: float = 0.22
    """Probability that a box opens an episode (alone or with a click)."""
    scribble_share: float = 0.1
    """Probability that a round's correction is a scribble."""
    lasso_share: float = 0.05
    """Probability that a round's correction is a lasso."""
    mask_share: float = 0.22
    """Probability that an episode opens with a coarse or corrupted mask, alone or beside a click."""
    mask_alone_share: float = 0.25
    """Share of those masks that are given alone: what is drawn a level finer, in a tile without clicks, has no more."""
    deepest_share: float = 0.35
    """Probability that a click is the deepest point of the error; else drawn with weight by depth."""
    mask_dropout: float = 0.0
    """Probability that a correction is asked for without the mask that it corrects, from all prompts alone."""
    astray_share: float = 0.0
    """Probability that, after an ambiguous first prompt, any of the answers is corrected, however wrong, and not the
    best one or the one thought to be: at inference, too, what is corrected may be far too large or too small."""
    text_alone_share: float = 0.6
    """Probability that an object with a name is first asked for by it alone; else with another prompt beside it."""
    flat_box_share: float = 0.25
    """Share of boxes that lie on one slice."""
    box_jitter: float = 0.12
    """Standard deviation of a box side's shift, relative to the box."""

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a share from 0 to 1")
        if not 0 <= self.box_jitter <= 1:
            raise ValueError(f"box_jitter={self.box_jitter}: expected 0 to 1")
        for first, second in (("box_share", "mask_share"), ("scribble_share", "lasso_share")):
            if getattr(self, first) + getattr(self, second) > 1:
                raise ValueError(
                    f"{first}={getattr(self, first)} and {second}={getattr(self, second)}: expected at most 1 together"
                )


def halve(x: Tensor) -> Tensor:
    """Mean of each 2x2x2 cell, by slices: (..., D, H, W) -> (..., D/2, H/2, W/2) float32."""
    x = x[..., ::2].float() + x[..., 1::2]
    x = x[..., ::2, :] + x[..., 1::2, :]
    return (x[..., ::2, :, :] + x[..., 1::2, :, :]) / 8


def region_depth(region: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each 2x2x2 cell in the region, and the cell's approximate depth.

    Args:
        region: (N, D, H, W) bool, even D, H, W.

    Returns:
        share and depth, (N, D/2, H/2, W/2) float32; depth is 0 outside the region.
    """
    share = halve(region)
    near = box_mean(share, 3)
    far = box_mean(near, 5)
    wide = box_mean(far, 9)
    return share, (near + far + 2 * wide) * (share > 0)


def box_mean(x: Tensor, side: int, axes: tuple[int, ...] = (-3, -2, -1)) -> Tensor:
    """Mean over a cube of odd ``side``, zeros outside: (..., D, H, W) -> the same shape.

    Summed by slices, axis by axis: on a CPU ten times faster than the same pooling, which on a GPU is a kernel an axis.
    """
    if x.is_cuda and min(x.shape[axis] for axis in axes) >= side:
        return pooled_mean(x, side, axes)
    for axis in axes:
        total = x.clone()
        for shift in range(1, side // 2 + 1):
            size = x.shape[axis] - shift
            if size <= 0:
                break
            total.narrow(axis, 0, size).add_(x.narrow(axis, shift, size))
            total.narrow(axis, shift, size).add_(x.narrow(axis, 0, size))
        x = total
    return x / side ** len(axes)


def pooled_mean(x: Tensor, side: int, axes: tuple[int, ...]) -> Tensor:
    """The same by pooling one axis after the other; of at least three axes, none of ``axes`` shorter than the side."""
    for axis in axes:
        sides = [side if other == axis else 1 for other in (-3, -2, -1)]
        cells = x.reshape(-1, 1, *x.shape[-3:])
        x = F.avg_pool3d(cells, sides, stride=1, padding=[n // 2 for n in sides]).reshape(x.shape)
    return x


def draw_indices(weights: Tensor, randomness: Randomness, count: int = 1) -> Tensor:
    """Indices per row with probability proportional to weight, with replacement: (N, M) >= 0 -> (N, count)."""
    cumulative = weights.double().cumsum(dim=1)
    place = torch.rand(
        len(weights), count, generator=randomness.device, device=weights.device, dtype=torch.float64
    )  # one random number for each index
    return torch.searchsorted(cumulative, place * cumulative[:, -1:], right=True).clamp(max=weights.shape[1] - 1)


def unravel(index: Tensor, grid: tuple[int, ...] | torch.Size) -> Tensor:
    """Flat indices (...) as coordinates (..., len(grid)); ``torch.unravel_index`` would make a GPU wait."""
    coordinates = []
    for side in reversed(grid):
        coordinates.append(index % side)
        index = index // side
    return torch.stack(coordinates[::-1], dim=-1)


def values_at(volumes: Tensor, points: Tensor) -> Tensor:
    """Values of volumes (N, D, H, W) at voxels (N, k, 3) -> (N, k)."""
    _, _, h, w = volumes.shape
    flat = (points[..., 0] * h + points[..., 1]) * w + points[..., 2]
    return volumes.flatten(1).gather(1, flat)


def sample_points(region: Tensor, source: RandomSource | None, deepest_share: float = 1.0) -> tuple[Tensor, Tensor]:
    """One point in each region: points (N, 3), and (N,) bool; see :func:`sample_several`."""
    points, found = sample_several(region, source, deepest_share, 1)
    return points[:, 0], found


def sample_several(
    region: Tensor, source: RandomSource | None, deepest_share: float, count: int
) -> tuple[Tensor, Tensor]:
    """Points in each region, weighted by depth or at the deepest place.

    Args:
        region: (N, D, H, W) bool, even D, H, W.
        source: of randomness; None for the deepest place always.
        deepest_share: probability of the deepest place.
        count: points for each region, drawn one by one.

    Returns:
        points (N, count, 3) int64 voxels; and (N,) bool, False where the region is empty.
    """
    randomness = None if source is None else Randomness.of(source, region.device)
    share, depth = region_depth(region)
    flat = depth.flatten(1)
    found = flat.amax(dim=1) > 0
    deepest = flat.argmax(dim=1, keepdim=True).expand(-1, count)
    if randomness is None:
        cell = deepest
    else:
        use_deepest = randomness.uniform(len(region), count) < deepest_share
        cell = torch.where(use_deepest, deepest, draw_indices(flat.square(), randomness, count))
    cells = unravel(cell, share.shape[1:])  # (N, count, 3)
    corners = unravel(torch.arange(8, device=region.device), (2, 2, 2))
    voxels = 2 * cells[:, :, None] + corners  # (N, count, 8, 3)
    member = values_at(region, voxels.flatten(1, 2)).reshape(voxels.shape[:3]).float()
    if randomness is not None:
        member = member * (0.5 + randomness.uniform(*member.shape))
    chosen = member.argmax(dim=2)[:, :, None, None].expand(-1, -1, 1, 3)
    return voxels.gather(2, chosen)[:, :, 0], found


def correct(
    target: Tensor, predicted: Tensor, source: RandomSource | None, deepest_share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Clicks on errors: a point of (target xor predicted) and its label, per object.

    Args:
        target: (N, D, H, W) bool.
        predicted: (N, D, H, W) bool.
        source: see :func:`sample_several`.
        deepest_share: see :func:`sample_several`.

    Returns:
        points (N, 3) int64 and labels (N,) int64: 1 missing, 0 wrongly included, -1 nothing to correct.
    """
    points, found = sample_points(target ^ predicted, source, deepest_share)
    labels = values_at(target, points[:, None])[:, 0].long()
    return points, torch.where(found, labels, torch.full_like(labels, ABSENT))


def bounds(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Half-open bounding boxes of masks (N, ...) bool: low and high (N, axes) float; the whole grid where empty."""
    lows, highs = [], []
    for axis in range(1, mask.ndim):
        line = mask
        for other in range(mask.ndim - 1, 0, -1):
            if other != axis:
                line = line.any(dim=other)
        size = line.shape[1]
        marked = line.to(torch.uint8)
        lows.append(marked.argmax(dim=1))  # the first of the largest; 0 where there is none
        highs.append(size - marked.flip(1).argmax(dim=1))
    return torch.stack(lows, dim=1).float(), torch.stack(highs, dim=1).float()


def planes_at(volumes: Tensor, axis: int, places: Tensor) -> Tensor:
    """One slice of each volume: (N, D, H, W), an axis 0 to 2 and (N,) places along it -> (N, A, B)."""
    moved = volumes.movedim(axis + 1, 1)
    return moved[torch.arange(len(volumes), device=volumes.device), places]


def draw_boxes(target: Tensor, randomness: Randomness, config: PromptSimulatorConfig) -> Tensor:
    """Jittered bounding boxes, some on one slice: (N, D, H, W) bool -> (N, 6) float half-open, low then high."""
    count, grid = len(target), target.shape[1:]
    low, high = bounds(target)
    is_flat = randomness.host.random(count) < config.flat_box_share
    axes = randomness.host.integers(3, size=count)
    is_fixed = np.zeros((count, 3), dtype=bool)
    for axis in range(3):
        chosen = (is_flat & (axes == axis)).nonzero()[0]
        if not len(chosen):
            continue
        is_fixed[chosen, axis] = True
        rows = hand_over(chosen, target.device)
        masks = target[rows]
        areas = masks.sum(dim=[a for a in (1, 2, 3) if a != axis + 1]).float()
        places = draw_indices(areas, randomness)[:, 0]
        flat_low, flat_high = bounds(planes_at(masks, axis, places))
        others = hand_over(np.array([a for a in range(3) if a != axis]), low.device)
        low[rows[:, None], others] = flat_low
        high[rows[:, None], others] = flat_high
        low[rows, axis], high[rows, axis] = places.float(), places.float() + 1
    size = high - low
    limit = 0.25 * size + 1
    jitter = config.box_jitter * randomness.normal(2, count, 3) * (size + 2)
    jitter = torch.maximum(torch.minimum(jitter, limit), -limit).round()
    sides = hand_over(np.array(grid, dtype=np.float32), target.device)
    reach = randomness.uniform(2, count, 3) * sides / 2  # an object cut by the tile goes on beyond it
    moved_low = low + jitter[0] - reach[0] * (low == 0)
    moved_high = high + jitter[1] + reach[1] * (high == sides)
    fixed = hand_over(is_fixed, target.device)
    low, high = torch.where(fixed, low, moved_low), torch.where(fixed, high, moved_high)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1)


def corrupt_mask(target: Tensor, source: RandomSource) -> Tensor:
    """Logits of a coarse, displaced or eroded version of masks, as a coarser zoom level would hand down.

    Args:
        target: (N, D, H, W) bool, sides divisible by 8.
        source: of randomness; how coarse is one draw for all, the rest one for each object.

    Returns:
        (N, D, H, W) float32 logits.
    """
    randomness = Randomness.of(source, target.device)
    count, coarse = len(target), target
    for _ in range(int(randomness.host.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))):
        coarse = halve(coarse)
    noise = box_mean(randomness.normal(*coarse.shape), 3) * randomness.uniform(count, 1, 1, 1, high=0.75)
    shift = randomness.uniform(count, 1, 1, 1, low=-0.35, high=0.35)
    sharpness = randomness.uniform(count, 1, 1, 1, low=3, high=10)
    logits = (coarse - 0.5 + shift + noise) * sharpness
    return F.interpolate(logits[:, None], size=target.shape[1:], mode="trilinear", align_corners=False)[:, 0]
