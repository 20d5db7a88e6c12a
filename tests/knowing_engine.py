"""An engine whose decoder knows the truth, and short words for what tests of interaction ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from promptseg.canvas import Canvas
from promptseg.drawing import Drawing, InteractionConfig
from promptseg.interaction import Interaction
from promptseg.models import DecoderOutput
from promptseg.native_mask import NativeMask
from promptseg.prompts import PromptSet
from promptseg.tiles import TileKey, TileLattice

LATTICE = TileLattice((90, 75, 60), (1.0, 1.0, 1.25), 16)


@dataclass
class KnowingEngine:
    """Draws an ellipsoid wherever it is asked to, and remembers where that was."""

    centre_vox: tuple[float, float, float]
    radii_vox: tuple[float, float, float]
    lattice: TileLattice = LATTICE
    tile_lists: list[list[TileKey]] = field(default_factory=list)
    mask_weights: list[float | None] = field(default_factory=list)

    def level(self, places_vox: np.ndarray) -> np.ndarray:
        """Positive inside, 0 on the surface, in about millimetres."""
        offsets = (places_vox - self.centre_vox) / np.array(self.radii_vox)
        return (1 - np.linalg.norm(offsets, axis=-1)) * min(self.radii_vox)

    def decode(
        self,
        tiles: list[TileKey],
        prompts: PromptSet,
        canvas: Canvas | None,
        multimask: bool = False,
        mask_weight: float = 1.0,
    ) -> DecoderOutput:
        self.tile_lists.append(list(tiles))
        self.mask_weights.append(None if canvas is None else mask_weight)
        size = self.lattice.tile_size
        logits = []
        for tile in tiles:
            grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1) + self.lattice.tile_low(tile)
            logits.append(self.level(self.lattice.from_level(grid, tile.level)))
        masks = torch.from_numpy(np.stack(logits).astype(np.float32))[:, None, None]
        count = 4 if multimask else 1
        return DecoderOutput(
            masks.expand(-1, 1, count, -1, -1, -1).clone(),
            torch.full((len(tiles), 1, count), 2.0),
            torch.zeros(len(tiles), 1),
        )

    @property
    def truth(self) -> np.ndarray:
        voxels = np.stack(np.meshgrid(*[np.arange(n) for n in self.lattice.shape], indexing="ij"), axis=-1)
        return self.level(voxels.astype(float)) > 0


def make(
    centre: tuple[float, ...], radii: tuple[float, ...] | float, **config: Any
) -> tuple[Interaction, KnowingEngine]:
    sides = (radii,) * 3 if isinstance(radii, (int, float)) else radii
    engine = KnowingEngine(centre, sides)  # type: ignore[arg-type]
    return Interaction(engine, InteractionConfig(**config)), engine  # type: ignore[arg-type]


def clicks(*places: tuple[float, float, float], labels: list[int] | None = None, **more: Any) -> PromptSet:
    return PromptSet(np.array(places, float), np.array(labels or [1] * len(places)), **more)


def around(place: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(place, float), np.array(place, float) + 1


def dice(drawing: Drawing, truth: np.ndarray) -> float:
    mask = NativeMask.of_canvas(drawing.canvas, np.array(truth.shape)).cut((np.zeros(3, int), np.array(truth.shape)))
    return 2 * float((mask * truth).sum()) / float(mask.sum() + truth.sum())


centres = st.tuples(*[st.floats(0.25, 0.75)] * 3).map(lambda s: tuple(np.array(s) * LATTICE.shape))
