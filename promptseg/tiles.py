"""The multi-scale lattice of tiles that a volume is read in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, order=True)
class TileKey:
    """Names a tile: zoom level (0 is the finest), place on that level's lattice, and how far it is moved from there."""

    level: int
    place: tuple[int, int, int]
    shift: tuple[int, int, int] = (0, 0, 0)
    """Level voxels."""

    def moved(self, by: int) -> TileKey:
        """The tile that lies ``by`` level voxels further along all axes."""
        return replace(self, shift=tuple(n + by for n in self.shift))


@dataclass(frozen=True)
class TileLattice:
    """Cubic tiles with half-tile stride at spacings r0, 2 r0, 4 r0, ... of a canonical volume.

    Each level has one voxel grid, on which all its tiles lie at multiples of half a tile; "level voxels" index it.

    Attributes:
        shape: (3,) voxels of the canonical volume.
        spacing_mm: (3,) its spacing.
        tile_size: side of a tile in voxels, even.

    Example:
        >>> lattice = TileLattice((512, 512, 300), (0.7, 0.7, 1.0), 64)
        >>> lattice.num_levels, lattice.level_spacing_mm(3)
        (4, 5.6)
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tile_size: int

    @property
    def num_levels(self) -> int:
        """Levels up to the one that holds the volume in one tile."""
        ratio = self._extent_mm.max() / (self.tile_size * min(self.spacing_mm))
        return 1 + max(0, int(np.ceil(np.log2(max(ratio, 1e-9)) - 1e-9)))

    @property
    def _extent_mm(self) -> np.ndarray:
        return np.array(self.shape) * np.array(self.spacing_mm)

    def level_spacing_mm(self, level: int) -> float:
        """Spacing of a level's isotropic voxels."""
        return float(min(self.spacing_mm)) * 2.0**level

    def counts(self, level: int) -> tuple[int, int, int]:
        """Tiles along each axis."""
        half = self.tile_size / 2 * self.level_spacing_mm(level)
        beyond = (self._extent_mm - 2 * half) / half
        return tuple(1 + max(0, int(np.ceil(b - 1e-6))) for b in beyond)  # type: ignore[return-value]

    def grid_shape(self, level: int) -> np.ndarray:
        """(3,) level voxels that the level's tiles span."""
        return (np.array(self.counts(level)) + 1) * (self.tile_size // 2)

    def step_vox(self, level: int) -> np.ndarray:
        """(3,) size of a level voxel in canonical voxels."""
        return self.level_spacing_mm(level) / np.array(self.spacing_mm)

    def origin_vox(self, level: int) -> np.ndarray:
        """(3,) canonical voxel position of level voxel 0; the level's span is centred on the volume."""
        span = self.grid_shape(level) * self.step_vox(level)
        return (np.array(self.shape) - 1) / 2 - span / 2 + self.step_vox(level) / 2

    def to_level(self, points_vox: np.ndarray, level: int) -> np.ndarray:
        """Canonical voxel positions (..., 3) as level voxel positions."""
        return (np.asarray(points_vox, dtype=np.float64) - self.origin_vox(level)) / self.step_vox(level)

    def from_level(self, points_level: np.ndarray, level: int) -> np.ndarray:
        """Level voxel positions (..., 3) as canonical voxel positions."""
        return np.asarray(points_level, dtype=np.float64) * self.step_vox(level) + self.origin_vox(level)

    def tile_low(self, key: TileKey) -> np.ndarray:
        """(3,) level voxel of a tile's first voxel."""
        return np.array(key.place) * (self.tile_size // 2) + key.shift

    def nearest(self, point_vox: np.ndarray, level: int) -> TileKey:
        """The tile whose centre is nearest to a canonical voxel position."""
        half = self.tile_size // 2
        place = np.round((self.to_level(point_vox, level) + 0.5) / half - 1)
        place = np.clip(place, 0, np.array(self.counts(level)) - 1).astype(int)
        return TileKey(level, (int(place[0]), int(place[1]), int(place[2])))

    def covering(self, low_level: np.ndarray, high_level: np.ndarray, level: int) -> list[TileKey]:
        """Few tiles that cover a half-open box of level voxels: one along an axis where one is enough."""
        half = self.tile_size // 2
        ranges = []
        for axis, count in enumerate(self.counts(level)):
            low, high = float(low_level[axis]), float(high_level[axis])
            first = int(np.clip(np.floor(low / half), 0, count - 1))
            last = int(np.clip(np.ceil(high / half) - 2, first, count - 1))
            if first == last or last - first == 1 and high - low <= self.tile_size:
                centred = round((low + high) / 2 / half - 1)
                inside = [p for p in range(first, last + 1) if p * half <= low and high <= (p + 2) * half]
                if inside:
                    ranges.append([min(inside, key=lambda p: abs(p - centred))])
                    continue
            ranges.append(list(range(first, last + 1)))
        return [TileKey(level, (i, j, k)) for i, j, k in itertools.product(*ranges)]

    def finest_level_for(self, size_vox: np.ndarray, max_tiles: float = 1.0, fill: float = 0.9) -> int:
        """Finest level at which a box of canonical voxels spans at most ``max_tiles * fill`` tiles along each axis."""
        size_mm = float((np.asarray(size_vox) * np.array(self.spacing_mm)).max())
        for level in range(self.num_levels):
            if size_mm <= max_tiles * fill * self.tile_size * self.level_spacing_mm(level):
                return level
        return self.num_levels - 1

    def all_tiles(self, level: int) -> list[TileKey]:
        """Every tile of a level."""
        counts = self.counts(level)
        return [TileKey(level, place) for place in itertools.product(*(range(c) for c in counts))]  # type: ignore[arg-type]
