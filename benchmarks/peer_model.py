"""A promptable model of the peer's shape, for training on the same data and steps: patch-16 ViT, coarse logits.

What the 3D ports of Segment Anything share: tokens straight from 16^3 patches, a decoder without skips that sees only
those tokens, and logits at a quarter of the resolution that are interpolated. Width, depth, position code and prompts
are promptseg's own, so that what differs is the architecture.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from promptseg.models import DecoderOutput, ImageEmbedding, ModelConfig, PromptBatch
from promptseg.models.image_encoder import TOKEN_STRIDE, TransformerBlock
from promptseg.models.layers import Attention, Mlp, init_weights
from promptseg.models.mask_decoder import TwoWayBlock
from promptseg.models.position import PositionCode, token_centres
from promptseg.models.prompt_encoder import PromptEncoder


class PeerModel(nn.Module):
    """Answers like :class:`~promptseg.models.PromptableModel`; strokes and boxes reach it as points only.

    Args:
        config: sizes; of the stems and decoder channels nothing is used.
    """

    word_head = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.position_code = PositionCode(dim)
        self.patch_embed = nn.Conv3d(1, dim, TOKEN_STRIDE, stride=TOKEN_STRIDE)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.prompt_encoder = PromptEncoder(config, self.position_code)
        self.mask_embed = nn.Conv3d(1, dim, TOKEN_STRIDE, stride=TOKEN_STRIDE)
        num_masks = 1 + config.num_candidates
        self.output_tokens = nn.Embedding(num_masks + 2, dim)
        self.two_way = nn.ModuleList(
            TwoWayBlock(dim, config.num_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.final_attention = Attention(dim, config.num_heads)
        self.final_norm = nn.LayerNorm(dim)
        self.ups = nn.Sequential(
            nn.ConvTranspose3d(dim, dim // 4, 2, stride=2),
            nn.GELU(),
            nn.ConvTranspose3d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.mask_weights = nn.ModuleList(Mlp(dim, dim, dim // 8 + 1) for _ in range(num_masks))
        self.iou_head = Mlp(dim, dim, num_masks)
        self.presence_head = Mlp(dim, dim, 1)
        self.apply(init_weights)
        for weights in self.mask_weights:
            assert isinstance(weights, Mlp)
            nn.init.constant_(weights.fc2.bias[-1:], -2.0)

    def _codes(self, grid_shape: tuple[int, int, int], spacing_mm: Tensor) -> Tensor:
        centres = token_centres(grid_shape, TOKEN_STRIDE, spacing_mm.device)
        return self.position_code(centres.expand(len(spacing_mm), -1, -1), grid_shape, spacing_mm)

    def encode_image(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """Encodes tiles (B, 1, D, H, W); the embedding has no skips."""
        grid_shape = (image.shape[2], image.shape[3], image.shape[4])
        tokens = rearrange(self.patch_embed(image), "b c d h w -> b (d h w) c") + self._codes(grid_shape, spacing_mm)
        tokens = tokens + self.position_code.scale_code(spacing_mm)[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        sides = {"d": grid_shape[0] // TOKEN_STRIDE, "h": grid_shape[1] // TOKEN_STRIDE}
        tokens = rearrange(self.norm(tokens), "b (d h w) c -> b c d h w", **sides)
        nothing = tokens[:, :0]
        return ImageEmbedding(tokens, (nothing, nothing, nothing), image.to(tokens.dtype), spacing_mm.float())

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask: bool = False) -> DecoderOutput:
        """Decodes masks; see :meth:`promptseg.models.PromptableModel.decode`."""
        batch, num_objects = prompts.num_tiles, prompts.num_objects
        encoded = self.prompt_encoder(prompts, embedding.grid_shape, embedding.spacing_mm)
        previous = rearrange(encoded.dense_prompts[:, :, -1:], "b p k d h w -> (b p) k d h w")
        image = embedding.tokens.repeat_interleave(num_objects, dim=0)
        image = image + self.mask_embed(previous.to(image.dtype))
        sparse = rearrange(encoded.sparse_prompts, "b p n c -> (b p) n c")
        present = rearrange(encoded.sparse_is_present, "b p n -> (b p) n")
        outputs = repeat(self.output_tokens.weight, "t c -> n t c", n=len(sparse)).to(sparse.dtype)
        initial = torch.cat([outputs, sparse], dim=1)
        present = torch.cat([present.new_ones(len(sparse), outputs.shape[1]), present], dim=1)
        codes = self._codes(embedding.grid_shape, embedding.spacing_mm).repeat_interleave(num_objects, dim=0)
        tokens, flat = initial, rearrange(image, "n c d h w -> n (d h w) c")
        for block in self.two_way:
            tokens, flat = block(tokens, flat, initial, codes, present)
        tokens = self.final_norm(tokens + self.final_attention(tokens + initial, flat + codes, flat))
        features = self.ups(rearrange(flat, "n (d h w) c -> n c d h w", d=image.shape[2], h=image.shape[3]))
        num_masks = 1 + self.config.num_candidates if multimask else 1
        weights = torch.stack([self.mask_weights[m](tokens[:, m]) for m in range(num_masks)], dim=1)
        coarse = torch.einsum("nmc,ncdhw->nmdhw", weights[..., :-1], features) + weights[..., -1, None, None, None]
        logits = F.interpolate(coarse.float(), size=embedding.grid_shape, mode="trilinear", align_corners=False)
        quality = self.iou_head(tokens[:, outputs.shape[1] - 2])[:, :num_masks]
        presence = self.presence_head(tokens[:, outputs.shape[1] - 1])[..., 0]
        return DecoderOutput(
            rearrange(logits, "(b p) m d h w -> b p m d h w", b=batch),
            rearrange(quality, "(b p) m -> b p m", b=batch),
            rearrange(presence, "(b p) -> b p", b=batch),
        )
