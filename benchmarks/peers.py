"""Networks of the peers' published shapes with random weights, so that ratios are measured and not quoted."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from promptseg.models.sam_med3d import SamMed3DModel

UNET_WIDTHS = (32, 64, 128, 256, 320, 320)
UNET_BLOCKS = (1, 3, 4, 6, 6, 6)
UNET_INPUT_CHANNELS = 8
UNET_PATCH = 192


def published_vit_b() -> nn.Module:
    """SAM-Med3D's image encoder, computed as its public code does: attention over the padding, 100 M weights."""
    model = SamMed3DModel()
    model.fold_padding(False)
    return model.image_encoder.eval()


def folded_vit_b() -> nn.Module:
    """The same network with the same results, as promptseg runs it: the padding folded into one key."""
    return SamMed3DModel().image_encoder.eval()


class ConvNorm(nn.Sequential):
    """Convolution and instance normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2),
            nn.InstanceNorm3d(out_channels, affine=True),
        )


class HalvingPool(nn.Module):
    """Average of 2x2x2 voxels, axis by axis (torch's own has no bfloat16 on a CPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D/2, H/2, W/2)."""
        x = x[:, :, ::2] + x[:, :, 1::2]
        x = x[..., ::2, :] + x[..., 1::2, :]
        return (x[..., ::2] + x[..., 1::2]) / 8


class ResidualUnit(nn.Module):
    """Two convolutions; the shortcut is pooled and projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, stride=stride)
        self.second = ConvNorm(out_channels, out_channels)
        self.pool = HalvingPool() if stride == 2 else nn.Identity()
        self.project = ConvNorm(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, D, H, W) -> (B, C_out, D/s, H/s, W/s)."""
        y = self.second(self.activation(self.first(x)))
        return self.activation(y + self.project(self.pool(x)))


class ResidualEncoderUNet(nn.Module):
    """A residual-encoder U-Net of the early-fusion peer's size: image and seven prompt channels in, at full resolution.

    Source: Isensee et al., nnU-Net Revisited, 2024 (ResEnc-L: stages and blocks); Isensee et al., nnInteractive, 2025
    (192^3 patches, eight input channels, 102 M parameters).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(UNET_INPUT_CHANNELS, UNET_WIDTHS[0]), nn.LeakyReLU(inplace=True))
        before = (UNET_WIDTHS[0], *UNET_WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualUnit(narrow, wide, stride=1 if level == 0 else 2),
                *[ResidualUnit(wide, wide, stride=1) for _ in range(blocks - 1)],
            )
            for level, (narrow, wide, blocks) in enumerate(zip(before, UNET_WIDTHS, UNET_BLOCKS, strict=True))
        )
        pairs = list(pairwise(UNET_WIDTHS))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(wide, narrow, 2, 2) for narrow, wide in pairs)
        self.merges = nn.ModuleList(
            nn.Sequential(ConvNorm(2 * narrow, narrow), nn.LeakyReLU(inplace=True)) for narrow, _ in pairs
        )
        self.head = nn.Conv3d(UNET_WIDTHS[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8, D, H, W) -> logits (B, 2, D, H, W)."""
        x = self.stem(x)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.ups, self.merges, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)
