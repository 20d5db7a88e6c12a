"""SAM-Med3D's prompt encoder: clicks as tokens, the previous low-resolution mask as a dense map."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import SamMed3DConfig
from .layers import ChannelNorm


class RandomFourierCode(nn.Module):
    """Positions in the unit cube to waves of random direction: sine, cosine and sine again.

    The repeated sine fills the third 128 of 384 channels; the weights depend on it.

    Source: Tancik et al., Fourier Features, 2020; SAM-Med3D, ``prompt_encoder3D.py``.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, dim // 3))

    def forward(self, unit_position: Tensor) -> Tensor:
        """(..., 3) in [0, 1] -> (..., dim)."""
        frequencies = self.positional_encoding_gaussian_matrix
        phase = 2 * math.pi * ((2 * unit_position - 1).to(frequencies.dtype) @ frequencies)
        return torch.cat([phase.sin(), phase.cos(), phase.sin()], dim=-1)


class SamMed3DPromptEncoder(nn.Module):
    """Clicks and a mask to embeddings; parameters are named as in the published state dict."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        dim, channels = config.prompt_dim, config.mask_channels
        self.tile_size = config.tile_size
        self.grid_size = config.grid_size
        self.pe_layer = RandomFourierCode(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(2))  # exclude, include
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, channels // 4, kernel_size=2, stride=2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.Conv3d(channels // 4, channels, kernel_size=2, stride=2),
            ChannelNorm(channels),
            nn.GELU(),
            nn.Conv3d(channels, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def dense_position_code(self) -> Tensor:
        """Position codes of the image tokens, (1, dim, S, S, S), with the first two axes exchanged.

        The published code names the axes (x, y, z) here and (d, h, w) for points, so the token at (d, h, w) carries the
        code of a point at (h, d, w). A point matches its own token only on the diagonal d = h. The weights were
        trained with this, so it stays.
        """
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        centres = (torch.arange(self.grid_size, device=matrix.device, dtype=matrix.dtype) + 0.5) / self.grid_size
        d, h, w = torch.meshgrid(centres, centres, centres, indexing="ij")
        return rearrange(self.pe_layer(torch.stack([h, d, w], dim=-1)), "d h w c -> 1 c d h w")

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Tokens of clicks, with the closing "no point" token that stands for the absent box.

        Args:
            points: (B, N, 3) voxel coordinates in the tile, in the order of its axes; a voxel's centre is an integer.
            labels: (B, N) int: 1 include, 0 exclude, -1 absent.

        Returns:
            (B, N + 1, dim).
        """
        points = torch.cat([points.float(), points.new_zeros(len(points), 1, 3, dtype=torch.float32)], dim=1)
        labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1)
        codes = self.pe_layer((points + 0.5) / self.tile_size)
        absent = (labels < 0)[..., None]
        kinds = torch.cat([e.weight for e in (*self.point_embeddings, self.not_a_point_embed)])  # type: ignore[union-attr]
        kind = torch.where(labels < 0, torch.full_like(labels, 2), labels).long()
        return torch.where(absent, torch.zeros_like(codes), codes) + kinds[kind]

    def embed_mask(self, mask_logits_lowres: Tensor | None, batch_size: int = 1) -> Tensor:
        """Dense embedding (B, dim, S, S, S) of a previous mask (B, 1, 4 S, 4 S, 4 S) of logits, or of none."""
        if mask_logits_lowres is None:
            shape = (batch_size, -1, self.grid_size, self.grid_size, self.grid_size)
            return self.no_mask_embed.weight[..., None, None, None].expand(shape)
        return self.mask_downscaling(mask_logits_lowres.to(self.no_mask_embed.weight.dtype))
