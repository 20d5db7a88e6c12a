"""Sizes of SAM-Med3D: the published ones are the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from ..foreign_weights import ForeignConfig

ARCHITECTURE = "sam-med3d"
"""Name of the architecture written into a converted checkpoint's ``config.json``."""


@dataclass(frozen=True)
class SamMed3DConfig(ForeignConfig):
    """Sizes of a :class:`~promptseg.models.sam_med3d.SamMed3DModel`; the defaults are the published ``vit_b_ori``.

    Source: Wang et al., SAM-Med3D, 2023; github.com/uni-medical/SAM-Med3D, ``build_sam3D.py``.

    Raises:
        ValueError: if two fields contradict each other; both are named.
    """

    name: str = "sam-med3d"
    """Name the weights are known by."""
    tile_size: int = 128
    """Side, in voxels, of the cube that the encoder takes; fixed by the absolute position codes."""
    patch_size: int = 16
    """Side, in voxels, of an image token."""
    spacing_mm: float = 1.5
    """Isotropic voxel size, in mm, of the volumes the weights were trained on."""
    embed_dim: int = 768
    """Width of the image encoder."""
    depth: int = 12
    """Blocks of the image encoder."""
    num_heads: int = 12
    """Attention heads of the image encoder."""
    mlp_ratio: float = 4.0
    """Hidden width of the encoder's MLPs, in multiples of ``embed_dim``."""
    window_size: int = 14
    """Side, in tokens, of the zero-padded window that all but the global blocks attend over."""
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks that attend over the token grid without padding."""
    prompt_dim: int = 384
    """Width of the image embedding, the prompts and the decoder; a multiple of 3 (waves) and of 8 (upsampling)."""
    decoder_depth: int = 2
    """Two-way blocks of the mask decoder."""
    decoder_heads: int = 8
    """Attention heads of the mask decoder."""
    decoder_mlp_dim: int = 2048
    """Hidden width of the decoder's MLPs."""
    iou_hidden_dim: int = 256
    """Hidden width of the quality head."""
    num_candidates: int = 3
    """Mask tokens beyond the first."""
    mask_channels: int = 16
    """Channels that a mask prompt passes through on its way to ``prompt_dim``."""
    architecture: str = ARCHITECTURE
    """Architecture these sizes are for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_blocks", tuple(int(b) for b in self.global_blocks))
        if self.architecture != ARCHITECTURE:
            raise ValueError(f"architecture={self.architecture!r}: expected {ARCHITECTURE!r}")
        if self.patch_size < 1 or self.tile_size < self.patch_size or self.tile_size % self.patch_size:
            raise ValueError(f"tile_size={self.tile_size} is not a multiple of patch_size={self.patch_size}")
        if self.window_size < self.grid_size:
            raise ValueError(
                f"window_size={self.window_size} is smaller than the grid of {self.grid_size} tokens that "
                f"tile_size={self.tile_size} gives: expected one window to hold the grid, as in the published weights"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}")
        if self.prompt_dim % 24 or self.prompt_dim % (2 * self.decoder_heads):
            raise ValueError(
                f"prompt_dim={self.prompt_dim}: expected a multiple of 24 and twice decoder_heads={self.decoder_heads}"
            )
        outside = [b for b in self.global_blocks if not 0 <= b < self.depth]
        if outside:
            raise ValueError(f"global_blocks={self.global_blocks}: {outside} not within depth={self.depth}")

    @property
    def grid_size(self) -> int:
        """Tokens along each axis."""
        return self.tile_size // self.patch_size

    @property
    def stem_channels(self) -> tuple[int, int, int]:
        """Channels kept of a tile at strides 2, 4 and 8, from which the memory of an embedding is estimated: none."""
        return (0, 0, 0)

    @property
    def lowres_size(self) -> int:
        """Voxels along each axis of the decoder's own masks, and of mask prompts."""
        return 4 * self.grid_size
