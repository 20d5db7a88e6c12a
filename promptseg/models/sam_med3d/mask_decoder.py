"""SAM-Med3D's mask decoder: SAM's two-way transformer and mask weights, in three dimensions."""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from .config import SamMed3DConfig
from .layers import ChannelNorm, TwoLayerMlp


class ProjectedAttention(nn.Module):
    """Multi-head attention in a narrower inner width."""

    def __init__(self, dim: int, num_heads: int, inner_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, N, C) attends to (B, M, C): (B, N, C)."""
        q, k, v = (
            rearrange(layer(x), "b n (h c) -> b h n c", h=self.num_heads)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        return self.out_proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n c -> b n (h c)"))


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, then to the image; then the image to the tokens.

    Args:
        is_first: the first block's self-attention sees tokens without their codes and replaces them (no residual).

    Source: Kirillov et al., Segment Anything, 2023, appendix A.
    """

    def __init__(self, config: SamMed3DConfig, is_first: bool) -> None:
        super().__init__()
        dim, heads = config.prompt_dim, config.decoder_heads
        self.is_first = is_first
        self.self_attn = ProjectedAttention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = ProjectedAttention(dim, heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TwoLayerMlp(dim, config.decoder_mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ProjectedAttention(dim, heads, dim // 2)

    def forward(self, tokens: Tensor, image: Tensor, token_code: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Updates tokens (B, T, C) and image (B, N, C)."""
        if self.is_first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            coded = tokens + token_code
            tokens = tokens + self.self_attn(coded, coded, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_code, image + image_code, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token(image + image_code, tokens + token_code, tokens)
        return tokens, self.norm4(image + attended)


class TwoWayTransformer(nn.Module):
    """Two-way blocks and a last look of the tokens at the image."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(config, is_first=i == 0) for i in range(config.decoder_depth))
        dim = config.prompt_dim
        self.final_attn_token_to_image = ProjectedAttention(dim, config.decoder_heads, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C), image and its codes (B, N, C) -> updated tokens and image."""
        token_code = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_code, image_code)
        attended = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        return self.norm_final_attn(tokens + attended), image


class ThreeLayerMlp(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        widths = (dim, hidden_dim, hidden_dim, out_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class SamMed3DMaskDecoder(nn.Module):
    """Masks at a quarter of the tile's resolution; parameters are named as in the published state dict."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        dim = config.prompt_dim
        num_masks = 1 + config.num_candidates
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(dim, dim // 4, kernel_size=2, stride=2),
            ChannelNorm(dim // 4),
            nn.GELU(),
            nn.ConvTranspose3d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(ThreeLayerMlp(dim, dim, dim // 8) for _ in range(num_masks))
        self.iou_prediction_head = ThreeLayerMlp(dim, config.iou_hidden_dim, num_masks)

    def forward(
        self,
        *,
        image_embedding: Tensor,
        image_position_code: Tensor,
        sparse_prompts: Tensor,
        dense_prompts: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decodes one object on each of B tiles.

        Args:
            image_embedding: (B, C, S, S, S).
            image_position_code: (1, C, S, S, S).
            sparse_prompts: (B, N, C).
            dense_prompts: (B, C, S, S, S).
            multimask: the three candidates instead of the one mask.

        Returns:
            Logits (B, M, 4 S, 4 S, 4 S) and the quality head's outputs (B, M), M = 3 or 1.
        """
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([repeat(outputs, "t c -> b t c", b=len(sparse_prompts)), sparse_prompts], dim=1)
        image = image_embedding + dense_prompts
        side = image.shape[-1]
        flat, flat_code = (rearrange(x, "b c d h w -> b (d h w) c") for x in (image, image_position_code))
        tokens, flat = self.transformer(tokens, flat, flat_code)
        features = self.output_upscaling(rearrange(flat, "b (d h w) c -> b c d h w", d=side, h=side))
        chosen = range(1, len(self.output_hypernetworks_mlps)) if multimask else range(1)
        weights = torch.stack([self.output_hypernetworks_mlps[m](tokens[:, 1 + m]) for m in chosen], dim=1)
        logits = torch.einsum("bmc,bcdhw->bmdhw", weights, features)
        quality = self.iou_prediction_head(tokens[:, 0])
        return logits, quality[:, 1:] if multimask else quality[:, :1]
