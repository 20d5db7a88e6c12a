"""Tokens that stand in for a prompt, or stand beside it: learned ones of labels, and words."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .image_encoder import ImageEmbedding
from .mask_decoder import DecoderOutput
from .prompt_encoder import PromptBatch
from .promptable_model import PromptableModel


def empty_prompts(num_tiles: int, num_objects: int, device: torch.device | str = "cpu") -> PromptBatch:
    """Prompts that say nothing, for objects asked for by their tokens alone or with a mask."""
    return PromptBatch(
        torch.zeros(num_tiles, num_objects, 1, 3, device=device),
        torch.full((num_tiles, num_objects, 1), -1, dtype=torch.long, device=device),
    )


def decode_with_tokens(
    model: PromptableModel,
    embedding: ImageEmbedding,
    prompts: PromptBatch,
    tokens: Tensor,
    tokens_are_present: Tensor | None = None,
    multimask: bool = False,
) -> DecoderOutput:
    """Decodes masks for prompts with learned tokens beside them; without tokens it is ``model.decode``.

    Args:
        model: whose decoder answers.
        embedding: of B tiles.
        prompts: of P objects on each tile.
        tokens: (B, P, T, C) or (P, T, C) for all tiles.
        tokens_are_present: (B, P) bool; None for all.
        multimask: also return candidates.
    """
    encoded = model.encode_prompts(prompts, embedding.grid_shape, embedding.spacing_mm)
    batch, num_objects = encoded.sparse_prompts.shape[:2]
    tokens = tokens.expand(batch, *tokens.shape[-3:]).to(encoded.sparse_prompts)
    present = torch.ones(batch, num_objects, dtype=torch.bool, device=tokens.device)
    present = present if tokens_are_present is None else tokens_are_present
    joined = replace(
        encoded,
        sparse_prompts=torch.cat([encoded.sparse_prompts, tokens], dim=2),
        sparse_is_present=torch.cat(
            [encoded.sparse_is_present, present[..., None].expand(-1, -1, tokens.shape[2])], dim=2
        ),
    )
    are_words = present[..., None].expand(batch, num_objects, tokens.shape[2])
    return model.decode_encoded(embedding, joined, multimask, tokens, are_words)
