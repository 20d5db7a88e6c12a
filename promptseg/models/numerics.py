"""What a device computes in, how much memory embeddings take, and what tells weights apart."""

from __future__ import annotations

import hashlib

import torch

from .promptable_model import PromptableModel


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it fast, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def embedding_bytes(model: PromptableModel) -> int:
    """Memory of one tile's embedding, estimated from the model's sizes."""
    config = model.config
    channels = (*config.stem_channels, config.embed_dim)
    values = sum(c * (config.tile_size // s) ** 3 for c, s in zip(channels, (2, 4, 8, 16), strict=True))
    return (values + config.tile_size**3) * torch.finfo(model.dtype).bits // 8


def digest_weights(model: PromptableModel) -> str:
    """Digest of all weights. Cost: linear in their number."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
