"""Ranking of first answers: overlaps across zoom levels are true, and the guess that others confirm wins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg.models import DecoderOutput
from promptseg.ranking import RankingConfig, candidate_overlaps, cut_share, rank_candidates
from promptseg.tiles import TileKey, TileLattice

LATTICE = TileLattice((64, 64, 64), (1.0, 1.0, 1.0), 32)
CENTRE = np.array([31.5, 31.5, 31.5])
TILES = [LATTICE.nearest(CENTRE, level) for level in range(LATTICE.num_levels)]
CONFIG = RankingConfig(agreement_weight=0.5)
WITHOUT_AGREEMENT = RankingConfig(agreement_weight=0.0)


def ball(tile: TileKey, centre: np.ndarray, radius: float) -> torch.Tensor:
    """A ball given in canonical voxels, on a tile."""
    axes = [torch.arange(LATTICE.tile_size) + int(low) for low in LATTICE.tile_low(tile)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).numpy()
    distance = np.linalg.norm(LATTICE.from_level(grid, tile.level) - centre, axis=-1)
    return torch.from_numpy(distance < radius)


def output_of(masks: torch.Tensor, iou: torch.Tensor) -> DecoderOutput:
    """A decoder's output with these masks (L, M, T, T, T) and estimates (L, M)."""
    logits = torch.where(masks, 3.0, -3.0)[:, None]
    return DecoderOutput(logits, torch.logit(iou)[:, None], torch.zeros(len(masks), 1))


def test_one_object_on_two_levels_overlaps_with_itself() -> None:
    masks = torch.stack([ball(tile, CENTRE, 12)[None] for tile in TILES])
    overlaps = candidate_overlaps(LATTICE, TILES, masks)
    assert overlaps.shape == (len(TILES),) * 2
    assert torch.allclose(overlaps.diagonal(), torch.ones(len(TILES)), atol=0.1)
    assert float(overlaps[0, 1]) > 0.8
    assert torch.equal(overlaps, overlaps.T)


def test_what_lies_beyond_a_fine_tile_counts_against_the_overlap() -> None:
    masks = torch.stack([ball(TILES[0], CENTRE, 12)[None], ball(TILES[1], CENTRE, 24)[None]])
    overlap = float(candidate_overlaps(LATTICE, TILES, masks)[0, 1])
    assert overlap == pytest.approx((12 / 24) ** 3, rel=0.15)


def test_empty_masks_overlap_with_nothing() -> None:
    masks = torch.zeros(2, 2, 32, 32, 32, dtype=torch.bool)
    assert not candidate_overlaps(LATTICE, TILES, masks).any()


def test_the_guess_that_another_level_confirms_wins_over_a_slightly_surer_one() -> None:
    other = ball(TILES[0], CENTRE + 10, 4)
    fine = torch.stack([other, ball(TILES[0], CENTRE, 12)])
    coarse = torch.stack([ball(TILES[1], CENTRE, 12), ball(TILES[1], CENTRE, 13)])
    iou = torch.tensor([[0.55, 0.5], [0.4, 0.4]])
    output = output_of(torch.stack([fine, coarse]), iou)
    best = rank_candidates(LATTICE, TILES, output, CONFIG)[0]
    assert best.tile == TILES[0]
    assert best.iou == pytest.approx(0.5, abs=1e-4)
    alone = rank_candidates(LATTICE, TILES, output, WITHOUT_AGREEMENT)[0]
    assert alone.iou == pytest.approx(0.55, abs=1e-4)


def test_an_empty_guess_never_wins_and_a_cut_one_loses() -> None:
    empty, cut = torch.zeros(32, 32, 32, dtype=torch.bool), torch.ones(32, 32, 32, dtype=torch.bool)
    whole = ball(TILES[0], CENTRE, 10)
    masks = torch.stack([torch.stack([empty, cut, whole])])
    ranked = rank_candidates(LATTICE, TILES[:1], output_of(masks, torch.tensor([[0.9, 0.6, 0.5]])), WITHOUT_AGREEMENT)
    assert ranked[0].iou == pytest.approx(0.5, abs=1e-4)


def test_a_mask_is_cut_only_where_the_image_goes_on() -> None:
    inner, outer = TILES[0], TILES[-1]
    full = torch.ones(32, 32, 32, dtype=torch.bool)
    assert cut_share(LATTICE, inner, full) == pytest.approx(1.0, abs=0.02)
    assert cut_share(LATTICE, outer, full) == 0.0


def test_of_two_equally_sure_guesses_the_one_of_a_usual_size_wins() -> None:
    lattice = TileLattice((64, 64, 64), (9.0, 9.0, 9.0), 32)
    tiles = [lattice.nearest(CENTRE, level) for level in range(lattice.num_levels)]
    masks = torch.stack([torch.stack([ball(tiles[0], CENTRE, radius) for radius in (14, 5)])])
    output = output_of(masks, torch.tensor([[0.51, 0.5]]))
    assert rank_candidates(lattice, tiles[:1], output, WITHOUT_AGREEMENT)[0].iou == pytest.approx(0.5, abs=1e-4)
    indifferent = RankingConfig(agreement_weight=0.0, volume_penalty=0.0)
    assert rank_candidates(lattice, tiles[:1], output, indifferent)[0].iou == pytest.approx(0.51, abs=1e-4)


def test_a_tile_that_spans_a_body_has_to_be_surer_than_one_that_shows_detail() -> None:
    lattice = TileLattice((64, 64, 64), (9.0, 9.0, 9.0), 32)
    tiles = [lattice.nearest(CENTRE, level) for level in range(2)]
    masks = torch.stack([ball(tile, CENTRE, 6)[None] for tile in tiles])
    output = output_of(masks, torch.tensor([[0.5], [0.6]]))
    assert rank_candidates(lattice, tiles, output, CONFIG)[0].tile == tiles[0]
    indifferent = RankingConfig(side_penalty=0.0)
    assert rank_candidates(lattice, tiles, output, indifferent)[0].tile == tiles[1]
