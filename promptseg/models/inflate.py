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


@torch.no_grad()
def inflate_transformer(encoder: ImageEncoder, source: Any) -> str:
    """Copies the blocks of a timm vision transformer into the encoder's.

    Args:
        encoder: to fill, in place.
        source: a ``timm.models.vision_transformer.VisionTransformer`` of the encoder's width, heads and MLP ratio, and
            at least its depth; the first blocks are taken. Layer scales are multiplied into the layers before them.

    Returns:
        What was taken, in words.

    Raises:
        ValueError: for another kind of model or other sizes; both sizes are named.
    """
    blocks: Any = getattr(source, "blocks", None)
    if blocks is None or not hasattr(source, "patch_embed") or not hasattr(blocks[0], "attn"):
        raise ValueError(f"{type(source).__name__} is not a timm VisionTransformer: expected vit_... or deit_...")
    if len(blocks) < len(encoder.blocks):
        raise ValueError(
            f"the 2D model has {len(blocks)} blocks, the encoder {len(encoder.blocks)}: choose a deeper one, or "
            f"model.depth={len(blocks)}"
        )
    for ours, theirs in zip(encoder.blocks, blocks, strict=False):
        assert isinstance(ours, TransformerBlock)
        _copy_block(ours, theirs)
    last_norm = getattr(source, "norm", None)
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
    if not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity):
        raise ValueError("the 2D model normalises queries and keys, which the encoder does not; choose another")
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
    source: Any = SimpleNamespace(blocks=blocks, patch_embed=None)  # no last norm: SAM's neck has its own
    return inflate_transformer(encoder, source)


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
