"""Muon: an optimiser for matrices and kernels that makes all directions of an update equally long."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration."""
NUM_ITERATIONS = 5
ADAM_RMS = 0.2
"""Root mean square of AdamW's updates relative to its learning rate; Muon's are scaled to it, so that rates agree."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (..., M, N) with the same singular vectors, whose singular values are all about 1 (0.7 to 1.2).

    Each step of the iteration multiplies by a polynomial of the small Gram matrix. All of these commute, so they are
    multiplied with each other first, and with the wide matrix once.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    steps = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    for _ in range(NUM_ITERATIONS):
        step = b * gram + c * (gram @ gram)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        steps = step @ steps
        gram = step @ gram @ step
    x = steps @ x
    return x.mT if is_tall else x


class Muon(Optimizer):
    """Momentum whose update is orthogonalised; kernels (O, I, D, H, W) count as matrices (O, I D H W).

    ``torch.optim.Muon`` takes matrices alone, and computes in bfloat16, which few CPUs have.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; the scale of the update, Liu
    et al., Muon is scalable for LLM training, 2025.

    Args:
        groups: parameters of two axes or more, with ``lr`` and ``weight_decay``.
        momentum: of the gradients, used as Nesterov's.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0, "momentum": momentum})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim < 2:
                raise ValueError(f"Muon: a parameter of shape {tuple(parameter.shape)}, expected two axes or more")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient; those of one shape together, so that a GPU has few kernels."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
            for parameters in alike.values():
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        ahead = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            ahead.append(gradient.lerp(state["momentum"], group["momentum"]).reshape(len(parameter), -1).float())
        updates = orthogonalise(torch.stack(ahead))
        length = group["lr"] * ADAM_RMS * math.sqrt(max(updates.shape[1:]))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape).to(parameter.dtype), alpha=-length)


class MuonAndAdamW:
    """Muon for some groups of parameters and AdamW for the others, used as one optimiser.

    Args:
        for_muon: groups with ``lr`` and ``weight_decay``; may be empty.
        others: the same.
        betas: of AdamW.

    Attributes:
        parts: the optimisers, those that have parameters.
    """

    def __init__(
        self, for_muon: list[dict[str, Any]], others: list[dict[str, Any]], betas: tuple[float, float]
    ) -> None:
        self.parts: list[Optimizer] = [Muon(for_muon)] if for_muon else []
        self.parts += [AdamW(others, betas=betas, fused=True)] if others else []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """Moves the parameters."""
        for part in self.parts:
            part.step()
