"""Structures are looked for where the word head sees them, and drawn on the levels that show them well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from promptseg import search
from promptseg.models import DecoderOutput
from promptseg.models.word_head import WORD_STRIDE, WordHint
from promptseg.search import Finding, find_structures
from promptseg.tiles import TileKey, TileLattice

LATTICE = TileLattice((260, 220, 180), (1.0, 1.0, 1.0), 32)
LEFT, RIGHT = (80.0, 120.0, 90.0), (180.0, 120.0, 90.0)
RADIUS = 5.0


@dataclass
class KnowingModel:
    """Knows where each structure is, as far as a cell shows it; ``confidence`` is that of its densest cell."""

    places: Sequence[tuple[float, float, float]]
    confidence: float = 5.0
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    has_words: bool = True

    @property
    def word_head(self) -> Any:
        return self._hint if self.has_words else None

    def _hint(self, tile: TileKey, words: torch.Tensor, are_present: torch.Tensor) -> WordHint:
        assert are_present.all()
        number = LATTICE.tile_size // WORD_STRIDE
        corners = np.stack(np.meshgrid(*[np.arange(number)] * 3, indexing="ij"), axis=-1) * WORD_STRIDE
        centres = LATTICE.from_level(LATTICE.tile_low(tile) + corners + (WORD_STRIDE - 1) / 2, tile.level)
        reach = WORD_STRIDE / 2 * LATTICE.step_vox(tile.level) + RADIUS
        names = words[0, :, 0, 0].long().tolist()
        inside = [(np.abs(centres - self.places[n]) <= reach).all(axis=-1) for n in names]
        distance = [np.linalg.norm(centres - self.places[n], axis=-1) for n in names]
        logits = [np.where(i, self.confidence - 0.01 * d, -9.0) for i, d in zip(inside, distance, strict=True)]
        shown = torch.tensor([[4.0 if i.any() else -4.0 for i in inside]])
        return WordHint(torch.from_numpy(np.stack(logits))[None].float(), shown)


@dataclass
class KnowingEngine:
    model: KnowingModel
    lattice: TileLattice = LATTICE
    drawn: list[tuple[int, tuple[TileKey, ...]]] = field(default_factory=list)
    seen: list[TileKey] = field(default_factory=list)

    def embed(self, tiles: list[TileKey]) -> list[TileKey]:
        self.seen += tiles
        return tiles


@pytest.fixture(autouse=True)
def _tiles_are_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(engine: KnowingEngine, tiles: list[TileKey], tokens: torch.Tensor, before: Any) -> DecoderOutput:
        engine.drawn.append((tiles[0].level, tuple(tiles)))
        size = LATTICE.tile_size
        logits = torch.empty(len(tiles), len(tokens), 1, size, size, size)
        for row, tile in enumerate(tiles):
            grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1) + LATTICE.tile_low(tile)
            voxels = LATTICE.from_level(grid, tile.level)
            for column, number in enumerate(tokens[:, 0, 0].long().tolist()):
                away = np.linalg.norm(voxels - engine.model.places[number], axis=-1)
                logits[row, column, 0] = torch.from_numpy(RADIUS - away)
        shown = (logits > 0).flatten(2).any(dim=2)
        return DecoderOutput(logits, torch.full((len(tiles), len(tokens), 1), 2.0), torch.where(shown, 4.0, -4.0))

    monkeypatch.setattr(search, "decode_structures", decode)
    monkeypatch.setattr(search, "ImageEmbedding", SimpleNamespace(concatenate=lambda parts: parts[0]))


def ask(engine: KnowingEngine, *numbers: int) -> list[Finding]:
    tokens = torch.tensor(numbers, dtype=torch.float32)[:, None, None]
    return find_structures(engine, [2 * RADIUS] * len(numbers), tokens)  # type: ignore[arg-type]


def middle_of(finding: Finding) -> np.ndarray:
    assert finding.canvas is not None
    low, high = finding.canvas.box_vox()  # type: ignore[misc]
    return (low + high - 1) / 2


def test_two_of_a_kind_are_each_drawn_where_the_word_head_sees_them() -> None:
    engine = KnowingEngine(KnowingModel([LEFT, RIGHT]))
    for finding, place in zip(ask(engine, 0, 1), (LEFT, RIGHT), strict=True):
        assert np.abs(middle_of(finding) - place).max() < 1.5
        assert finding.canvas is not None
        assert finding.canvas.level == 0
        assert finding.presence > 0.9


def test_only_levels_that_show_a_structure_well_are_drawn_and_only_near_its_place() -> None:
    engine = KnowingEngine(KnowingModel([LEFT, RIGHT]))
    ask(engine, 0)
    assert {level for level, _ in engine.drawn} == {0}
    drawn = [tile for _, tiles in engine.drawn for tile in tiles]
    assert len(drawn) == len(set(drawn)) <= 27 < len(LATTICE.all_tiles(0))
    for tile in drawn:
        centre = LATTICE.from_level(LATTICE.tile_low(tile) + LATTICE.tile_size / 2, 0)
        assert np.linalg.norm(centre - np.array(LEFT)) < 3 * LATTICE.tile_size


def test_an_unsure_word_head_does_not_choose_the_place() -> None:
    engine = KnowingEngine(KnowingModel([LEFT, RIGHT], confidence=-2.0))
    ask(engine, 1)
    level, tiles = engine.drawn[0]
    assert level == LATTICE.num_levels - 1
    assert set(tiles) == set(LATTICE.all_tiles(level))


def test_weights_without_a_word_head_are_searched_on_every_level() -> None:
    engine = KnowingEngine(KnowingModel([LEFT, RIGHT], has_words=False))
    (finding,) = ask(engine, 1)
    assert engine.drawn[0][0] == LATTICE.num_levels - 1
    assert np.abs(middle_of(finding) - RIGHT).max() < 1.5


def test_what_is_nowhere_is_not_found() -> None:
    engine = KnowingEngine(KnowingModel([(-500.0, -500.0, -500.0)]))
    (finding,) = ask(engine, 0)
    assert finding.canvas is None
    assert finding.presence < 0.1
    assert not engine.drawn, "the word head has ruled it out, so the decoder is not asked"


def test_structures_are_drawn_only_on_tiles_that_may_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = KnowingEngine(KnowingModel([LEFT, RIGHT]))
    asked: list[tuple[TileKey, int]] = []
    decode = search.decode_structures

    def spy(engine: Any, tiles: list[TileKey], tokens: torch.Tensor, before: Any) -> DecoderOutput:
        assert len(before) == len(tokens)
        asked.extend((tile, int(number)) for tile in tiles for number in tokens[:, 0, 0])
        return decode(engine, tiles, tokens, before)

    monkeypatch.setattr(search, "decode_structures", spy)
    everywhere = LATTICE.all_tiles(LATTICE.num_levels - 3)
    tokens = torch.tensor([0.0, 1.0])[:, None, None]
    found = search._draw(engine, everywhere, tokens, [Finding(), Finding()])  # type: ignore[arg-type]
    assert 0 < len(asked) < 2 * len(everywhere)
    for finding, place in zip(found, (LEFT, RIGHT), strict=True):
        assert np.abs(middle_of(finding) - place).max() < 4


def test_an_average_is_drawn_on_moved_tiles_at_the_structures_own_level_alone() -> None:
    engine = KnowingEngine(KnowingModel([LEFT, RIGHT]))
    tokens = torch.zeros(1, 1, 1)
    (once,) = find_structures(engine, [2 * RADIUS], tokens)  # type: ignore[arg-type]
    (_, single), engine.drawn = engine.drawn[0], []
    (finding,) = find_structures(engine, [2 * RADIUS], tokens, is_averaged=True)  # type: ignore[arg-type]
    assert once.canvas is not None and finding.canvas is not None
    tiles = [tile for _, drawn in engine.drawn for tile in drawn]
    assert {tile.level for tile in tiles} == {0}
    assert {tile.shift for tile in tiles} == {(n, n, n) for n in (0, 1, -1, 3, -3)}
    assert {tile for tile in tiles if not any(tile.shift)} == set(single)
    assert np.abs(middle_of(finding) - LEFT).max() < 1.5
    box = [np.rint(end).astype(int) for end in once.canvas.box_vox()]  # type: ignore[union-attr]
    assert torch.allclose(once.canvas.sample(*box), finding.canvas.sample(*box), atol=1e-3)


def test_a_finer_level_looks_near_where_a_coarser_one_saw_it() -> None:
    tile = LATTICE.nearest((np.array(LEFT) + RIGHT) / 2, LATTICE.num_levels - 1)
    number = LATTICE.tile_size // WORD_STRIDE
    logits = torch.full((number,) * 3, -5.0)
    cells = []
    for place, height in ((LEFT, 2.0), (RIGHT, 1.5)):
        local = LATTICE.to_level(np.array(place), tile.level) - LATTICE.tile_low(tile)
        cells.append(tuple(np.clip(np.rint((local - 3.5) / WORD_STRIDE), 0, number - 1).astype(int)))
        logits[cells[-1]] = height
    assert cells[0] != cells[1]
    axes = search._cell_axes(LATTICE, tile, logits.shape)
    reach = WORD_STRIDE / 2 * LATTICE.step_vox(tile.level)
    for place, cell in ((LEFT, cells[0]), (RIGHT, cells[1])):
        peak, found = search._best_place(axes, logits, Finding(place_vox=np.array(place), reach_vox=reach))
        middle = LATTICE.from_level(LATTICE.tile_low(tile) + WORD_STRIDE * np.array(cell) + 3.5, tile.level)
        assert np.abs(found - middle).max() < reach.max()
        assert 0.2 < peak < 0.9
    assert search._best_place(axes, logits, Finding())[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
