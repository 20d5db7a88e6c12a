"""The prompt encoder: points, boxes, strokes, masks and words become sparse tokens and dense maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .config import ModelConfig
from .position import PositionCode

NUM_DENSE_MAPS = 4
"""Channels of the dense maps: include, exclude, region (boxes), previous mask."""
TABLE_SCALE = 12.0
"""What embeddings of side and level are multiplied by, so that they count beside that of the word."""
PREVIOUS_MASK = 3
"""Number of the last of them."""
ABSENT = -1
"""Label of a point that pads a batch."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts for B tiles with P objects each, in the tiles' voxel coordinates.

    Attributes:
        points: (B, P, N, 3) float, voxel coordinates in the tile (may lie outside it).
        labels: (B, P, N) int: 1 include, 0 exclude, -1 absent (padding).
        boxes: (B, P, K, 6) float half-open, low then high; or None.
        boxes_are_present: (B, P, K) bool; or None for all.
        strokes: (B, P, 2, D, H, W) in [0, 1], voxels of scribbles and lassos to include and to exclude; or None.
        mask_logits: (B, P, D, H, W) logits of a previous mask; or None.
        masks_are_present: (B, P) bool; or None for all, where ``mask_logits`` is given.
        text: (B, P, W, text_dim) word embeddings; or None.
        text_laterality: (B, P, W) int index; or None.
        text_level: (B, P, W) int index; or None.
        text_is_present: (B, P, W) bool; or None for all.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    boxes_are_present: Tensor | None = None
    strokes: Tensor | None = None
    mask_logits: Tensor | None = None
    masks_are_present: Tensor | None = None
    text: Tensor | None = None
    text_laterality: Tensor | None = None
    text_level: Tensor | None = None
    text_is_present: Tensor | None = None

    @property
    def num_tiles(self) -> int:
        """B."""
        return self.points.shape[0]

    @property
    def num_objects(self) -> int:
        """P."""
        return self.points.shape[1]


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts as the decoder takes them.

    Attributes:
        sparse_prompts: (B, P, N, C) tokens, those of points first.
        sparse_is_present: (B, P, N) bool.
        dense_prompts: (B, P, 4, D, H, W) maps.
        num_points: (B, P) int: points on each object or beside it, those of strokes too.
        points: (B, P, n, 3) in the tiles' voxels.
        labels: (B, P, n) of them, see :class:`PromptBatch`.
    """

    sparse_prompts: Tensor
    sparse_is_present: Tensor
    dense_prompts: Tensor
    num_points: Tensor
    points: Tensor
    labels: Tensor


class PromptEncoder(nn.Module):
    """Turns a :class:`PromptBatch` into tokens and maps; its points share the image tokens' position code.

    Source: Kirillov et al., Segment Anything, 2023, section 3 (labelled points and corners); dense maps as in
    Isensee et al., nnInteractive, 2025, here with a radius that is the same in millimetres along each axis.
    """

    def __init__(self, config: ModelConfig, position_code: PositionCode) -> None:
        super().__init__()
        self.position_code = position_code
        self.click_radius = config.click_radius
        self.text_dim = config.text_dim
        self.label_embedding = nn.Embedding(2, config.embed_dim)
        self.corner_embedding = nn.Embedding(2, config.embed_dim)
        self.text_proj = nn.Linear(config.text_dim, config.embed_dim)
        self.laterality_embedding = nn.Embedding(config.num_lateralities, config.embed_dim)
        self.level_embedding = nn.Embedding(config.num_levels, config.embed_dim)

    def encode_points(self, prompts: PromptBatch, grid_shape: tuple[int, int, int], spacing_mm: Tensor) -> Tensor:
        """Position code of every point, without its label: (B, P, N, C)."""
        flat = rearrange(prompts.points, "b p n c -> b (p n) c")
        codes = self.position_code(flat, grid_shape, spacing_mm)
        return rearrange(codes, "b (p n) c -> b p n c", p=prompts.num_objects)

    def forward(self, prompts: PromptBatch, grid_shape: tuple[int, int, int], spacing_mm: Tensor) -> EncodedPrompts:
        """Encodes prompts.

        Args:
            prompts: B tiles with P objects.
            grid_shape: (D, H, W) of the tiles.
            spacing_mm: (B, 3).

        Returns:
            Tokens in the weights' dtype and float32 maps. Cost linear in voxels for each object.
        """
        sparse = [
            self.encode_points(prompts, grid_shape, spacing_mm) + self.label_embedding(prompts.labels.clamp(min=0))
        ]
        present = [prompts.labels != ABSENT]
        if prompts.boxes is not None:
            corners = rearrange(prompts.boxes, "b p k (s c) -> b (p k s) c", s=2)
            inner = repeat(-torch.arange(2.0, device=corners.device), "s -> (n s) 1", n=corners.shape[1] // 2)
            codes = self.position_code(corners + inner, grid_shape, spacing_mm)  # centres of the corner voxels
            codes = rearrange(codes, "b (p n) c -> b p n c", p=prompts.num_objects)
            kind = self.corner_embedding.weight.repeat(prompts.boxes.shape[2], 1)
            sparse.append(codes + kind)
            box_present = prompts.boxes_are_present
            if box_present is None:
                box_present = torch.ones(prompts.boxes.shape[:3], dtype=torch.bool, device=corners.device)
            present.append(repeat(box_present, "b p k -> b p (k s)", s=2))
        if prompts.text is not None:
            sparse.append(self.embed_text(prompts))
            text_present = prompts.text_is_present
            if text_present is None:
                text_present = torch.ones(prompts.text.shape[:3], dtype=torch.bool, device=prompts.text.device)
            present.append(text_present)
        dense = self.dense_maps(prompts, grid_shape, spacing_mm)
        return EncodedPrompts(
            torch.cat(sparse, dim=2),
            torch.cat(present, dim=2),
            dense,
            (prompts.labels != ABSENT).sum(dim=2),
            prompts.points,
            prompts.labels,
        )

    def embed_text(self, prompts: PromptBatch) -> Tensor:
        """Words as tokens (B, P, W, C): projection of the embedding plus learned laterality and level."""
        assert prompts.text is not None
        scaled = prompts.text * self.text_dim**0.5  # of unit length: as large as other tokens only if scaled
        token = self.text_proj(scaled.to(self.text_proj.weight.dtype))
        for table, index in (
            (self.laterality_embedding, prompts.text_laterality),
            (self.level_embedding, prompts.text_level),
        ):
            zeros = torch.zeros(prompts.text.shape[:3], dtype=torch.long, device=prompts.text.device)
            token = token + TABLE_SCALE * table(zeros if index is None else index)
        return token

    def dense_maps(self, prompts: PromptBatch, grid_shape: tuple[int, int, int], spacing_mm: Tensor) -> Tensor:
        """Draws prompts on the tile's grid: (B, P, 4, D, H, W) float32.

        A click is a Gaussian ball with a standard deviation of ``click_radius`` mean spacings, in millimetres along
        every axis.
        """
        mean_spacing = spacing_mm.log().mean(dim=-1, keepdim=True).exp()  # (B, 1)
        sigma_vox = self.click_radius * mean_spacing / spacing_mm  # (B, 3)
        waves = []  # per axis (B, P, N, length)
        for axis, length in enumerate(grid_shape):
            coordinate = torch.arange(length, device=prompts.points.device, dtype=torch.float32)
            offset = coordinate - prompts.points[..., axis, None].float()
            waves.append(torch.exp(-0.5 * (offset / sigma_vox[:, None, None, axis, None]) ** 2))
        maps = []
        for channel, label in enumerate((1, 0)):
            chosen = (prompts.labels == label).float()[..., None]
            plane = torch.einsum("bpnh,bpnw->bpnhw", waves[1], waves[2])
            ball = torch.einsum("bpnd,bpnhw->bpdhw", waves[0] * chosen, plane).clamp(max=1.0)
            if prompts.strokes is not None:
                ball = torch.maximum(ball, prompts.strokes[:, :, channel].float())
            maps.append(ball)
        maps.append(self._box_map(prompts, grid_shape))
        maps.append(self._previous_mask_map(prompts, maps[0]))
        return torch.stack(maps, dim=2)

    @staticmethod
    def _box_map(prompts: PromptBatch, grid_shape: tuple[int, int, int]) -> Tensor:
        """1 inside any of an object's boxes: (B, P, D, H, W)."""
        shape = (prompts.num_tiles, prompts.num_objects, *grid_shape)
        if prompts.boxes is None or prompts.boxes.shape[2] == 0:
            return torch.zeros(shape, device=prompts.points.device)
        inside = []
        for axis, length in enumerate(grid_shape):
            coordinate = torch.arange(length, device=prompts.points.device, dtype=torch.float32)
            low, high = prompts.boxes[..., axis, None], prompts.boxes[..., axis + 3, None]
            inside.append(((coordinate >= low - 0.5) & (coordinate < high - 0.5)).float())
        if prompts.boxes_are_present is not None:
            inside[0] = inside[0] * prompts.boxes_are_present[..., None].float()
        return torch.einsum("bpkd,bpkh,bpkw->bpdhw", *inside).clamp(max=1.0)

    @staticmethod
    def _previous_mask_map(prompts: PromptBatch, like: Tensor) -> Tensor:
        """Previous mask as 2 p - 1 in [-1, 1], 0 where there is none: (B, P, D, H, W)."""
        if prompts.mask_logits is None:
            return torch.zeros_like(like)
        previous = torch.tanh(prompts.mask_logits.float() / 2)
        if prompts.masks_are_present is not None:
            previous = previous * prompts.masks_are_present[:, :, None, None, None].float()
        return previous
