"""2D vision transformers as a start for the 3D encoder.

What maps: the transformer's blocks, that is attention, MLP and norms, and the last norm. They mix tokens without asking
where these came from, so their 2D weights are taken as they are, and a volume that is constant along an axis gives, in
each of its slices, what the 2D blocks give for one slice. What does not map: the patch embedding, because promptseg's
tokens come from a convolutional pyramid (:func:`inflate_patch_embedding` is for encoders that have one), the class
token, and the position embedding, in whose place stands a code in millimetres. Those stay as they were initialised.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .image_encoder import ImageEncoder, TransformerBlock

PLAIN_MODELS = ("vit_base_patch16_224.augreg_in21k", "deit_small_patch16_224", "vit_small_patch14_dinov2")
"""Some of timm's models that :func:`inflate_transformer` takes."""
_OTHER_PARTS = "rotary or relative positions (rope, rel_pos), biases (q_bias) or scales (gamma_1), which would be lost"
_GELUS = ("GELU", "GELUTanh")  # the latter approximates the former to within 0.0005


@torch.no_grad()
def inflate_transformer(encoder: ImageEncoder, source: Any) -> str:
    """Copies the blocks of a timm vision transformer into the encoder's.

    Args:
        encoder: to fill, in place.
        source: a ``timm.models.vision_transformer.VisionTransformer`` with plain blocks (``vit_...``, ``deit_...`` and
            DINOv2) of the encoder's width, heads and MLP ratio, and at least its depth; the first blocks are taken.
            Layer scales are multiplied into the layers before them.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: for a model that computes anything else than the encoder's blocks do, such as rotary or relative
            positions, or another activation than GELU; or other sizes, of which both are named.
    """
    if reason := _why_not_plain(source):
        cfg = getattr(source, "pretrained_cfg", None) or {}
        raise ValueError(
            f"{cfg.get('architecture') or type(source).__name__} cannot be inflated, because it {reason}; models that "
            f"can: {', '.join(PLAIN_MODELS)}"
        )
    return _inflate_blocks(encoder, source.blocks, getattr(source, "norm", None))


def _why_not_plain(source: Any) -> str:
    """What a 2D model computes otherwise than the encoder does; empty for nothing.

    Many of timm's models have ``blocks`` with ``attn`` and ``mlp`` of fitting shapes and do other things with them, so
    only the classes that are known to compute the same are let in.
    """
    from timm.layers.mlp import Mlp
    from timm.models import vision_transformer as timm_vit

    # Of this module in every version, although newer ones define it elsewhere.
    attention_class: Any = timm_vit.Attention  # pyright: ignore[reportPrivateImportUsage]
    if not isinstance(source, timm_vit.VisionTransformer):
        return f"is a {type(source).__name__} and not timm's VisionTransformer: it may have {_OTHER_PARTS}"
    blocks: Any = source.blocks
    for block in blocks:
        for part, plain in (
            (block, timm_vit.Block),
            (getattr(block, "attn", None), attention_class),
            (getattr(block, "mlp", None), Mlp),
        ):
            if type(part) is not plain:
                return f"has {type(part).__name__} in its blocks in place of {plain.__name__}"
        if (activation := type(block.mlp.act).__name__) not in _GELUS:
            return f"has the activation {activation} in place of GELU"
        for norm in (block.norm1, block.norm2):
            if not isinstance(norm, nn.LayerNorm):
                return f"has {type(norm).__name__} in place of LayerNorm"
        for owner, name, what in (
            (block.attn, "q_norm", "normalises queries and keys"),
            (block.attn, "norm", "normalises what attention gives"),
            (block.mlp, "norm", "normalises inside its MLP"),
            (block.attn, "gate", "gates its attention"),
        ):
            if not isinstance(getattr(owner, name, None), nn.Identity | None):
                return what
        if block.attn.qkv.weight.shape[0] != 3 * block.attn.qkv.weight.shape[1]:
            return "has heads that together are not as wide as its tokens"
    return ""


def _inflate_blocks(encoder: ImageEncoder, blocks: Any, last_norm: Any) -> str:
    """Copies blocks under timm's names, and the last norm if it follows the last block taken."""
    if len(blocks) < len(encoder.blocks):
        raise ValueError(
            f"the 2D model has {len(blocks)} blocks, the encoder {len(encoder.blocks)}: choose a deeper one, or "
            f"model.depth={len(blocks)}"
        )
    for ours, theirs in zip(encoder.blocks, blocks, strict=False):
        assert isinstance(ours, TransformerBlock)
        _copy_block(ours, theirs)
    if isinstance(last_norm, nn.LayerNorm) and len(blocks) == len(encoder.blocks):
        _copy(encoder.norm, last_norm)
    return f"{len(encoder.blocks)} of {len(blocks)} blocks, {encoder.norm.normalized_shape[0]} wide"


