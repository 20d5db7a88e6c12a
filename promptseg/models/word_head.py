"""Where on a tile a structure lies that is named and not pointed at: words compared with the image's features.

A word lies nowhere, so the decoder cannot look for it as it looks at a click. Here every cell of 8 x 8 x 8 voxels is
compared with the word, which takes next to nothing for each further word; the result is handed to the decoder as the
previous mask, which it refines as it refines any other. Tokens that were learned in place of a word are words too.

Source: Li et al., Language-driven Semantic Segmentation, 2022 (dense features compared with word embeddings).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .image_encoder import ImageEmbedding
from .layers import Conv3d, Mlp, Pointwise, enlarge
from .prompt_encoder import PREVIOUS_MASK, EncodedPrompts

WORD_STRIDE = 8
"""Voxels along each side of a cell."""
WIDTH = 128
"""Features that a cell and a word are compared by."""


@dataclass(frozen=True)
class WordHint:
    """What words say of a tile.

    Attributes:
        mask_logits: (B, P, D/8, H/8, W/8); their sigmoid estimates the share of a cell that is the
            structure, relative to the cell that has most of it.
        presence_logits: (B, P).
    """

    mask_logits: Tensor
    presence_logits: Tensor


class WordHead(nn.Module):
    """Compares words with cells.

    Args:
        config: sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token_proj = Pointwise(config.embed_dim, WIDTH)
        self.skip_proj = Pointwise(config.stem_channels[2], WIDTH)
        self.mix = Conv3d(WIDTH, WIDTH, kernel_size=3, padding=1)
        self.out = Pointwise(WIDTH, WIDTH)
        self.word = Mlp(config.embed_dim, 2 * config.embed_dim, 2 * (WIDTH + 1))
        # One map of left and right for all names, so that each pair that is learnt teaches the sides of all others.
        self.side_of_word = nn.Linear(config.embed_dim, 1, bias=False) if config.word_sides else None
        self.side_of_cell = Pointwise(WIDTH, 1) if config.word_sides else None

    def forward(self, embedding: ImageEmbedding, tokens: Tensor, are_present: Tensor) -> WordHint:
        """Looks for structures on encoded tiles.

        Args:
            embedding: of B tiles.
            tokens: (B, P, T, C) of each structure; their mean counts.
            are_present: (B, P, T) bool.

        Returns:
            The hint; meaningless for a structure without tokens. Cost linear in P * voxels / 512.
        """
        coarse = enlarge(self.token_proj(embedding.tokens), 2)
        cells = F.gelu(coarse + self.skip_proj(embedding.skips[2]))
        cells = self.out(cells + F.gelu(self.mix(cells)))  # (B, F, d, h, w)
        weight = are_present[..., None].to(tokens.dtype)
        mean = (tokens * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1)
        of_cells, of_tile = self.word(mean).chunk(2, dim=-1)  # (B, P, F + 1)
        scale = WIDTH**-0.5
        logits = torch.einsum("bfdhw,bpf->bpdhw", cells, of_cells[..., :-1]) * scale
        pooled = 0.5 * (cells.mean(dim=(2, 3, 4)) + cells.amax(dim=(2, 3, 4)))
        presence = torch.einsum("bf,bpf->bp", pooled, of_tile[..., :-1]) * scale + of_tile[..., -1]
        logits = logits + of_cells[..., -1, None, None, None]
        if self.side_of_word is not None and self.side_of_cell is not None:
            logits = logits + self.side_of_word(mean)[..., None, None] * self.side_of_cell(cells)
        return WordHint(logits, presence)


def with_hint(encoded: EncodedPrompts, hint: WordHint, are_named: Tensor) -> EncodedPrompts:
    """Prompts with a hint in place of the previous mask, for named objects (B, P) bool that have none."""
    dense = encoded.dense_prompts
    previous = dense[:, :, PREVIOUS_MASK]
    fills = are_named & ~previous.flatten(2).any(dim=2)
    coarse = torch.tanh(hint.mask_logits.float() / 2)
    filled = torch.where(fills[..., None, None, None], enlarge(coarse, WORD_STRIDE), previous)
    parts = [*dense[:, :, :PREVIOUS_MASK].unbind(dim=2), filled]
    return replace(encoded, dense_prompts=torch.stack(parts, dim=2))
