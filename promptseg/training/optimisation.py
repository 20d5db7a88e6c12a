"""Learning rates, weight decay, clipping and the moving average of the weights."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .distributed import local_part, whole
from .muon import Muon, MuonAndAdamW

if TYPE_CHECKING:
    from .config import PretrainConfig

ADAM_BETAS = (0.9, 0.98)
_BLOCK = re.compile(r"(?:^|\.)image_encoder\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)image_encoder\.(stem|downs|stages|patch_norm|patch_embed|position_code)\b")


def learning_rate(config: PretrainConfig, step: float) -> float:
    """Rate at a step: linear warm-up, constant, then half a cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if step < config.decay_start:
        return config.learning_rate
    progress = (step - config.decay_start) / max(1, config.max_steps - config.decay_start)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def layer_scale(name: str, depth: int, layer_decay: float) -> float:
    """Share of the learning rate that a parameter gets.

    Args:
        name: of the parameter.
        depth: blocks of the encoder's transformer.
        layer_decay: 1 for the same rate everywhere.

    Returns:
        1 for decoder and prompt encoder; ``layer_decay`` for the encoder's last block, once more for each block below
        it, and once more for the convolutional stem.

    Source: Bao et al., BEiT, 2022, appendix (layer-wise decay).
    """
    if block := _BLOCK.search(name):
        return layer_decay ** (depth - int(block[1]))
    if _EMBEDDING.search(name):
        return layer_decay ** (depth + 1)
    return 1.0


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, depth: int = 0
) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices and kernels decay; biases, norms and embeddings do not.

    Args:
        model: whose parameters that take gradients are grouped.
        weight_decay: of the former.
        layer_decay: see :func:`layer_scale`.
        depth: see :func:`layer_scale`.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr_scale``, in an order that depends on the model alone.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim >= 2 and id(parameter) not in embeddings
            groups.setdefault((layer_scale(name, depth, layer_decay), is_decayed), []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if is_decayed else 0.0, "lr_scale": scale}
        for (scale, is_decayed), members in groups.items()
    ]


def make_optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW | MuonAndAdamW:
    """AdamW with one kernel for all parameters; or, with ``optimizer: muon``, Muon for those that decay."""
    groups = parameter_groups(model, config.weight_decay, config.layer_decay, config.model.depth)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=ADAM_BETAS, fused=True)
    groups = [{**group, "lr": config.learning_rate} for group in groups]
    decayed, others = ([g for g in groups if (g["weight_decay"] > 0) is wanted] for wanted in (True, False))
    return MuonAndAdamW(decayed, others, ADAM_BETAS)


def set_learning_rate(optimizer: torch.optim.Optimizer | MuonAndAdamW, rate: float) -> None:
    """Sets the rate of each group to its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scales the gradients to a norm of at most ``max_norm``, over all processes' shares; returns the norm before.

    Gradients whose norm is not finite stay as they are.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    before = float(whole(norm))
    if math.isfinite(before):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return before


def nonfinite_gradients(model: nn.Module) -> list[str]:
    """Names of the weights whose gradient, or this process's share of it, has a NaN or an infinity."""
    return [n for n, p in model.named_parameters() if p.grad is not None and not local_part(p.grad).isfinite().all()]


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.AdamW | MuonAndAdamW) -> dict[str, dict[str, Tensor]]:
    """Moments by parameter name, by reference; those not made yet are made as the first step would.

    Rates and decay are not among them: the configuration of the run that resumes sets those.
    """
    parts = optimizer.parts if isinstance(optimizer, MuonAndAdamW) else [optimizer]
    owners = {id(p): part for part in parts for group in part.param_groups for p in group["params"]}
    named: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = owners[id(parameter)]
        moments = ("momentum",) if isinstance(owner, Muon) else ("exp_avg", "exp_avg_sq")
        state = owner.state[parameter]
        if not state:
            if not isinstance(owner, Muon):
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for moment in moments:
                state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        named[name] = {k: state[k] for k in ("step", *moments) if k in state}
    return named


class WeightAverage:
    """Exponential moving average of a model's weights; these are the ones validated and exported.

    Under ``fsdp`` each process averages its own share.

    Args:
        model: whose parameters and persistent buffers are followed.
        decay: of the average; early in a run it is lower, so that the random start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}
        unique = {k for k, _ in (*model.named_parameters(), *model.named_buffers())}
        self._aliases = set(self.tensors) - unique
        """Further names of weights that two parts of the model share."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after optimiser step ``step``, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = self.model.state_dict()
        ours, theirs = [], []
        for name, mean in self.tensors.items():
            if mean.is_floating_point():
                ours.append(local_part(mean))
                theirs.append(local_part(current[name].detach()))
            else:
                mean.copy_(current[name])
        torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their average; a second call puts them back."""
        current = self.model.state_dict()
        for name, mean in self.tensors.items():
            if name in self._aliases:  # exchanged under its first name; twice would leave the average in the weights
                continue
            ours, theirs = local_part(mean), local_part(current[name].detach())
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)
