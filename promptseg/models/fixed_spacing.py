"""Tiles of one spacing, for weights that know no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..cache import EmbeddingCache
from ..engine import TileEngine
from ..preprocessing import IntensityMapping
from ..tiles import TileLattice
from ..volume import Volume

EngineT = TypeVar("EngineT", bound=TileEngine)


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


def bind(engine_class: type[EngineT], model: Any, volume: Volume, cache: EmbeddingCache, signature: str) -> EngineT:
    """Binds weights to an image, for :class:`~promptseg.interaction.Interaction`.

    Args:
        engine_class: reads the tiles, and maps their intensities itself.
        model: in evaluation mode; its ``config`` has ``tile_size`` and ``spacing_mm``.
        volume: the image.
        cache: of embeddings.
        signature: of the image and the weights.
    """
    shape = tuple(int(n) for n in volume.canonical_shape)
    spacing = tuple(float(s) for s in volume.canonical_spacing_mm)
    lattice = FixedSpacingLattice(shape, spacing, model.config.tile_size, model.config.spacing_mm)  # type: ignore[arg-type]
    unused = IntensityMapping(-1.0, 1.0, np.array([-1.0, 1.0], dtype=np.float32))
    return engine_class(model, volume, lattice, unused, cache, signature)


def as_float_tensor(array: np.ndarray) -> Tensor:
    """Raw intensities as float32."""
    return torch.from_numpy(array.astype(np.float32))
