"""SAM-Med3D on whole volumes: tiles at the spacing it was trained at, normalised as in its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...cache import EmbeddingCache
from ...engine import TileEngine
from ...preprocessing import IntensityMapping
from ...resample import sample_tile
from ...tiles import TileKey, TileLattice
from ...volume import Volume
from .model import SamMed3DModel, normalise_tile


@dataclass(frozen=True)
class FixedSpacingLattice(TileLattice):
    """One level of tiles, at a fixed isotropic spacing whatever the image's.

    Attributes:
        level_0_mm: spacing of the tiles' voxels.

    Example:
        >>> lattice = FixedSpacingLattice((512, 512, 300), (0.7, 0.7, 1.0), 128, 1.5)
        >>> lattice.num_levels, lattice.counts(0)
        (1, (3, 3, 3))
    """

    level_0_mm: float = 1.5

    @property
    def num_levels(self) -> int:
        """1: a coarser level would be outside the training."""
        return 1

    def level_spacing_mm(self, level: int) -> float:
        """Spacing of a level's isotropic voxels."""
        return self.level_0_mm * 2.0**level


class SamMed3DEngine(TileEngine):
    """Reads tiles of raw intensities and normalises each by itself, as SAM-Med3D's crops were."""

    def read_tile(self, tile: TileKey) -> Tensor:
        """Normalised intensities of a tile: (T, T, T) float32; 0 before normalising, beyond the image."""
        start = self.lattice.from_level(self.lattice.tile_low(tile), tile.level)
        step = self.lattice.step_vox(tile.level)
        size = self.lattice.tile_size
        raw = sample_tile(self.volume.canonical_array, start, step, size, as_float_tensor, outside=0.0)
        return normalise_tile(raw[None, None])[0, 0]


def as_float_tensor(array: np.ndarray) -> Tensor:
    """Raw intensities as float32."""
    return torch.from_numpy(array.astype(np.float32))


def make_engine(model: SamMed3DModel, volume: Volume, cache: EmbeddingCache, signature: str) -> SamMed3DEngine:
    """Binds SAM-Med3D to an image, for :class:`~promptseg.interaction.Interaction`.

    Args:
        model: in evaluation mode.
        volume: the image.
        cache: of embeddings.
        signature: of the image and the weights.
    """
    shape = tuple(int(n) for n in volume.canonical_shape)
    spacing = tuple(float(s) for s in volume.canonical_spacing_mm)
    lattice = FixedSpacingLattice(shape, spacing, model.config.tile_size, model.config.spacing_mm)  # type: ignore[arg-type]
    unused = IntensityMapping(-1.0, 1.0, np.array([-1.0, 1.0], dtype=np.float32))
    return SamMed3DEngine(model, volume, lattice, unused, cache, signature)  # type: ignore[arg-type]
