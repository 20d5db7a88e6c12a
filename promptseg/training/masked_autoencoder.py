"""Masked-autoencoder pretraining of the image encoder on images without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..data.randomness import Randomness
from ..models.config import ModelConfig
from ..models.image_encoder import TOKEN_STRIDE, ImageEncoder, TransformerBlock
from ..models.layers import init_weights


@dataclass(frozen=True)
class MaskedAutoencoderConfig:
    """Sizes of the masking and of the decoder that is thrown away.

    Raises:
        ValueError: for a share outside 0 to 1, or a decoder that its heads do not divide.
    """

    mask_share: float = 0.75
    """Share of a crop's tokens that are hidden."""
    decoder_dim: int = 192
    """Width of the decoder."""
    decoder_depth: int = 2
    """Its blocks."""
    decoder_heads: int = 6
    """Its attention heads."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_share < 1:
            raise ValueError(f"mae.mask_share={self.mask_share}: expected a share between 0 and 1")
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"mae.decoder_dim={self.decoder_dim} is not divisible by mae.decoder_heads={self.decoder_heads}"
            )


class MaskedAutoencoder(nn.Module):
    """Hides most of a crop, encodes the rest and draws what was hidden.

    Hidden voxels are grey for the convolutional stem; the transformer sees only the tokens that are left, which makes a
    step cheap. The loss is the squared error on hidden voxels, each token's normalised to mean 0 and variance 1.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, 2022; with a convolutional stem as in
    Gao et al., ConvMAE, 2022, without its masked convolutions.

    Args:
        image_encoder: to train; its weights are the ones handed over to prompted training.
        model: its sizes.
        config: of masking and decoder.
        seed: of the masks.
    """

    def __init__(
        self, image_encoder: ImageEncoder, model: ModelConfig, config: MaskedAutoencoderConfig, seed: int = 0
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.config, self.seed = config, seed
        width = config.decoder_dim
        self.decoder_embed = nn.Linear(model.embed_dim, width)
        self.position_proj = nn.Linear(model.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder_blocks = nn.ModuleList(
            TransformerBlock(width, config.decoder_heads, 4.0) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, TOKEN_STRIDE**3)
        for part in (self.decoder_embed, self.position_proj, self.decoder_blocks, self.head):
            part.apply(init_weights)

    def forward(self, batch: dict[str, Tensor], step: int, index: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on a batch, a pure function of (seed, step, index) and the weights.

        Args:
            batch: ``image`` (B, 1, D, H, W) and ``spacing_mm`` (B, 3).
            step: of the optimiser.
            index: of this batch within the step.

        Returns:
            Loss, and ``hidden_error``, the squared error in units of intensity.
        """
        image, spacing_mm = batch["image"], batch["spacing_mm"]
        d, h, w = (n // TOKEN_STRIDE for n in image.shape[2:])
        randomness = Randomness((self.seed, step, index, 4), image.device)
        order = randomness.uniform(len(image), d * h * w).argsort(dim=1)
        num_visible = min(d * h * w - 1, max(1, round(d * h * w * (1 - self.config.mask_share))))
        visible = order[:, :num_visible].sort(dim=1).values
        is_visible = torch.zeros(len(image), d * h * w, device=image.device).scatter_(1, visible, 1.0)
        patches = to_patches(image)
        predicted = self._draw(image * to_voxels(is_visible, (d, h, w)), spacing_mm, visible).float()
        mean, std = patches.mean(dim=-1, keepdim=True), patches.std(dim=-1, keepdim=True)
        wanted = (patches - mean) / (std + 1e-2)
        error = (predicted - wanted).square().mean(dim=-1)
        is_hidden = 1 - is_visible
        loss = (error * is_hidden).sum() / is_hidden.sum()
        drawn = predicted.detach() * (std + 1e-2) + mean
        hidden_error = ((drawn - patches).square().mean(dim=-1) * is_hidden).sum() / is_hidden.sum()
        return loss, {"hidden_error": hidden_error}

    def _draw(self, image: Tensor, spacing_mm: Tensor, visible: Tensor) -> Tensor:
        """Normalised voxels of every token (B, N, 16^3), from an image whose hidden tokens are grey."""
        encoder = self.image_encoder
        grid_shape = (image.shape[2], image.shape[3], image.shape[4])
        skips = encoder.pyramid(image)
        tokens = encoder.embed_tokens(skips[2], grid_shape, spacing_mm)
        seen = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
        seen = self.decoder_embed(encoder.attend(seen))
        full = repeat(self.mask_token.to(seen.dtype), "c -> b n c", b=len(image), n=tokens.shape[1])
        full = full.scatter(1, visible[..., None].expand(-1, -1, seen.shape[2]), seen)
        full = full + self.position_proj(encoder.token_position_codes(grid_shape, spacing_mm))
        for block in self.decoder_blocks:
            full = block(full)
        return self.head(self.decoder_norm(full))


def to_patches(image: Tensor) -> Tensor:
    """Voxels of each token: (B, 1, D, H, W) -> (B, N, 16^3)."""
    sides = {"i": TOKEN_STRIDE, "j": TOKEN_STRIDE, "k": TOKEN_STRIDE}
    return rearrange(image, "b 1 (d i) (h j) (w k) -> b (d h w) (i j k)", **sides)


def to_voxels(tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """A value of each token on its voxels: (B, N) -> (B, 1, D, H, W)."""
    shaped = rearrange(tokens, "b (d h w) -> b 1 d h w", d=grid[0], h=grid[1])
    for axis in (2, 3, 4):
        shaped = shaped.repeat_interleave(TOKEN_STRIDE, dim=axis)
    return shaped
