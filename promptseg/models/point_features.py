"""What the image shows where a point lies, and where else it shows the like.

A click's code says where it is. What it is on, a cortex or the fluid beside it, two voxels away, the encoder knows at
its fine strides; the tokens at stride 16, which a click's token attends to, mix it. So the features there are added to
the point's token, and maps say how alike each cell of the tile is to what was clicked, to include it or to exclude it.

Source: Kirillov et al., PointRend, 2020, for features read at points; Snell et al., Prototypical Networks, 2017, for
likeness to what was marked.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .evidence import NUM_SIDES
from .image_encoder import TOKEN_STRIDE, ImageEmbedding
from .layers import Mlp, Pointwise

STRIDES = (2, 4, 8, TOKEN_STRIDE)
NUM_FEATURES = 16
"""Channels in which cells are compared with points."""
SHARPNESS = 4.0
"""Initial factor of the distance of cosines in the second, narrower map of each side."""
NUM_LIKENESS_MAPS = 2 * NUM_SIDES


class PointFeatures(nn.Module):
    """Reads the encoder's maps at points.

    Args:
        config: of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = (*config.stem_channels, config.embed_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.mlp = Mlp(sum(channels), config.embed_dim, config.embed_dim)
        self.projs = nn.ModuleList(Pointwise(c, NUM_FEATURES) for c in config.stem_channels)
        self.sharpness = nn.Parameter(torch.tensor([SHARPNESS]))  # sharded training takes no scalars

    def init_output(self) -> None:
        """Starts with nothing to add to a token."""
        nn.init.zeros_(self.mlp.fc2.weight)

    def forward(self, embedding: ImageEmbedding, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features at the points of P objects on each of B tiles.

        Args:
            embedding: of the tiles.
            points: (B, P, N, 3) in voxels of the tiles.
            labels: (B, P, N) 1 include, 0 exclude, -1 absent.

        Returns:
            What to add to the points' tokens, (B, P, N, C); and (B * P, 4, D/2, H/2, W/2) how alike each cell is to the
            included point that is most like it, as cosine and as 1 for the same that falls to 0, then likewise to the
            excluded ones; zeros for a side without points. Cost linear in points times cells.
        """
        if not points.shape[2]:  # a box or a mask alone
            shape = (len(embedding.image) * points.shape[1], NUM_LIKENESS_MAPS, *embedding.skips[0].shape[2:])
            tokens = self.mlp.fc2.weight.new_zeros(*points.shape[:3], self.mlp.fc2.out_features)
            return tokens, points.new_zeros(shape)
        maps = (*embedding.skips, embedding.tokens)
        found = [
            norm(read_at_points(m, points, stride).to(self.mlp.fc1.weight.dtype))
            for stride, norm, m in zip(STRIDES, self.norms, maps, strict=True)
        ]
        return self.mlp(torch.cat(found, dim=-1)), self._likeness(embedding, points, labels)

    def _likeness(self, embedding: ImageEmbedding, points: Tensor, labels: Tensor) -> Tensor:
        size = embedding.skips[0].shape[2:]
        cells, *coarse = (proj(skip).float() for proj, skip in zip(self.projs, embedding.skips, strict=True))
        for part in coarse:
            cells = cells + F.interpolate(part, size=size, mode="trilinear")
        flat = rearrange(cells, "b f d h w -> b (d h w) f")
        flat = flat * (flat.square().sum(dim=2, keepdim=True) + 1e-12).rsqrt()
        cells = rearrange(flat, "b (d h w) f -> b f d h w", d=size[0], h=size[1])
        marked = F.normalize(read_at_points(cells, points, STRIDES[0]), dim=-1)  # (B, P, N, F)
        cosines = torch.einsum("bpnf,bmf->bpnm", marked, flat)
        likeness = []
        for label in (1, 0):
            is_on = labels == label
            most = cosines.masked_fill(~is_on[..., None], -1.0).amax(dim=2)  # (B, P, M)
            has_any = is_on.any(dim=2, keepdim=True)
            likeness += [most * has_any, torch.exp(self.sharpness.float() * (most - 1)) * has_any]
        stacked = torch.stack(likeness, dim=2)
        return rearrange(stacked, "b p k (d h w) -> (b p) k d h w", d=size[0], h=size[1])


def read_at_points(maps: Tensor, points: Tensor, stride: int) -> Tensor:
    """Values at points, interpolated between cells and those of the border beyond it.

    Args:
        maps: (B, C, D/stride, H/stride, W/stride).
        points: (B, P, N, 3) in voxels, whose centres are whole numbers.
        stride: voxels of a cell along each axis.

    Returns:
        (B, P, N, C) float32.
    """
    lengths = [stride * cells for cells in maps.shape[2:]]
    # From -1 at one border to 1 at the other; the last axis comes first.
    place = [(points[..., axis].float() + 0.5) * (2 / lengths[axis]) - 1 for axis in (2, 1, 0)]
    grid = torch.stack(place, dim=-1)[:, :, :, None]  # (B, P, N, 1, 3)
    found = F.grid_sample(maps.float(), grid, padding_mode="border", align_corners=False)
    return rearrange(found, "b c p n 1 -> b p n c")
