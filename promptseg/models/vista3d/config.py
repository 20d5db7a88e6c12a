"""Sizes of VISTA3D and what its bundle does before the network: the published values are the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from ..foreign_weights import ForeignConfig
from .labels import CLASS_NAMES

ARCHITECTURE = "vista3d"
"""Name of the architecture written into a converted checkpoint's ``config.json``."""


@dataclass(frozen=True)
class Vista3DConfig(ForeignConfig):
    """Sizes of a :class:`~promptseg.models.vista3d.Vista3DModel`; the defaults are the published ``vista3d132``.

    Source: He et al., VISTA3D, 2024; ``monai.networks.nets.vista3d132``; Project-MONAI/model-zoo,
        ``models/vista3d/configs/inference.json``.

    Raises:
        ValueError: if two fields contradict each other; both are named.
    """

    name: str = "vista3d"
    """Name the weights are known by."""
    tile_size: int = 128
    """Side, in voxels, of the cube that the encoder takes."""
    spacing_mm: float = 1.5
    """Isotropic voxel size, in mm, of the volumes the weights were trained on."""
    low_intensity: float = -963.8247715525971
    """Hounsfield units that become 0; what lies below is clipped."""
    high_intensity: float = 1053.678477684517
    """Hounsfield units that become 1; what lies above is clipped."""
    feature_size: int = 48
    """Channels of the encoder's first level and of both heads."""
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4)
    """Residual blocks of each level of the encoder."""
    num_classes: int = 512
    """Rows of the tables of class embeddings."""
    last_supported: int = 132
    """Classes above it are new to the weights, for the point head."""
    class_names: tuple[str, ...] = CLASS_NAMES
    """Name of class 1, 2, ..."""
    architecture: str = ARCHITECTURE
    """Architecture these sizes are for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks_down", tuple(int(b) for b in self.blocks_down))
        object.__setattr__(self, "class_names", tuple(str(n) for n in self.class_names))
        if self.architecture != ARCHITECTURE:
            raise ValueError(f"architecture={self.architecture!r}: expected {ARCHITECTURE!r}")
        factor = max(2, 2 ** (len(self.blocks_down) - 1))
        if self.tile_size < factor or self.tile_size % factor:
            raise ValueError(
                f"tile_size={self.tile_size} is not a multiple of {factor}, which blocks_down={self.blocks_down} need"
            )
        if self.low_intensity >= self.high_intensity:
            raise ValueError(f"low_intensity={self.low_intensity} is not below high_intensity={self.high_intensity}")
        if self.feature_size % 8:
            raise ValueError(f"feature_size={self.feature_size}: expected a multiple of 8, twice the attention's heads")
        if len(self.class_names) >= self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for num_classes={self.num_classes}: expected fewer")

    @property
    def stem_channels(self) -> tuple[int, int, int]:
        """Channels kept of a tile at strides 2, 4 and 8, from which the memory of an embedding is estimated."""
        return (self.feature_size, 0, 0)

    @property
    def embed_dim(self) -> int:
        """Channels kept of a tile at stride 16: none."""
        return 0
