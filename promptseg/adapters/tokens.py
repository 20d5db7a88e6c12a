"""Learned tokens that stand in for a prompt: one row of them for each label that an adapter was tuned for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TOKEN_SCALE = 0.3
"""Standard deviation of tokens that start at random: about half that of words."""
WORD_NOISE = 0.1
"""Standard deviation of what is added to a word's token, so that the tokens of a label differ."""


class LabelTokens(nn.Module):
    """Tokens that are learned during fine-tuning.

    Args:
        num_labels: L.
        tokens_per_label: T.
        dim: width of the model's prompts, C.
    """

    def __init__(self, num_labels: int, tokens_per_label: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_labels, tokens_per_label, dim) * TOKEN_SCALE)

    @torch.no_grad()
    def start_from(self, words: Sequence[Tensor | None]) -> None:
        """Sets the tokens of each label to a word's (C,), but for some noise; those without one stay as they are."""
        for number, word in enumerate(words):
            if word is not None:
                self.weight[number] = word + WORD_NOISE * torch.randn_like(self.weight[number])

    def forward(self, labels: Tensor) -> Tensor:
        """Tokens of label numbers (...) as (..., T, C)."""
        return self.weight[labels]
