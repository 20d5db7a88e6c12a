"""VISTA3D on whole volumes: tiles at the spacing and in the range of intensities it was trained with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...canvas import Canvas
from ...engine import TileEngine
from ...prompts import PromptSet
from ...resample import sample_tile
from ...tiles import TileKey
from ..image_encoder import ImageEmbedding
from ..prompt_encoder import PromptBatch
from .classes import find_classes
from .model import Vista3DModel


class Vista3DEngine(TileEngine):
    """Reads tiles of Hounsfield units scaled to 0 to 1, and keeps what both heads need of them in the cache.

    Beyond the image lies air. (The bundle's sliding window repeats the outermost voxels; its point window does not.)
    """

    def read_tile(self, tile: TileKey) -> Tensor:
        """Intensities of a tile: (T, T, T) float32 from 0 to 1.

        Source: Project-MONAI/model-zoo, ``models/vista3d/configs/inference.json``: resampled, then
            ``ScaleIntensityRanged`` with clipping.
        """
        config = self.model.config
        start = self.lattice.from_level(self.lattice.tile_low(tile), tile.level)
        step = self.lattice.step_vox(tile.level)
        raw = sample_tile(
            self.volume.canonical_array,
            start,
            step,
            self.lattice.tile_size,
            lambda array: torch.from_numpy(array.astype(np.float32)),
            outside=config.low_intensity,  # type: ignore[attr-defined]
        )
        low, high = config.low_intensity, config.high_intensity  # type: ignore[attr-defined]
        return ((raw - low) / (high - low)).clamp_(0, 1)

    @torch.no_grad()
    def class_logits(self, tile: TileKey, classes: list[int]) -> Tensor:
        """Logits of the union of classes on a tile: (T, T, T) float32 on the CPU."""
        model: Vista3DModel = self.model  # type: ignore[assignment]
        return model.decode_classes(self._embed_classes(tile), classes)[0].amax(dim=0).cpu()

    def _embed_classes(self, tile: TileKey) -> ImageEmbedding:
        signature = f"{self.signature}-classes"
        embedding = self.cache.get(signature, tile)
        if embedding is None:
            model: Vista3DModel = self.model  # type: ignore[assignment]
            spacing = torch.full((1, 3), self.lattice.level_spacing_mm(tile.level), device=model.device)
            embedding = model.encode_classes(self.read_tile(tile)[None, None].to(model.device), spacing)
            self.num_encoded += 1
            self.cache.put(signature, tile, embedding)
        return embedding

    def prompts_on_tiles(
        self, tiles: list[TileKey], prompts: PromptSet, canvas: Canvas | None, mask_weight: float = 1.0
    ) -> PromptBatch:
        """As :meth:`~promptseg.engine.TileEngine.prompts_on_tiles`; an object's class goes with its clicks."""
        batch = super().prompts_on_tiles(tiles, prompts, canvas, mask_weight)
        classes = find_classes(self.model.config, prompts.text) if prompts.text else []  # type: ignore[arg-type]
        if len(classes) != 1:
            return batch
        return replace(batch, text=torch.full((len(tiles), 1, 1, 1), float(classes[0]), device=self.model.device))
