"""SAM-Med3D on whole volumes: tiles at the spacing it was trained at, normalised as in its training."""

from __future__ import annotations

from torch import Tensor

from ...engine import TileEngine
from ...resample import sample_tile
from ...tiles import TileKey
from ..fixed_spacing import as_float_tensor
from .model import normalise_tile


class SamMed3DEngine(TileEngine):
    """Reads tiles of raw intensities and normalises each by itself, as SAM-Med3D's crops were."""

    def read_tile(self, tile: TileKey) -> Tensor:
        """Normalised intensities of a tile: (T, T, T) float32; 0 before normalising, beyond the image."""
        start = self.lattice.from_level(self.lattice.tile_low(tile), tile.level)
        step = self.lattice.step_vox(tile.level)
        size = self.lattice.tile_size
        raw = sample_tile(self.volume.canonical_array, start, step, size, as_float_tensor, outside=0.0)
        return normalise_tile(raw[None, None])[0, 0]
