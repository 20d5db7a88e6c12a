"""Puts an adapter's parameters into a model for training, and takes them out again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models import PromptableModel
from .adapter import Adapter
from .config import AdapterConfig
from .deltas import AdaptedLinear, SaltDelta
from .stack import replace_module
from .targets import linear_targets, value_targets
from .tokens import LabelTokens

PEFT_NAME = "tuned"


class TrainableAdapter:
    """The parameters of one adapter inside a model, all others frozen.

    LoRA and DoRA are peft's layers; SALT's, whole weights and label tokens are our own. The model's forward pass is the
    base's until a step is taken, bit by bit.

    Args:
        model: the base; it is changed in place until :meth:`remove`.
        config: which parameters.

    Raises:
        ValueError: if adapters are on.
        ImportError: for ``lora`` and ``dora`` without peft.
    """

    def __init__(self, model: PromptableModel, config: AdapterConfig) -> None:
        if any(isinstance(m, AdaptedLinear) for m in model.modules()):
            raise ValueError("adapters are on: take them off first, with activate(None) or set_adapter(None)")
        self.model = model
        self.config = config
        self._required = {n: p.requires_grad for n, p in model.named_parameters()}
        self._values = value_targets(model, config)
        self._kept = {n: p.detach().clone() for n, p in self._values.items()}
        self._linears = linear_targets(model, config)
        model.requires_grad_(False)
        if config.method == "salt":
            for name, linear in self._linears.items():
                delta = SaltDelta(SaltDelta.start(linear.weight, config.rank), config.alpha / config.rank)
                replace_module(model, name, AdaptedLinear(linear, [(1.0, delta.to(linear.weight.device))]))
        elif config.is_low_rank:
            _inject_peft(model, config, list(self._linears))
        for parameter in self._values.values():
            parameter.requires_grad_(True)
        self.tokens: LabelTokens | None = None
        if config.tokens_per_label and config.labels:
            self.tokens = LabelTokens(len(config.labels), config.tokens_per_label, model.config.embed_dim)
            self.tokens.to(model.device)

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether image embeddings stay those of the base, so that they can be computed once."""
        return not any(p.requires_grad for p in self.model.image_encoder.parameters())

    @property
    def pyramid_is_frozen(self) -> bool:
        """Whether at least what the encoder does before its transformer stays the base's, which is most of its cost."""
        tuned = (n for n, p in self.model.image_encoder.named_parameters() if p.requires_grad)
        return all(n.startswith(("blocks.", "norm.")) for n in tuned)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, under the keys of the adapter's file."""
        found = {f"{self.config.whole_prefix}{n}": p for n, p in self._values.items()}
        for name in self._linears:
            layer: Any = self.model.get_submodule(name)
            if self.config.method == "salt":
                parts = dict(layer.deltas[0].named_parameters())
            else:
                parts = {"lora_A": layer.lora_A[PEFT_NAME].weight, "lora_B": layer.lora_B[PEFT_NAME].weight}
                if self.config.method == "dora":
                    parts["magnitude"] = layer.lora_magnitude_vector[PEFT_NAME].weight
            found |= {f"delta.{name}.{part}": p for part, p in parts.items()}
        if self.tokens is not None:
            found["label_tokens"] = self.tokens.weight
        return found

    def state(self) -> dict[str, Tensor]:
        """Copies of what is trained, and of what it refers to, float32 on the CPU."""
        found: dict[str, Tensor] = dict(self.parameters())
        if self.config.method == "salt":
            for name in self._linears:
                layer: Any = self.model.get_submodule(name)
                found |= {f"delta.{name}.{part}": b for part, b in layer.deltas[0].named_buffers()}
        return {k: v.detach().float().cpu().clone() for k, v in found.items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Sets what is trained to copies that :meth:`state` made."""
        for key, parameter in self.parameters().items():
            parameter.copy_(state[key])

    def export(self, name: str = "adapter") -> Adapter:
        """The adapter as it is now; what was trained is in half precision, which is exact enough for differences."""
        tensors = self.state()
        if self.config.holds_changes:
            for parameter, kept in self._kept.items():
                tensors[f"{self.config.whole_prefix}{parameter}"] -= kept.float().cpu()
        trained = self.parameters()
        return Adapter(self.config, {k: v.half() if k in trained else v for k, v in tensors.items()}, name)

    @torch.no_grad()
    def remove(self) -> None:
        """Gives the model back as it was, bit by bit."""
        for name, linear in self._linears.items():
            replace_module(self.model, name, linear)
        self.model.__dict__.pop("peft_config", None)
        for name, parameter in self._values.items():
            parameter.copy_(self._kept[name])
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._required[name])


def _inject_peft(model: PromptableModel, config: AdapterConfig, names: list[str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"method={config.method!r} needs peft: pip install 'promptseg[finetune]'") from error
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        use_dora=config.method == "dora",
        target_modules=names,  # type: ignore[arg-type]
    )
    inject_adapter_in_model(lora, model, PEFT_NAME)
