"""A probabilistic atlas: how structures that are labelled together lie to each other, at every place how often which.

It is made of label maps (see :mod:`promptseg.data.atlas_building`), travels with the weights, and is registered to an
image by :mod:`promptseg.registration`, so that what lies nowhere in particular, a name, gets a place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AtlasConfig:
    """What an atlas holds.

    Raises:
        ValueError: for a grid or terms that cannot be.
    """

    name: str
    """Data set whose label maps it was made of."""
    terms: tuple[str, ...]
    """Names of its structures, with their sides, in the order of their maps."""
    shape: tuple[int, int, int]
    """Voxels along right, anterior and superior."""
    origin_mm: tuple[float, float, float]
    """Position of the first voxel's centre; 0 is about the structures' middle."""
    spacing_mm: float
    """Side of its cubic voxels."""
    cases: int = 0
    """Label maps that it was made of."""

    def __post_init__(self) -> None:
        for name, kind in (("terms", str), ("shape", int), ("origin_mm", float)):
            object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        if len(self.shape) != 3 or min(self.shape) < 1 or len(self.origin_mm) != 3 or self.spacing_mm <= 0:
            raise ValueError(
                f"atlas {self.name!r}: shape={self.shape}, origin_mm={self.origin_mm}, spacing_mm={self.spacing_mm}: "
                "expected three positive integers, three numbers and a positive number"
            )
        if not self.terms:
            raise ValueError(f"atlas {self.name!r}: it has no terms")

    def positions_mm(self) -> np.ndarray:
        """Centres of its voxels: (*shape, 3)."""
        axes = [low + self.spacing_mm * np.arange(n) for low, n in zip(self.origin_mm, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


class Atlas(nn.Module):
    """An atlas's maps, among the tensors of a model's weights; nothing in it is trained.

    Args:
        config: of the atlas.
    """

    shares: Tensor
    """(K + 1, voxels) uint8: how many of 255 label maps show each structure there, and last, other tissue."""

    def __init__(self, config: AtlasConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("shares", torch.zeros((len(config.terms) + 1, math.prod(config.shape)), dtype=torch.uint8))

    def shares_of(self, numbers: list[int]) -> Tensor:
        """How often any of some structures is there, 0 to 1: (*shape) float32 on the CPU."""
        return self.shares[numbers].cpu().float().sum(dim=0).div_(255).clamp_(max=1).reshape(self.config.shape)
