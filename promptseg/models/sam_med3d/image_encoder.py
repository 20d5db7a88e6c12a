"""SAM-Med3D's image encoder: a 3D ViT with relative positions, over a zero-padded window or the whole grid."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import attend
from .config import SamMed3DConfig
from .layers import ChannelNorm, TwoLayerMlp


def relative_codes(table: Tensor, num_queries: int, num_keys: int) -> Tensor:
    """Rows of a table of relative positions for each pair along one axis.

    Args:
        table: (2 E - 1, C), row ``q - k + E - 1`` for query q and key k.
        num_queries: queries 0 to num_queries - 1.
        num_keys: keys 0 to num_keys - 1, at most E.

    Returns:
        (num_queries, num_keys, C).
    """
    extent = (len(table) + 1) // 2
    query = torch.arange(num_queries, device=table.device)[:, None]
    key = torch.arange(num_keys, device=table.device)[None, :]
    return table[query - key + extent - 1]


class RelativeAttention(nn.Module):
    """Self-attention with relative position terms, over a grid padded to a window.

    Two things that the weights were trained with have to be kept as they are:

    * **Position terms.** Decomposed relative positions would add, to the score of query (d, h, w) and key (i, j, k), a
      term for d - i, one for h - j and one for w - k. The published code broadcasts them into other axes: all three
      depend on the key by k alone, and the second and third take the *query vector* at (d, h, i) and (d, h, j)::

          q[d, h, w] . D[d - k]  +  q[d, h, i] . H[h - k]  +  q[d, h, j] . W[j - k]

    * **Padding.** The grid of 8^3 tokens is zero-padded to a window of 14^3 with no mask, so each query spreads part of
      its attention over 2232 padding keys. This need not be computed: the padding keys all equal the key bias, their
      values the value bias, and for each k their position terms are a product over i and j of exponentials. So they are
      folded, exactly, into one key, and a block costs 512 x 513 scores instead of 2744 x 2744.
      ``fold_padding = False`` computes them as published.

    Source: SAM-Med3D, ``image_encoder3D.py``; Li et al., MViTv2, 2022, for the positions it set out from.

    Args:
        dim: width.
        num_heads: heads.
        extent: side of the window, in tokens; a grid of that side is not padded.
    """

    def __init__(self, dim: int, num_heads: int, extent: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.extent = extent
        self.fold_padding = True
        for axis in "dhw":
            self.register_parameter(f"rel_pos_{axis}", nn.Parameter(torch.zeros(2 * extent - 1, dim // num_heads)))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attends over the window; (B, S, S, S, C) -> (B, S, S, S, C) with S at most ``extent``."""
        side = x.shape[1]
        if not self.fold_padding and side < self.extent:
            margin = self.extent - side
            padded = F.pad(x, (0, 0, 0, margin, 0, margin, 0, margin))
            return self._attend(padded)[:, :side, :side, :side]
        return self._attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        side = x.shape[1]
        q, k, v = rearrange(self.qkv(x), "b d h w (t n c) -> t b n (d h w) c", t=3, n=self.num_heads)
        terms = self._position_terms(rearrange(q, "b n (d h w) c -> b n d h w c", d=side, h=side))
        by_w, by_i, by_j = (term[..., :side, :side] for term in terms)  # each (B, n, d, h, w or i or j, k)
        bias = by_w[..., :, None, None, :] + by_i[..., None, :, None, :] + by_j[..., None, None, :, :]
        bias = rearrange(bias, "b n d h w i j k -> b n (d h w) (i j k)")
        if side < self.extent:
            _, key_bias, value_bias = rearrange(self.qkv.bias, "(t n c) -> t n 1 c", t=3, n=self.num_heads)
            padding_bias = rearrange(self._padding_bias(terms, side), "b n d h w -> b n (d h w) 1")
            bias = torch.cat([bias, padding_bias], dim=-1)
            k = torch.cat([k, key_bias.expand(len(k), -1, -1, -1)], dim=2)
            v = torch.cat([v, value_bias.expand(len(v), -1, -1, -1)], dim=2)
        out = attend(q, k, v, bias)
        return self.proj(rearrange(out, "b n (d h w) c -> b d h w (n c)", d=side, h=side))

    def _position_terms(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three position terms of q (B, n, S, S, S, C), each (B, n, d, h, E, k) over the window's E coordinates.

        Query vectors beyond the grid are those of the padding, that is, the query bias.
        """
        side = q.shape[2]
        d_codes, h_codes, w_codes = (
            relative_codes(self.get_parameter(f"rel_pos_{axis}"), queries, self.extent).to(q.dtype)
            for axis, queries in (("d", side), ("h", side), ("w", self.extent))
        )
        if side < self.extent:
            query_bias = rearrange(self.qkv.bias, "(t n c) -> t n 1 1 1 c", t=3, n=self.num_heads)[0]
            shape = (*q.shape[:4], self.extent - side, q.shape[-1])
            q = torch.cat([q, query_bias.expand(shape)], dim=4)
        return (
            torch.einsum("bndhwc,dkc->bndhwk", q, d_codes),
            torch.einsum("bndhic,hkc->bndhik", q, h_codes),
            torch.einsum("bndhjc,jkc->bndhjk", q, w_codes),
        )

    @staticmethod
    def _padding_bias(terms: tuple[Tensor, Tensor, Tensor], side: int) -> Tensor:
        """Log of the summed exponentials of all padding keys' position terms: (B, n, d, h, w).

        The padding keys (i, j, k) are three disjoint sets: k beyond the grid; k within and i beyond; k and i within and
        j beyond. For each k the sum over i and j is a product.
        """
        by_w, by_i, by_j = terms
        by_w = by_w[..., :side, :]
        i_within, i_beyond = by_i[..., :side, :].logsumexp(-2), by_i[..., side:, :].logsumexp(-2)  # (B, n, d, h, k)
        j_beyond, j_any = by_j[..., side:, :].logsumexp(-2), by_j.logsumexp(-2)
        within = torch.logaddexp(i_beyond + j_any, i_within + j_beyond)[..., :side]
        beyond = (torch.logaddexp(i_within, i_beyond) + j_any)[..., side:]
        return (by_w + torch.cat([within, beyond], dim=-1)[..., None, :]).logsumexp(-1)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block; its padding comes after the norm, so padding tokens are zero at the attention."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, extent: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativeAttention(dim, num_heads, extent)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = TwoLayerMlp(dim, int(dim * mlp_ratio), nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, S, S, C) -> (B, S, S, S, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Non-overlapping cubes of voxels to tokens."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(1, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> (B, d, h, w, C), as one matrix product (a strided 16^3 convolution is slow on a CPU)."""
        p = self.patch_size
        patches = rearrange(image, "b 1 (d i) (h j) (w k) -> b d h w (i j k)", i=p, j=p, k=p)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class SamMed3DImageEncoder(nn.Module):
    """3D ViT-B with a convolutional neck; parameters are named as in the published state dict."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        self.tile_size = config.tile_size
        grid = config.grid_size
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, grid, config.embed_dim))
        self.patch_embed = PatchEmbedding(config.patch_size, config.embed_dim)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                config.embed_dim,
                config.num_heads,
                config.mlp_ratio,
                extent=grid if index in config.global_blocks else config.window_size,
            )
            for index in range(config.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(config.embed_dim, config.prompt_dim, kernel_size=1, bias=False),
            ChannelNorm(config.prompt_dim),
            nn.Conv3d(config.prompt_dim, config.prompt_dim, kernel_size=3, padding=1, bias=False),
            ChannelNorm(config.prompt_dim),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encodes normalised tiles.

        Args:
            image: (B, 1, T, T, T) with T the tile size.

        Returns:
            (B, prompt_dim, T/16, T/16, T/16).

        Raises:
            ValueError: for another shape.
        """
        expected = (1, self.tile_size, self.tile_size, self.tile_size)
        if image.ndim != 5 or tuple(image.shape[1:]) != expected:
            raise ValueError(
                f"image of shape {tuple(image.shape)}: expected (B, {', '.join(map(str, expected))}); crop or pad it"
            )
        x = self.patch_embed(image.to(self.pos_embed.dtype)) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(rearrange(x, "b d h w c -> b c d h w"))
