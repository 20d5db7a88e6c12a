"""Which answer to an ambiguous first prompt is best: candidates of several zoom levels, compared with each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .models import DecoderOutput
from .tiles import TileKey, TileLattice

SAMPLING_STEP = 2
"""Voxels between those at which masks of two levels are compared, along each axis."""


@dataclass(frozen=True)
class RankingConfig:
    """What a candidate gains and loses; the defaults were chosen on training cases."""

    border_penalty: float = 1.0
    """Lost for each share of a mask's surface that its tile cuts off."""
    coarse_penalty: float = 0.02
    """Lost for each level of coarseness."""
    agreement_weight: float = 0.25
    """Gained by a candidate equal to all others."""
    usual_side_mm: float = 300.0
    """Side of a tile from which on it shows too little of most things that people ask for."""
    side_penalty: float = 0.15
    """Lost for each doubling of a tile's side beyond that."""
    usual_ml: float = 2000.0
    """Volume that few objects exceed: lungs, brains, bodies."""
    volume_penalty: float = 0.1
    """Lost for each doubling of a mask's volume beyond that."""


@dataclass(frozen=True)
class Candidate:
    """One answer to a first prompt.

    Attributes:
        tile: it was drawn on.
        logits: (T, T, T) float32.
        iou: estimated, 0 to 1.
        presence: estimated, 0 to 1.
        rank: what candidates are sorted by; higher is better.
    """

    tile: TileKey
    logits: Tensor
    iou: float
    presence: float
    rank: float


def rank_candidates(
    lattice: TileLattice, tiles: list[TileKey], output: DecoderOutput, config: RankingConfig
) -> list[Candidate]:
    """All candidates, best first: by estimated IoU, completeness, how far the others agree, and how usual the size is.

    A wrong reading of a click is wrong in its own way, while right ones of different levels resemble each other.

    Args:
        lattice: of the image.
        tiles: one of each level, finest first.
        output: of the decoder on these tiles for one object, M masks each.
        config: what counts how much.
    """
    masks = output.mask_logits[:, 0] > 0  # (L, M, T, T, T)
    agreement = candidate_overlaps(lattice, tiles, masks).mean(dim=1).reshape(masks.shape[:2])
    candidates = []
    for number, tile in enumerate(tiles):
        spacing_mm = lattice.level_spacing_mm(tile.level)
        level_penalty = config.coarse_penalty * number
        level_penalty += config.side_penalty * _doublings(lattice.tile_size * spacing_mm, config.usual_side_mm)
        for index, mask in enumerate(masks[number]):
            iou = float(output.iou_scores[number, 0, index])
            volume_ml = float(mask.sum()) * spacing_mm**3 / 1000
            rank = iou + config.agreement_weight * float(agreement[number, index]) - level_penalty
            rank -= config.border_penalty * cut_share(lattice, tile, mask)
            rank -= config.volume_penalty * _doublings(volume_ml, config.usual_ml)
            if volume_ml == 0:
                rank -= 1.0
            presence = float(output.presence_scores[number, 0])
            candidates.append(Candidate(tile, output.mask_logits[number, 0, index], iou, presence, rank))
    return sorted(candidates, key=lambda c: -c.rank)


def _doublings(value: float, usual: float) -> float:
    return max(0.0, math.log2(value / usual)) if value > 0 else 0.0


def cut_share(lattice: TileLattice, tile: TileKey, mask: Tensor) -> float:
    """Share of a mask's surface that lies on sides of its tile where the image goes on, 0 to 1.

    Args:
        lattice: of the image.
        tile: the mask lies on.
        mask: (T, T, T) bool.
    """
    size = float(mask.sum())
    if size == 0:
        return 0.0
    last = np.array(lattice.counts(tile.level)) - 1
    cut = 0.0
    for axis in range(3):
        if tile.place[axis] > 0:
            cut += float(mask.select(axis, 0).sum())
        if tile.place[axis] < last[axis]:
            cut += float(mask.select(axis, -1).sum())
    return min(1.0, cut / (6 * size ** (2 / 3)))


def candidate_overlaps(lattice: TileLattice, tiles: list[TileKey], masks: Tensor) -> Tensor:
    """IoU of every two masks, each on a tile of its own level.

    Args:
        lattice: of the image.
        tiles: one of each level, finest first.
        masks: (L, M, T, T, T) bool.

    Returns:
        (L * M, L * M) float32, symmetric; 0 between empty masks. Cost: L^2 passes over an eighth of a tile's voxels.
    """
    num_levels, num_masks = masks.shape[:2]
    overlaps = torch.zeros(num_levels, num_masks, num_levels, num_masks)
    voxel_mm3 = [lattice.level_spacing_mm(tile.level) ** 3 for tile in tiles]
    volumes = [level_masks.flatten(1).sum(dim=1) * mm3 for level_masks, mm3 in zip(masks, voxel_mm3, strict=True)]
    places = np.arange(0, lattice.tile_size, SAMPLING_STEP)
    for fine, fine_tile in enumerate(tiles):
        step = slice(None, None, SAMPLING_STEP)
        flat = masks[fine][:, step, step, step].flatten(1).float()  # (M, V)
        positions = lattice.from_level(lattice.tile_low(fine_tile) + places[:, None], fine_tile.level)  # (n, 3)
        for coarse in range(fine, num_levels):
            level = tiles[coarse].level
            local = np.rint(lattice.to_level(positions, level) - lattice.tile_low(tiles[coarse])).astype(int)
            seen = (local >= 0) & (local < lattice.tile_size)
            i, j, k = (torch.from_numpy(np.clip(local[:, axis], 0, lattice.tile_size - 1)) for axis in range(3))
            sampled = masks[coarse][:, i][:, :, j][..., k].float()
            for axis in range(3):
                shape = [1, 1, 1, 1]
                shape[axis + 1] = -1
                sampled *= torch.from_numpy(seen[:, axis]).float().reshape(shape)
            shared = flat @ sampled.flatten(1).T * (SAMPLING_STEP**3 * voxel_mm3[fine])  # (M, M)
            union = volumes[fine][:, None] + volumes[coarse][None] - shared
            iou = torch.where(union > 0, shared / union.clamp(min=1e-9), 0.0).clamp(max=1.0)
            overlaps[fine, :, coarse], overlaps[coarse, :, fine] = iou, iou.T
    return overlaps.reshape(num_levels * num_masks, -1)
