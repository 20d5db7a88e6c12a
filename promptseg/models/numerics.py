"""What a device computes in, how much memory embeddings take, and what tells weights apart."""

from __future__ import annotations

import hashlib

import torch

from .promptable_model import PromptableModel


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it fast, else float32.

    What torch calls supported is emulated, and slower than float32, on GPUs before Ampere, for which cuDNN has no such
    convolutions, and on processors with AVX-512 that lack its instructions for bfloat16.
    """
    if device.type == "cuda":
        is_fast = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        is_emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
        is_fast = torch.ops.mkldnn._is_mkldnn_bf16_supported() and not is_emulated
    else:
        is_fast = False
    return torch.bfloat16 if is_fast else torch.float32


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