def _copy_block(ours: TransformerBlock, theirs: Any) -> None:
    attention, width = theirs.attn, ours.norm1.normalized_shape[0]
    found = attention.qkv.weight.shape[1]
    if found != width or attention.num_heads != ours.attention.num_heads:
        raise ValueError(
            f"the 2D model is {found} wide with {attention.num_heads} heads, the encoder {width} with "
            f"{ours.attention.num_heads}: set model.embed_dim={found} and model.num_heads={attention.num_heads}"
        )
    if theirs.mlp.fc1.weight.shape != ours.mlp.fc1.weight.shape:
        raise ValueError(
            f"the 2D model's MLP is {tuple(theirs.mlp.fc1.weight.shape)}, the encoder's "
            f"{tuple(ours.mlp.fc1.weight.shape)}: set model.mlp_ratio to {theirs.mlp.fc1.weight.shape[0] / found:g}"
        )
    _copy(ours.norm1, theirs.norm1)
    _copy(ours.norm2, theirs.norm2)
    parts = (ours.attention.query, ours.attention.key, ours.attention.value)
    biases = [None] * 3 if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
    for layer, weight, bias in zip(parts, attention.qkv.weight.chunk(3), biases, strict=True):
        layer.weight.copy_(weight)
        layer.bias.zero_() if bias is None else layer.bias.copy_(bias)
    _copy(ours.attention.proj, attention.proj, getattr(theirs, "ls1", None))
    _copy(ours.mlp.fc1, theirs.mlp.fc1)
    _copy(ours.mlp.fc2, theirs.mlp.fc2, getattr(theirs, "ls2", None))


def _copy(ours: nn.Linear | nn.LayerNorm, theirs: Any, layer_scale: nn.Module | None = None) -> None:
    """Copies weight and bias, each output times its layer scale if there is one."""
    gamma = getattr(layer_scale, "gamma", None)
    scale = torch.ones(()) if gamma is None else gamma
    ours.weight.copy_(theirs.weight * (scale[:, None] if scale.ndim else scale))
    ours.bias.zero_() if theirs.bias is None else ours.bias.copy_(theirs.bias * scale)


def inflate_patch_embedding(weight: Tensor, depth: int, in_channels: int = 1) -> Tensor:
    """A 2D patch embedding for volumes: averaged along the depth, its colours summed to grey.

    Args:
        weight: (C, colours, H, W).
        depth: voxels of a patch along the new axis.
        in_channels: of the volumes; each gets an equal part.

    Returns:
        (C, in_channels, depth, H, W); on a volume that is constant along the depth it gives what ``weight`` gives on a
        grey slice of it.

    Example:
        >>> inflate_patch_embedding(torch.ones(8, 3, 16, 16), 16).sum(dim=(1, 2, 3, 4))[0].item()
        768.0
    """
    if weight.ndim != 4 or depth < 1 or in_channels < 1:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)}, depth={depth}, in_channels={in_channels}: expected "
            "(C, colours, H, W) and 1 or more"
        )
    grey = weight.sum(dim=1)[:, None, None] / (depth * in_channels)
    return grey.expand(-1, in_channels, depth, -1, -1).contiguous()


@torch.no_grad()
def inflate_sam(encoder: ImageEncoder, tensors: Mapping[str, Tensor]) -> str:
    """Copies the blocks of Segment Anything's 2D image encoder (ViT-B, -L or -H) into the encoder's.

    Attention, MLP and norms are taken. Left out, beside what :func:`inflate_transformer` leaves out, are the relative
    positions (``rel_pos_h`` and ``rel_pos_w``), which are of two axes, the windows, because promptseg's tiles are small
    enough for all blocks to attend globally, and the neck.

    Source: Kirillov et al., Segment Anything, 2023; github.com/facebookresearch/segment-anything,
        ``modeling/image_encoder.py``.

    Args:
        encoder: to fill, in place; of the checkpoint's width, heads and MLP ratio, and at most its depth.
        tensors: state dict of a whole SAM (keys ``image_encoder.blocks...``), or of its image encoder.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: for another kind of checkpoint or other sizes; both sizes are named.
    """
    prefix = "image_encoder." if "image_encoder.blocks.0.attn.qkv.weight" in tensors else ""
    depth = 0
    while f"{prefix}blocks.{depth}.attn.qkv.weight" in tensors:
        depth += 1
    if not depth or f"{prefix}blocks.0.attn.rel_pos_h" not in tensors:
        raise ValueError(
            "not a checkpoint of Segment Anything: expected image_encoder.blocks.N.attn.qkv.weight and rel_pos_h, "
            f"found {', '.join(list(tensors)[:3]) or 'nothing'}"
        )
    blocks = [_sam_block(tensors, f"{prefix}blocks.{number}.") for number in range(depth)]
    return _inflate_blocks(encoder, blocks, None)  # no last norm: SAM's neck has its own


def _sam_block(tensors: Mapping[str, Tensor], prefix: str) -> SimpleNamespace:
    """One block under the names that timm's have.

    Raises:
        ValueError: if a tensor is missing.
    """

    def layer(name: str) -> SimpleNamespace:
        try:
            return SimpleNamespace(weight=tensors[f"{prefix}{name}.weight"], bias=tensors.get(f"{prefix}{name}.bias"))
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing from the checkpoint; fetch it again") from error

    qkv, head_dim = layer("attn.qkv"), tensors[f"{prefix}attn.rel_pos_h"].shape[1]
    heads = qkv.weight.shape[1] // head_dim
    attention = SimpleNamespace(qkv=qkv, proj=layer("attn.proj"), num_heads=heads)
    mlp = SimpleNamespace(fc1=layer("mlp.lin1"), fc2=layer("mlp.lin2"))
    return SimpleNamespace(norm1=layer("norm1"), norm2=layer("norm2"), attn=attention, mlp=mlp)
