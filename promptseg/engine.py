"""Encodes tiles of one image through the cache, and decodes prompts on them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .cache import EmbeddingCache
from .canvas import Canvas
from .models import DecoderOutput, ImageEmbedding, PromptableModel, PromptBatch
from .models.layers import dilate
from .preprocessing import IntensityMapping
from .prompts import PromptSet, Stroke
from .registration import Registration
from .resample import sample_tile
from .tiles import TileKey, TileLattice
from .volume import Volume

logger = logging.getLogger(__name__)

MASK_LOGIT = 4.0
"""Logit that a binary mask prompt stands for."""
BATCH_TILES = 8
"""Tiles encoded or decoded in one pass."""


@dataclass
class TileEngine:
    """The model bound to one image.

    Attributes:
        model: in evaluation mode.
        volume: the image.
        lattice: its tiles.
        mapping: its intensity preprocessing.
        cache: of embeddings.
        signature: of image, model and preprocessing; part of every cache key.
        num_encoded: tiles encoded so far, cache hits not counted.
        weights: names the adapters that are on; empty for none.
        registrations: of the model's atlases, by ``weights`` and their numbers, as far as they were asked for, with the
            estimate that their structures are there; None of those that do not fit.
    """

    model: PromptableModel
    volume: Volume
    lattice: TileLattice
    mapping: IntensityMapping
    cache: EmbeddingCache
    signature: str
    num_encoded: int = 0
    weights: str = ""
    registrations: dict[tuple[str, int], tuple[Registration, float] | None] = field(default_factory=dict)

    def read_tile(self, tile: TileKey) -> Tensor:
        """Preprocessed intensities of a tile, interpolated from the native array: (T, T, T) float32."""
        start = self.lattice.from_level(self.lattice.tile_low(tile), tile.level)
        step = self.lattice.step_vox(tile.level)
        return sample_tile(self.volume.canonical_array, start, step, self.lattice.tile_size, self.mapping.map_array)

    @torch.no_grad()
    def embed(self, tiles: list[TileKey]) -> list[ImageEmbedding]:
        """Embeddings of tiles, from the cache where they are in it.

        ``no_grad`` and not ``inference_mode``, so that adapters can train on cached embeddings.
        """
        found = {tile: self.cache.get(self.signature, tile) for tile in tiles}
        missing = [tile for tile, embedding in found.items() if embedding is None]
        for first in range(0, len(missing), BATCH_TILES):
            part = missing[first : first + BATCH_TILES]
            image = torch.stack([self.read_tile(tile) for tile in part])[:, None].to(self.model.device)
            spacing = [[self.lattice.level_spacing_mm(tile.level)] * 3 for tile in part]
            encoded = self.model.encode_image(image, torch.tensor(spacing, device=self.model.device))
            self.num_encoded += len(part)
            for number, tile in enumerate(part):
                embedding = _own_memory(encoded[number])
                self.cache.put(self.signature, tile, embedding)
                found[tile] = embedding
        return [embedding for tile in tiles if (embedding := found[tile]) is not None]

    @torch.no_grad()
    def decode(
        self,
        tiles: list[TileKey],
        prompts: PromptSet,
        canvas: Canvas | None,
        multimask: bool = False,
        mask_weight: float = 1.0,
    ) -> DecoderOutput:
        """Decodes one object on several tiles.

        Args:
            tiles: where.
            prompts: all prompts of the object; each tile sees those inside it.
            canvas: the object so far, as mask prompt; None for none (a mask in ``prompts`` is used then).
            multimask: also return candidates.
            mask_weight: of the canvas's logits, on tiles that show points on the object; all of it on others.

        Returns:
            Float32 CPU tensors: logits (len(tiles), 1, M, T, T, T), quality (len(tiles), 1, M), presence.
        """
        outputs = []
        embeddings = self.embed(tiles)
        for first in range(0, len(tiles), BATCH_TILES):
            part = slice(first, first + BATCH_TILES)
            embedding = ImageEmbedding.concatenate(embeddings[part])
            batch = self.prompts_on_tiles(tiles[part], prompts, canvas, mask_weight)
            outputs.append(self.model.decode(embedding, batch, multimask))
        return DecoderOutput(
            torch.cat([o.mask_logits for o in outputs]).float().cpu(),
            torch.cat([o.iou_logits for o in outputs]).float().cpu(),
            torch.cat([o.presence_logits for o in outputs]).float().cpu(),
        )

    def prompts_on_tiles(
        self, tiles: list[TileKey], prompts: PromptSet, canvas: Canvas | None, mask_weight: float = 1.0
    ) -> PromptBatch:
        """One object's prompts in the voxels of each tile (B tiles, P = 1); see :meth:`decode`."""
        size = self.lattice.tile_size
        points_vox = np.concatenate([prompts.points, *[s.key_points for s in prompts.strokes]]).reshape(-1, 3)
        labels = np.concatenate([prompts.labels, *[np.full(len(s.key_points), s.label) for s in prompts.strokes]])
        points, point_labels, boxes, boxes_present, strokes, masks = [], [], [], [], [], []
        for tile in tiles:
            tile_low = self.lattice.tile_low(tile)
            local = self.lattice.to_level(points_vox, tile.level) - tile_low
            inside = np.asarray(((local >= -0.5) & (local <= size - 0.5)).all(axis=1))
            points.append(np.where(inside[:, None], local, 0.0))
            point_labels.append(np.where(inside, labels, -1))
            corners = [self._box_on_tile(low, high, tile) for low, high in prompts.boxes]
            boxes.append(np.array(corners).reshape(-1, 6))
            boxes_present.append([bool(np.all(c[:3] < size) and np.all(c[3:] > 0)) for c in corners])
            if prompts.strokes:
                strokes.append(self._strokes_on_tile(prompts.strokes, tile))
            if canvas is None:
                mask = None if prompts.mask is None else self.mask_on_tile(prompts, tile)
            else:
                mask = canvas.for_tile(tile) * (mask_weight if (inside & (labels == 1)).any() else 1.0)
            if mask is not None:
                masks.append(mask)
        device = self.model.device
        mask_logits = torch.stack(masks)[:, None].to(device) if masks else None
        batch = PromptBatch(
            torch.tensor(np.array(points), dtype=torch.float32, device=device)[:, None],
            torch.tensor(np.array(point_labels), dtype=torch.long, device=device)[:, None],
            boxes=torch.tensor(np.array(boxes), dtype=torch.float32, device=device)[:, None] if prompts.boxes else None,
            boxes_are_present=torch.tensor(boxes_present, device=device)[:, None] if prompts.boxes else None,
            strokes=torch.stack(strokes)[:, None].to(device) if strokes else None,
            mask_logits=mask_logits,
            masks_are_present=None if mask_logits is None else (mask_logits != 0).flatten(2).any(dim=2),
        )
        return batch if prompts.structure is None else prompts.structure.on_tiles(batch)

    def _box_on_tile(self, low: np.ndarray, high: np.ndarray, tile: TileKey) -> np.ndarray:
        """Half-open canonical box in a tile's voxels: (6,), at least one voxel thick."""
        tile_low = self.lattice.tile_low(tile)
        low_level = self.lattice.to_level(np.asarray(low) - 0.5, tile.level) + 0.5 - tile_low
        high_level = self.lattice.to_level(np.asarray(high) - 0.5, tile.level) + 0.5 - tile_low
        middle = (low_level + high_level) / 2
        thin = high_level - low_level < 1
        return np.concatenate(
            [np.where(thin, np.round(middle - 0.5), low_level), np.where(thin, np.round(middle - 0.5) + 1, high_level)]
        )

    def _strokes_on_tile(self, strokes: tuple[Stroke, ...], tile: TileKey) -> Tensor:
        """Scribbles and lassos as maps to include and exclude: (2, T, T, T)."""
        size = self.lattice.tile_size
        maps = torch.zeros(2, size, size, size)
        tile_low = self.lattice.tile_low(tile)
        for stroke in strokes:
            channel = maps[1 - stroke.label]
            scattered = torch.zeros(size, size, size)
            local = np.rint(self.lattice.to_level(stroke.voxels, tile.level) - tile_low).astype(int)
            local = local[((local >= 0) & (local < size)).all(axis=1)]
            scattered[local[:, 0], local[:, 1], local[:, 2]] = 1.0
            self._gather_stroke(stroke, tile, scattered)
            if stroke.kind == "scribble":
                scattered = dilate(scattered)
            torch.maximum(channel, scattered, out=channel)
        return maps

    def _gather_stroke(self, stroke: Stroke, tile: TileKey, out: Tensor) -> None:
        """Sets the tile's voxels whose nearest image voxel is in the stroke, so that fine tiles have no gaps."""
        if (self.lattice.step_vox(tile.level) >= 1).all():
            return  # each of them is the nearest to that image voxel too
        low = stroke.voxels.min(axis=0)
        dense = np.zeros(stroke.voxels.max(axis=0) - low + 1, dtype=bool)
        dense[tuple((stroke.voxels - low).T)] = True
        places, slices = [], []
        for axis in range(3):
            positions = self.lattice.origin_vox(tile.level)[axis] + self.lattice.step_vox(tile.level)[axis] * (
                self.lattice.tile_low(tile)[axis] + np.arange(self.lattice.tile_size)
            )
            nearest = np.rint(positions).astype(int) - low[axis]
            valid = np.flatnonzero((nearest >= 0) & (nearest < dense.shape[axis]))
            if not len(valid):
                return
            places.append(nearest[valid])
            slices.append(slice(int(valid[0]), int(valid[-1]) + 1))
        view = out[tuple(slices)]
        torch.maximum(view, torch.from_numpy(dense[np.ix_(*places)]).float(), out=view)

    def mask_on_tile(self, prompts: PromptSet, tile: TileKey) -> Tensor:
        """The user's mask, of prompts that have one, as logits on a tile: (T, T, T) float32."""
        assert prompts.mask is not None

        def as_logits(values: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(values.astype(np.float32))
            return tensor.clamp_(-20, 20) if prompts.mask_is_logits else tensor * (2 * MASK_LOGIT) - MASK_LOGIT

        start = self.lattice.from_level(self.lattice.tile_low(tile), tile.level) - prompts.mask_low
        step = self.lattice.step_vox(tile.level)
        return sample_tile(prompts.mask, start, step, self.lattice.tile_size, as_logits, outside=-MASK_LOGIT)


def _own_memory(embedding: ImageEmbedding) -> ImageEmbedding:
    """A copy that does not keep its batch alive."""
    placed = embedding.to(embedding.tokens.device)
    return ImageEmbedding.from_tensors({name: tensor.clone() for name, tensor in placed.tensors().items()})
