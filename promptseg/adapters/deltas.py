"""Low-rank changes of one linear layer's weights: LoRA, DoRA and SALT.

Each is a module that can be trained, be applied beside the layer, or be written out as a dense change of the weights.
Used adapters need this file only; peft makes and trains those of LoRA and DoRA.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoraDelta(nn.Module):
    """``W + s B A``.

    Source: Hu et al., LoRA, 2022.

    Args:
        tensors: ``lora_A`` (rank, inputs) and ``lora_B`` (outputs, rank).
        scaling: s.
    """

    def __init__(self, tensors: Mapping[str, Tensor], scaling: float) -> None:
        super().__init__()
        self.scaling = scaling
        self.lora_A = nn.Parameter(tensors["lora_A"])
        self.lora_B = nn.Parameter(tensors["lora_B"])

    def change(self, base: Tensor) -> Tensor:
        """Dense change of weights ``base`` (outputs, inputs)."""
        return self.scaling * (self.lora_B @ self.lora_A).to(base.dtype)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """What the change adds to the layer's output for x (..., inputs)."""
        return self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)


class DoraDelta(LoraDelta):
    """``m (W + s B A) / |W + s B A|``, the norm taken of each output's weights.

    Source: Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2024.

    Args:
        tensors: as of LoRA, and ``magnitude`` m (outputs,).
        scaling: s.
    """

    def __init__(self, tensors: Mapping[str, Tensor], scaling: float) -> None:
        super().__init__(tensors, scaling)
        self.magnitude = nn.Parameter(tensors["magnitude"])

    def _gain(self, base: Tensor) -> Tensor:
        """(outputs,) m / |W + s B A|."""
        norm = torch.linalg.norm(base + self.scaling * (self.lora_B @ self.lora_A).to(base.dtype), dim=1)
        return self.magnitude.to(base.dtype) / norm

    def change(self, base: Tensor) -> Tensor:
        gain = self._gain(base)[:, None]
        return (gain - 1) * base + gain * super().change(base)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        gain = self._gain(base)
        return (gain - 1) * F.linear(x, base) + gain * super().forward(x, base)


class SaltDelta(LoraDelta):
    """Scales and shifts the leading singular values, and changes the rest by a low-rank product.

    With ``W = U S V``, the leading part becomes ``U_r (a S_r + b) V_r``, and the rest, the complement of the leading
    singular vectors on both sides, gets ``s (1 - U_r U_r') B A (1 - V_r' V_r)``. The leading vectors are stored, so
    that an adapter does not depend on how a machine computes a decomposition.

    Source: Elsayed et al., SALT: Singular Value Adaptation with Low-Rank Transformation, 2025.

    Args:
        tensors: as of LoRA, and ``left`` (outputs, r), ``right`` (r, inputs), ``singular_values``, ``scale``, ``shift``
            (r,).
        scaling: s.
    """

    left: Tensor
    right: Tensor
    singular_values: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], scaling: float) -> None:
        super().__init__(tensors, scaling)
        for name in ("left", "right", "singular_values"):
            self.register_buffer(name, tensors[name])
        self.scale = nn.Parameter(tensors["scale"])
        self.shift = nn.Parameter(tensors["shift"])

    @staticmethod
    def start(base: Tensor, rank: int) -> dict[str, Tensor]:
        """Tensors that change nothing yet, for weights ``base`` (outputs, inputs)."""
        left, values, right = torch.linalg.svd(base.detach().float().cpu(), full_matrices=False)
        leading = min(rank, len(values))
        lora_a = torch.empty(rank, base.shape[1])
        nn.init.kaiming_uniform_(lora_a, a=5**0.5)
        return {
            "left": left[:, :leading].contiguous(),
            "right": right[:leading].contiguous(),
            "singular_values": values[:leading].clone(),
            "scale": torch.ones(leading),
            "shift": torch.zeros(leading),
            "lora_A": lora_a,
            "lora_B": torch.zeros(base.shape[0], rank),
        }

    def _moved(self) -> Tensor:
        """(r,) change of the leading singular values."""
        return self.singular_values * (self.scale - 1) + self.shift

    def change(self, base: Tensor) -> Tensor:
        leading = (self.left * self._moved()) @ self.right
        inputs = self.lora_A - (self.lora_A @ self.right.T) @ self.right
        outputs = self.lora_B - self.left @ (self.left.T @ self.lora_B)
        return (leading + self.scaling * outputs @ inputs).to(base.dtype)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        seen = F.linear(x, self.right)  # (..., r)
        leading = F.linear(seen * self._moved(), self.left)
        rest = F.linear(F.linear(x - F.linear(seen, self.right.T), self.lora_A), self.lora_B)
        rest = rest - F.linear(F.linear(rest, self.left.T), self.left)
        return leading + self.scaling * rest


DELTAS: dict[str, type[LoraDelta]] = {"lora": LoraDelta, "dora": DoraDelta, "salt": SaltDelta}
"""Method -> its change of a linear layer."""


class AdaptedLinear(nn.Module):
    """A linear layer with weighted changes beside it; its own weights stay as they are.

    Args:
        base: the layer.
        changes: pairs of a weight and a change.
        weight: (outputs, inputs) the changes were made for; None for those of the layer.
    """

    def __init__(self, base: nn.Linear, changes: list[tuple[float, LoraDelta]], weight: Tensor | None = None) -> None:
        super().__init__()
        self.base = base
        self.strengths = [strength for strength, _ in changes]
        self.deltas = nn.ModuleList(delta for _, delta in changes)
        self._weight = weight

    @property
    def weight(self) -> Tensor:
        """Weights of the layer itself; the model asks for their dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        out = self.base(x)
        reference = self.base.weight if self._weight is None else self._weight
        for strength, delta in zip(self.strengths, self.deltas, strict=True):
            out = out + strength * delta(x, reference)
        return out
