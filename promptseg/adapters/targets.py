"""Which parts of a model each kind of adapter changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models import PromptableModel
from ..models.layers import Pointwise
from .config import AdapterConfig

ENCODER, DECODER, WORD_HEAD = "image_encoder", "mask_decoder", "word_head"


def scopes(config: AdapterConfig) -> tuple[str, ...]:
    """Prefixes of the modules in which an adapter's changes lie."""
    inside = {
        "all": (f"{ENCODER}.blocks.", f"{DECODER}."),
        "encoder": (f"{ENCODER}.blocks.",),
        "decoder": (f"{DECODER}.",),
    }[config.scope]
    return (*inside, f"{WORD_HEAD}.") if config.tunes_words else inside


def linear_targets(model: PromptableModel, config: AdapterConfig) -> dict[str, nn.Linear]:
    """Name -> linear layer of attentions and MLPs in an adapter's scope; none for methods that are not low-rank.

    Convolutions are left out: peft 0.21.2 cannot merge those of 1x1x1. They can be held whole instead
    (:func:`value_targets`).
    """
    if not config.is_low_rank:
        return {}
    inside = scopes(config)
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)}


def value_targets(model: PromptableModel, config: AdapterConfig) -> dict[str, nn.Parameter]:
    """Name -> parameter that an adapter changes as a whole."""
    parameters = dict(model.named_parameters())
    if config.method == "full":
        return parameters
    if config.method == "decoder":
        inside = (f"{DECODER}.", f"{WORD_HEAD}.") if config.tunes_words else (f"{DECODER}.",)
        return {n: p for n, p in parameters.items() if n.startswith(inside)}
    inside = scopes(config) + ((f"{ENCODER}.norm.",) if config.scope != "decoder" else ())
    modules: set[str] = set()
    names: set[str] = set()
    if config.tunes_norms:
        modules |= {n for n, m in model.named_modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))}
        names |= {f"{DECODER}.{n}" for n in ("prompt_prior", "evidence_prior", "output_tokens.weight")}
    kinds = (nn.Conv3d, nn.ConvTranspose3d, Pointwise)
    if config.tunes_convolutions:
        modules |= {n for n, m in model.named_modules() if isinstance(m, kinds) and n.startswith(DECODER)}
    if config.tunes_pyramid:
        inside += (f"{ENCODER}.",)
        kinds += (nn.GroupNorm,)
        modules |= {n for n, m in model.named_modules() if isinstance(m, kinds) and n.startswith(ENCODER)}
    if config.tunes_words:  # but for its one wide convolution, which is larger than all else together
        modules |= {n for n, m in model.named_modules() if isinstance(m, Pointwise) and n.startswith(WORD_HEAD)}
    return {
        n: p for n, p in parameters.items() if n.startswith(inside) and (n.rpartition(".")[0] in modules or n in names)
    }


def expected_tensors(model: PromptableModel, config: AdapterConfig) -> dict[str, Tensor]:
    """Key -> tensor without data, of everything that an adapter's file must hold for a model."""
    shapes: dict[str, tuple[int, ...]] = {}
    rank = config.rank
    for name, linear in linear_targets(model, config).items():
        inputs, outputs = linear.in_features, linear.out_features
        parts: dict[str, tuple[int, ...]] = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
        if config.method == "dora":
            parts["magnitude"] = (outputs,)
        elif config.method == "salt":
            leading = min(rank, inputs, outputs)
            parts |= {"left": (outputs, leading), "right": (leading, inputs), "singular_values": (leading,)}
            parts |= {"scale": (leading,), "shift": (leading,)}
        shapes |= {f"delta.{name}.{part}": shape for part, shape in parts.items()}
    shapes |= {f"{config.whole_prefix}{n}": tuple(p.shape) for n, p in value_targets(model, config).items()}
    if config.tokens_per_label:
        shapes["label_tokens"] = (len(config.labels), config.tokens_per_label, model.config.embed_dim)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
