"""Position codes in physical space, shared by image tokens and prompts."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

NUM_FREQUENCIES = 12
MIN_WAVELENGTH = 4.0
MAX_WAVELENGTH = 512.0


def tile_centre(grid_shape: tuple[int, int, int] | torch.Size, device: torch.device | None = None) -> Tensor:
    """Voxel coordinate of the centre of a (D, H, W) grid whose voxel centres are integers: (3,)."""
    centre = (torch.tensor(tuple(grid_shape), dtype=torch.float32) - 1) / 2
    return centre if device is None else centre.to(device, non_blocking=True)


def token_centres(grid_shape: tuple[int, int, int] | torch.Size, stride: int, device: torch.device | None) -> Tensor:
    """Voxel coordinates of the centres of a grid's tokens.

    Args:
        grid_shape: (D, H, W) in voxels, multiples of ``stride``.
        stride: side of a token in voxels.
        device: where to make them.

    Returns:
        (D/stride * H/stride * W/stride, 3) float32, the last axis fastest.
    """
    axes = [
        torch.arange(n // stride, device=device, dtype=torch.float32) * stride + (stride - 1) / 2 for n in grid_shape
    ]
    return rearrange(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1), "d h w c -> (d h w) c")


class PositionCode(nn.Module):
    """Maps physical positions in a tile to vectors.

    A position is measured in millimetres from the tile's centre and divided by the tile's mean spacing, so the code
    respects anisotropy and stays within the range seen in training at any scale; the absolute scale is coded apart,
    from the logarithm of the spacing. Tokens and points go through this one function, which is what makes a point's
    code equal the code of the token it stands on.

    Source: Tancik et al., Fourier Features, 2020 (log-spaced frequencies here, so that no axis is special).
    """

    wavelengths: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.linspace(math.log(MIN_WAVELENGTH), math.log(MAX_WAVELENGTH), NUM_FREQUENCIES)
        self.register_buffer("wavelengths", torch.exp(exponents), persistent=False)
        self.proj = nn.Linear(6 * NUM_FREQUENCIES, dim)
        self.scale_proj = nn.Linear(9, dim)

    def forward(
        self, position_vox: Tensor, grid_shape: tuple[int, int, int] | torch.Size, spacing_mm: Tensor
    ) -> Tensor:
        """Codes of positions.

        Args:
            position_vox: (B, N, 3) voxel coordinates in the grid.
            grid_shape: (D, H, W) of the grid.
            spacing_mm: (B, 3) voxel size.

        Returns:
            (B, N, dim) in the dtype of the layer's weights.
        """
        spacing_mm = spacing_mm.float()
        mean_spacing = spacing_mm.log().mean(dim=-1).exp()[:, None, None]  # (B, 1, 1), geometric
        offset_mm = (position_vox.float() - tile_centre(grid_shape, position_vox.device)) * spacing_mm[:, None, :]
        phase = 2 * math.pi * (offset_mm / mean_spacing)[..., None] / self.wavelengths.float()  # (B, N, 3, F)
        waves = torch.cat([phase.sin(), phase.cos()], dim=-1)
        return self.proj(rearrange(waves, "b n c f -> b n (c f)").to(self.proj.weight.dtype))

    def scale_code(self, spacing_mm: Tensor) -> Tensor:
        """Code of the absolute voxel size: (B, 3) mm -> (B, dim); sizes outside 0.1 to 20 mm are clamped."""
        log_spacing = spacing_mm.float().clamp(0.1, 20.0).log2()
        features = torch.cat(
            [log_spacing / 4, (math.pi / 4 * log_spacing).sin(), (math.pi / 4 * log_spacing).cos()], dim=-1
        )
        return self.scale_proj(features.to(self.scale_proj.weight.dtype))
