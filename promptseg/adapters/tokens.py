"""Learned tokens that stand in for a prompt: one row of them for each label that an adapter was tuned for."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LabelTokens(nn.Module):
    """Tokens that are learned during fine-tuning.

    Args:
        num_labels: L.
        tokens_per_label: T.
        dim: width of the model's prompts, C.
    """

    def __init__(self, num_labels: int, tokens_per_label: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_labels, tokens_per_label, dim) * 0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """Tokens of label numbers (...) as (..., T, C)."""
        return self.weight[labels]
