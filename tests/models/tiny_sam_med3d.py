"""SAM-Med3D's architecture at a size that a test can afford."""

from __future__ import annotations

from promptseg.models.sam_med3d import SamMed3DConfig

TINY = SamMed3DConfig(
    tile_size=32,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=2,
    window_size=7,
    global_blocks=(1,),
    prompt_dim=48,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_hidden_dim=16,
    mask_channels=8,
)
