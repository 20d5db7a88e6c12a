"""Layers that SAM-Med3D's encoder, prompt encoder and decoder share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (B, C, D, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        channels_last = x.movedim(1, -1)
        return F.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class TwoLayerMlp(nn.Module):
    """Linear, activation, linear; named as in the published state dict."""

    def __init__(self, dim: int, hidden_dim: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.lin2(self.activation(self.lin1(x)))
