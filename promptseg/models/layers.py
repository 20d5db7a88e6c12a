"""Building blocks shared by the encoder and the decoder."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SAFE_WITH_MASKS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which torch 2.11 and later prefer on an H100: with a mask, its gradients can be NaN.

Source: https://github.com/pytorch/pytorch/issues/196678.
"""


def space_to_depth(x: Tensor) -> Tensor:
    """Moves each 2x2x2 cell into channels, losing nothing.

    Args:
        x: (B, C, D, H, W) with even D, H, W.

    Returns:
        (B, 8 C, D/2, H/2, W/2).
    """
    cells = rearrange(x, "b c (d i) (h j) (w k) -> b d h w (i j k c)", i=2, j=2, k=2)
    return cells.permute(0, 4, 1, 2, 3)  # channels innermost in memory, by one copy


def mean_of_cells(x: Tensor) -> Tensor:
    """Mean of each 2x2x2 cell, by slices: (B, C, D, H, W) -> (B, C, D/2, H/2, W/2)."""
    x = x[..., ::2] + x[..., 1::2]
    x = x[..., ::2, :] + x[..., 1::2, :]
    return (x[..., ::2, :, :] + x[..., 1::2, :, :]) / 8


def max_of_cells(x: Tensor) -> Tensor:
    """Largest value of each 2x2x2 cell, by slices: (B, C, D, H, W) -> (B, C, D/2, H/2, W/2)."""
    x = torch.maximum(x[..., ::2], x[..., 1::2])
    x = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(x[..., ::2, :, :], x[..., 1::2, :, :])


def dilate(x: Tensor, axes: tuple[int, ...] = (-3, -2, -1)) -> Tensor:
    """Largest value in each 3x3x3 neighbourhood: (..., D, H, W) -> the same shape.

    By slices in place on a CPU, where pooling takes several times as long; on a GPU by pooling, which is one kernel an
    axis, or by what a compiler makes one.
    """
    if torch.compiler.is_compiling() or x.device.type == "mps":
        return dilate_padded(x, axes)
    if x.is_cuda and x.is_floating_point():
        for axis in axes:
            reach = [int(other == axis) for other in (-3, -2, -1)]
            sides = [1 + 2 * n for n in reach]
            x = F.max_pool3d(x.reshape(-1, 1, *x.shape[-3:]), sides, stride=1, padding=reach).reshape(x.shape)
        return x
    for axis in axes:
        out, size = x.clone(), x.shape[axis] - 1
        for low, high in ((0, 1), (1, 0)):
            view = out.narrow(axis, low, size)
            torch.maximum(view, x.narrow(axis, high, size), out=view)
        x = out
    return x


