"""The image encoder: a convolutional pyramid that feeds a 3D vision transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig
from .layers import Attention, Conv3d, Mlp, ResidualBlock, group_norm, space_to_depth, to_channels_last
from .position import PositionCode, token_centres

TOKEN_STRIDE = 16


@dataclass(frozen=True)
class ImageEmbedding:
    """What the encoder knows of a batch of tiles; prompt-free, so it can be cached.

    Attributes:
        tokens: (B, C, D/16, H/16, W/16).
        skips: features at strides 2, 4 and 8, (B, C_s, D/s, H/s, W/s).
        image: (B, 1, D, H, W), the preprocessed tile itself, for refinement at full resolution.
        spacing_mm: (B, 3) float32.
    """

    tokens: Tensor
    skips: tuple[Tensor, Tensor, Tensor]
    image: Tensor
    spacing_mm: Tensor

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the tile, in voxels."""
        d, h, w = self.image.shape[2:]
        return d, h, w

    @property
    def num_bytes(self) -> int:
        """Memory held by the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as stored on disk."""
        named = {f"skip{i}": t for i, t in enumerate(self.skips)}
        return {"tokens": self.tokens, "image": self.image, "spacing_mm": self.spacing_mm, **named}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ImageEmbedding:
        """Inverse of :meth:`tensors`.

        Raises:
            KeyError: if one is missing.
        """
        skips = (tensors["skip0"], tensors["skip1"], tensors["skip2"])
        return cls(tensors["tokens"], skips, tensors["image"], tensors["spacing_mm"])

    def to(self, device: torch.device | str) -> ImageEmbedding:
        """The embedding on a device, with channels innermost in memory, where convolutions read it fastest."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return self.from_tensors({name: to_channels_last(t) if t.ndim == 5 else t for name, t in moved.items()})

    @staticmethod
    def concatenate(embeddings: list[ImageEmbedding]) -> ImageEmbedding:
        """Joins embeddings of equally shaped tiles along the batch."""
        if len(embeddings) == 1:
            return embeddings[0]
        skips = tuple(torch.cat([e.skips[i] for e in embeddings]) for i in range(3))
        return ImageEmbedding(
            torch.cat([e.tokens for e in embeddings]),
            cast("tuple[Tensor, Tensor, Tensor]", skips),
            torch.cat([e.image for e in embeddings]),
            torch.cat([e.spacing_mm for e in embeddings]),
        )

    def __getitem__(self, index: int) -> ImageEmbedding:
        """The embedding of one tile of the batch (a view)."""
        part = slice(index, index + 1)
        skips = (self.skips[0][part], self.skips[1][part], self.skips[2][part])
        return ImageEmbedding(self.tokens[part], skips, self.image[part], self.spacing_mm[part])


class TransformerBlock(nn.Module):
    """Pre-norm block with global attention over all tokens of a tile.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y)
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """Encodes preprocessed tiles; knows nothing of prompts."""

    def __init__(self, config: ModelConfig, position_code: PositionCode) -> None:
        super().__init__()
        self.position_code = position_code
        self.activation_checkpointing = config.activation_checkpointing
        channels = config.stem_channels
        self.stem = Conv3d(16, channels[0], 3, padding=1)
        self.downs = nn.ModuleList(Conv3d(channels[i - 1], channels[i], kernel_size=2, stride=2) for i in range(1, 3))
        self.stages = nn.ModuleList(
            nn.Sequential(*[ResidualBlock(c) for _ in range(n)])
            for c, n in zip(channels, config.stem_depths, strict=True)
        )
        self.patch_norm = group_norm(channels[2])
        self.patch_embed = Conv3d(channels[2], config.embed_dim, kernel_size=2, stride=2)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.embed_dim, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim)

    def pyramid(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convolutional features at strides 2, 4 and 8 of image (B, 1, D, H, W)."""
        mean = image.mean(dim=(2, 3, 4), keepdim=True)
        std = image.std(dim=(2, 3, 4), keepdim=True)
        local = (image - mean) / (std + 0.05)
        x = self.stem(space_to_depth(torch.cat([image, local], dim=1).to(self.stem.weight.dtype)))
        skip2 = self.stages[0](x)
        skip4 = self.stages[1](self.downs[0](skip2))
        skip8 = self.stages[2](self.downs[1](skip4))
        return skip2, skip4, skip8

    def embed_tokens(self, skip8: Tensor, grid_shape: tuple[int, int, int], spacing_mm: Tensor) -> Tensor:
        """Tokens with their position and scale codes, before the transformer: (B, N, C)."""
        x = rearrange(self.patch_embed(self.patch_norm(skip8)), "b c d h w -> b (d h w) c")
        return (
            x + self.token_position_codes(grid_shape, spacing_mm) + self.position_code.scale_code(spacing_mm)[:, None]
        )

    def token_position_codes(self, grid_shape: tuple[int, int, int], spacing_mm: Tensor) -> Tensor:
        """Position code of every token: (B, N, C)."""
        centres = token_centres(grid_shape, TOKEN_STRIDE, spacing_mm.device)
        return self.position_code(centres.expand(len(spacing_mm), -1, -1), grid_shape, spacing_mm)

    def forward(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """Encodes a batch of tiles.

        Args:
            image: (B, 1, D, H, W), preprocessed intensities; D, H, W multiples of 16.
            spacing_mm: (B, 3) voxel size along D, H, W.

        Returns:
            The embedding. Cost: linear in voxels for the pyramid, quadratic in tokens for attention.

        Raises:
            ValueError: for another shape.
        """
        return self.transform(self.tokenize(image, spacing_mm))

    def tokenize(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """The convolutional part of :meth:`forward`: an embedding whose tokens have not met the transformer yet."""
        if image.ndim != 5 or image.shape[1] != 1 or any(n % TOKEN_STRIDE or n == 0 for n in image.shape[2:]):
            raise ValueError(f"image of shape {tuple(image.shape)}: expected (B, 1, D, H, W), D, H, W multiples of 16")
        if spacing_mm.shape != (image.shape[0], 3):
            raise ValueError(f"spacing_mm of shape {tuple(spacing_mm.shape)}: expected ({image.shape[0]}, 3)")
        d, h, w = image.shape[2:]
        skips = self.pyramid(image)
        tokens = self.embed_tokens(skips[2], (d, h, w), spacing_mm)
        grid = {"d": d // TOKEN_STRIDE, "h": h // TOKEN_STRIDE}
        tokens = rearrange(tokens, "b (d h w) c -> b c d h w", **grid)
        return ImageEmbedding(tokens, skips, image.to(tokens.dtype), spacing_mm.float())

    def transform(self, tokenized: ImageEmbedding) -> ImageEmbedding:
        """The transformer's part of :meth:`forward`, on what :meth:`tokenize` returned."""
        tokens = self.attend(rearrange(tokenized.tokens, "b c d h w -> b (d h w) c"))
        d, h = tokenized.tokens.shape[2:4]
        return replace(tokenized, tokens=rearrange(tokens, "b (d h w) c -> b c d h w", d=d, h=h))

    def attend(self, tokens: Tensor) -> Tensor:
        """The transformer's blocks and last norm on tokens (B, N, C), which may be a part of a tile's.

        In training with ``activation_checkpointing`` a block's activations are computed again for its gradients, and
        not held until then.
        """
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                tokens = cast(Tensor, checkpoint(block, tokens, use_reentrant=False))
            else:
                tokens = block(tokens)
        return self.norm(tokens)