def dilate_padded(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The same without writing in place.

    Pooling writes an index of eight bytes for each voxel: on an H200 this is six times faster, once it is compiled.
    """
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    for axis in axes:
        padded, size = F.pad(x, [0, 0] * (-1 - axis) + [1, 1], value=lowest), x.shape[axis]
        x = torch.maximum(x, torch.maximum(padded.narrow(axis, 0, size), padded.narrow(axis, 2, size)))
    return x


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Trilinear interpolation to ``factor`` times as many voxels along each axis: (..., D, H, W).

    As three products of matrices: ``interpolate`` gives the same, but on a GPU its gradient takes longer for a map of a
    few cells than all convolutions of the decoder.
    """
    for axis in (-3, -2, -1):
        one = torch.eye(x.shape[axis], device=x.device, dtype=x.dtype)[None]
        matrix = F.interpolate(one, scale_factor=float(factor), mode="linear")[0]  # (n, factor * n)
        x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return x


def depth_to_space(x: Tensor) -> Tensor:
    """Inverse of :func:`space_to_depth`: (B, 8 C, D, H, W) -> (B, C, 2 D, 2 H, 2 W)."""
    cells = x.permute(0, 2, 3, 4, 1)  # (B, D, H, W, 8 C)
    return rearrange(cells, "b d h w (i j k c) -> b c (d i) (h j) (w k)", i=2, j=2, k=2)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What products with a tensor are computed in: autocast's dtype where that is on, else the tensor's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Pointwise(nn.Module):
    """A 1x1x1 convolution as a matrix product: with channels innermost in memory it copies nothing."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C_out, D, H, W), channels innermost in memory."""
        return F.linear(x.permute(0, 2, 3, 4, 1), self.weight, self.bias).permute(0, 4, 1, 2, 3)


class Conv3d(nn.Conv3d):
    """A convolution that is as fast for one float32 tile on a CPU as for several.

    There torch takes its own slow path for a batch of one unless the first four sizes multiply to more than 20480
    (``use_mkldnn`` in aten/src/ATen/native/Convolution.cpp); asking oneDNN by name is 3 to 15 times faster.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C_out, D', H', W')."""
        is_single = len(input) == 1 and input.device.type == "cpu" and input.dtype == torch.float32
        if is_single and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
            sizes = ([int(n) for n in size] for size in (self.padding, self.stride, self.dilation))
            return torch.ops.aten.mkldnn_convolution(input, self.weight, self.bias, *sizes, self.groups)
        return super().forward(input)


class Upsample(nn.ConvTranspose3d):
    """Doubles each axis by a transposed convolution without overlap, as a matrix product: copies nothing twice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, D, H, W) -> (B, C_out, 2 D, 2 H, 2 W)."""
        matrix = rearrange(self.weight, "c o i j k -> (i j k o) c")
        bias = None if self.bias is None else self.bias.repeat(8)
        cells = F.linear(input.permute(0, 2, 3, 4, 1), matrix, bias)  # (B, D, H, W, 8 C_out)
        return to_channels_last(depth_to_space(cells.permute(0, 4, 1, 2, 3)))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of eight channels (or as near as divides)."""
    return nn.GroupNorm(_num_groups(channels), channels)


def _num_groups(channels: int) -> int:
    groups = max(1, channels // 8)
    while channels % groups:
        groups -= 1
    return groups


class NormRelu(nn.GroupNorm):
    """:func:`group_norm` and a ReLU, in the dtype that comes in; one kernel where it is compiled.

    Uncompiled, a GPU's norm takes channels outermost in memory and autocast's float32, so that both are converted to
    and fro around every convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(_num_groups(channels), channels)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        return F.relu(F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)).to(input.dtype)


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two 3x3x3 convolutions.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = NormRelu(channels)
        self.conv1 = Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = NormRelu(channels)
        self.conv2 = Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        y = self.conv1(self.norm1(x))
        return x + self.conv2(self.norm2(y))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim if out_dim is None else out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out_dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """``scaled_dot_product_attention`` whose gradients are finite with a mask, too."""
    is_at_risk = mask is not None and query.is_cuda and torch.is_grad_enabled()
    with sdpa_kernel(SAFE_WITH_MASKS) if is_at_risk else nullcontext():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value inputs, by ``scaled_dot_product_attention``."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_is_present: Tensor | None = None) -> Tensor:
        """Attends from queries to keys.

        Args:
            query: (B, N, C).
            key: (B, M, C).
            value: (B, M, C).
            key_is_present: (B, M) bool; keys that are False get no attention.

        Returns:
            (B, N, C). Cost grows with N * M.
        """
        q, k, v = (
            rearrange(layer(x), "b n (h c) -> b h n c", h=self.num_heads)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = None if key_is_present is None else key_is_present[:, None, None, :]  # (B, 1, 1, M)
        out = attend(q, k, v, mask)
        return self.proj(rearrange(out, "b h n c -> b n (h c)"))


def init_weights(module: nn.Module) -> None:
    """Truncated-normal linears, He-normal convolutions, zero biases."""
    if isinstance(module, (nn.Linear, Pointwise)):
        inputs = module.weight.shape[1]
        nn.init.trunc_normal_(module.weight, std=0.02 if inputs > 64 else inputs**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def to_channels_last(x: Tensor) -> Tensor:
    """The same tensor with channels innermost in memory (up to 10 times faster 3D convolutions on CPU)."""
    return x.contiguous(memory_format=torch.channels_last_3d)
