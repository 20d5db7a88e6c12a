"""The mask decoder: a two-way transformer at stride 16 and a feature pyramid that draws at full resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .config import ModelConfig
from .edges import follow_edges
from .evidence import NUM_SIDES, gather_evidence, spread
from .image_encoder import ImageEmbedding
from .layers import (
    Attention,
    Conv3d,
    Mlp,
    NormRelu,
    Pointwise,
    ResidualBlock,
    Upsample,
    compute_dtype,
    depth_to_space,
    space_to_depth,
    to_channels_last,
)
from .point_features import NUM_LIKENESS_MAPS, PointFeatures
from .prompt_encoder import NUM_DENSE_MAPS, EncodedPrompts
from .walker import vote

NUM_QUALITY_FEATURES = 4
PROMPT_PRIOR = (4.0, -4.0, 0.5, 2.0)
"""Initial weights with which the dense maps enter the logits directly: a click marks its ball, a mask stays."""


@dataclass(frozen=True)
class DecoderOutput:
    """Masks of a decoder pass.

    Attributes:
        mask_logits: (B, P, M, D, H, W) at the tile's full resolution.
        iou_logits: (B, P, M); their sigmoid estimates the IoU of each mask.
        presence_logits: (B, P); their sigmoid estimates whether the object is in the tile at all.
    """

    mask_logits: Tensor
    iou_logits: Tensor
    presence_logits: Tensor

    @property
    def iou_scores(self) -> Tensor:
        """(B, P, M) in [0, 1]."""
        return self.iou_logits.float().sigmoid()

    @property
    def presence_scores(self) -> Tensor:
        """(B, P) in [0, 1]."""
        return self.presence_logits.float().sigmoid()


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens.

    Source: Kirillov et al., Segment Anything, 2023, appendix A.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.token_to_image = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio / 2))
        self.norm3 = nn.LayerNorm(dim)
        self.image_to_token = Attention(dim, num_heads)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, token_code: Tensor, image_code: Tensor, token_is_present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Updates tokens (B, T, C) and image (B, N, C); absent tokens are seen by nobody."""
        query = tokens + token_code
        tokens = self.norm1(tokens + self.self_attention(query, query, tokens, token_is_present))
        tokens = self.norm2(tokens + self.token_to_image(tokens + token_code, image + image_code, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.image_to_token(image + image_code, tokens + token_code, tokens, token_is_present)
        return tokens, self.norm4(image + attended)


class MaskDecoder(nn.Module):
    """Draws masks for prompts on encoded tiles.

    All convolutions run at stride 2 or more: the image, the prompt maps and the previous mask enter by space-to-depth
    and the logits leave by depth-to-space, so each full-resolution voxel is seen and drawn, at an eighth of the cost.

    Source: Shi et al., Real-Time Single Image Super-Resolution (sub-pixel convolution), 2016; the mask tokens and
    their weights for a dot product with the features, Segment Anything, 2023.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, channels, skips = config.embed_dim, config.decoder_channels, config.stem_channels
        self.num_candidates = config.num_candidates
        self.mask_channels = config.mask_channels
        num_masks = 1 + config.num_candidates
        self.output_tokens = nn.Embedding(num_masks + 2, dim)  # masks, quality, presence
        self.prompt_context = nn.Linear(dim, 2 * dim) if config.prompt_context else None
        self.skip_projs = nn.ModuleList(Pointwise(s, c) for s, c in zip(skips, channels, strict=True))
        self.has_evidence, self.follows_edges = config.intensity_evidence, config.follow_edges
        self.walks_from_clicks = config.walk_from_clicks
        self.point_features = PointFeatures(config) if config.point_features else None
        num_sides = NUM_SIDES if self.has_evidence else 0
        num_likeness = NUM_LIKENESS_MAPS if config.point_features else 0
        # Of a cell of 2x2x2 voxels: each voxel's maps, intensity and similarity; the cell's connectedness and likeness.
        self.prompt_stem = Pointwise(8 * (NUM_DENSE_MAPS + 1 + num_sides) + num_sides + num_likeness, channels[0])
        self.downs = nn.ModuleList(
            Conv3d(low, high, kernel_size=2, stride=2) for low, high in zip(channels, (*channels[1:], dim), strict=True)
        )
        self.down_blocks = nn.ModuleList(ResidualBlock(c) for c in channels[1:])
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, config.num_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.final_attention = Attention(dim, config.num_heads)
        self.final_norm = nn.LayerNorm(dim)
        self.ups = nn.ModuleList(Upsample(high, low) for low, high in zip(channels, (*channels[1:], dim), strict=True))
        self.up_blocks = nn.ModuleList(ResidualBlock(c) for c in channels)
        self.out_norm = NormRelu(channels[0])
        self.mask_features = Pointwise(channels[0], 8 * config.mask_channels)
        self.mask_weights = nn.ModuleList(Mlp(dim, dim, config.mask_channels + 1) for _ in range(num_masks))
        self.prompt_prior = nn.Parameter(torch.tensor(PROMPT_PRIOR))
        if self.has_evidence:
            self.evidence_prior = nn.Parameter(torch.zeros(2 * NUM_SIDES))
        self.iou_head = Mlp(2 * dim + NUM_QUALITY_FEATURES, dim, 1)
        self.presence_head = Mlp(dim, dim, 1)
        self.passes = {"cells": _cells, "voxels": _voxels, "spread": spread}
        """What reads and writes whole maps; training may compile it."""

    def forward(
        self,
        *,
        image_embedding: ImageEmbedding,
        image_position_codes: Tensor,
        prompts: EncodedPrompts,
        multimask: bool,
    ) -> DecoderOutput:
        """Decodes masks.

        Args:
            image_embedding: B tiles.
            image_position_codes: (B, N, C) codes of their tokens.
            prompts: P objects on each tile.
            multimask: also return the alternatives (M = 1 + candidates); else only the one mask (M = 1).

        Returns:
            Logits at the tile's resolution with quality and presence. Cost linear in B * P * voxels.
        """
        batch, num_objects = prompts.dense_prompts.shape[:2]
        evidence = None
        if self.has_evidence:
            evidence = gather_evidence(image_embedding.image, prompts.dense_prompts, self.passes["spread"])
        dense = rearrange(prompts.dense_prompts, "b p k d h w -> (b p) k d h w")
        dense = dense.to(compute_dtype(image_embedding.tokens))
        likeness = None
        if self.point_features is not None:
            of_points, likeness = self.point_features(image_embedding, prompts.points, prompts.labels)
            points, others = prompts.sparse_prompts.tensor_split([of_points.shape[2]], dim=2)
            prompts = replace(prompts, sparse_prompts=torch.cat([points + of_points, others], dim=2))
        pyramid = self._prompted_pyramid(image_embedding, dense, evidence, likeness)
        tokens, image = self._attend(image_embedding, image_position_codes, prompts, pyramid[3])
        features = self._draw(pyramid, image)  # (B P, C, D/2, H/2, W/2)
        num_masks = 1 + self.num_candidates if multimask else 1
        weights = torch.stack([self.mask_weights[m](tokens[:, m]) for m in range(num_masks)], dim=1)
        logits = self._combine(features, weights)  # (B P, 8 M, D/2, H/2, W/2)
        of_evidence = None if evidence is None else (*evidence, self.evidence_prior)
        mask_logits = self.passes["voxels"](logits, dense, self.prompt_prior, of_evidence)  # (B P, M, D, H, W)
        if self.walks_from_clicks and num_masks == 1:
            doubt = (-self._quality(tokens, mask_logits, num_masks).float()).sigmoid()  # 1 - IoU
            mask_logits = mask_logits + self._votes(mask_logits, image_embedding.image, prompts, doubt)
        if self.follows_edges:
            of_tiles = rearrange(mask_logits, "(b p) m d h w -> b (p m) d h w", b=batch)
            followed = follow_edges(of_tiles, image_embedding.image).to(mask_logits.dtype)
            mask_logits = rearrange(followed, "b (p m) d h w -> (b p) m d h w", m=num_masks)
        iou_logits = self._quality(tokens, mask_logits, num_masks)
        presence_logits = self.presence_head(tokens[:, 2 + self.num_candidates])[..., 0]
        unfold = {"b": batch, "p": num_objects}
        return DecoderOutput(
            rearrange(mask_logits, "(b p) m d h w -> b p m d h w", **unfold),
            rearrange(iou_logits, "(b p) m -> b p m", **unfold),
            rearrange(presence_logits, "(b p) -> b p", **unfold),
        )

    @staticmethod
    def _votes(mask_logits: Tensor, image: Tensor, prompts: EncodedPrompts, doubt: Tensor) -> Tensor:
        """What random walkers add to masks (B P, 1, D, H, W), doubted (B P, 1), of objects with two clicks or more."""
        is_clicked = prompts.num_points >= 2
        votes = torch.zeros_like(mask_logits)
        rows = is_clicked.any(dim=1).nonzero()[:, 0]
        if len(rows):
            of_tiles = rearrange(mask_logits[:, 0], "(b p) d h w -> b p d h w", b=len(image))[rows]
            of_objects = rearrange(doubt[:, 0], "(b p) -> b p", b=len(image))[rows]
            found = vote(of_tiles, image[rows], prompts.dense_prompts[rows, :, :NUM_SIDES], of_objects)
            found = found * is_clicked[rows][..., None, None, None]
            votes.view(len(image), -1, *votes.shape[2:])[rows] = found.to(votes.dtype)
        return votes

    def init_output(self) -> None:
        """Starts from masks that are empty but for what the prompts mark, and alike in the eight voxels of a cell.

        Source: Aitken et al., Checkerboard artifact free sub-pixel convolution, 2017.
        """
        if self.prompt_context is not None:
            nn.init.zeros_(self.prompt_context.weight)
        if self.point_features is not None:
            self.point_features.init_output()
        for weights in self.mask_weights:
            assert isinstance(weights, Mlp)
            nn.init.constant_(weights.fc2.bias[-1:], -2.0)
        with torch.no_grad():
            for tensor in (self.mask_features.weight, self.mask_features.bias):
                cells = tensor.view(8, -1)
                cells.copy_(cells[:1].expand_as(cells))

    def _prompted_pyramid(
        self,
        embedding: ImageEmbedding,
        maps: Tensor,
        evidence: tuple[Tensor, Tensor] | None,
        likeness: Tensor | None,
    ) -> list[Tensor]:
        """Image and prompt maps (B P, K, D, H, W) together at strides 2, 4, 8 and 16; each (B P, C, ...)."""
        num_objects = len(maps) // len(embedding.image)
        cells = self.passes["cells"](maps, embedding.image, evidence, likeness)
        skips = [
            proj(skip).repeat_interleave(num_objects, dim=0)
            for proj, skip in zip(self.skip_projs, embedding.skips, strict=True)
        ]
        x = self.prompt_stem(cells) + skips[0]
        levels = [x]
        for down, block, skip in zip(self.downs, self.down_blocks, skips[1:], strict=False):
            x = block(down(x) + skip)
            levels.append(x)
        tokens = embedding.tokens.repeat_interleave(num_objects, dim=0)
        levels.append(self.downs[2](x) + tokens)
        return levels

    def _attend(
        self, embedding: ImageEmbedding, position_codes: Tensor, prompts: EncodedPrompts, image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Two-way attention; returns tokens (B P, T, C) and the image at stride 16 (B P, C, d, h, w)."""
        num_objects = prompts.dense_prompts.shape[1]
        batch = image.shape[0]
        grid = image.shape[2:]
        sparse = rearrange(prompts.sparse_prompts, "b p n c -> (b p) n c").to(image.dtype)
        sparse_present = rearrange(prompts.sparse_is_present, "b p n -> (b p) n")
        outputs = repeat(self.output_tokens.weight.to(image.dtype), "t c -> n t c", n=batch)
        if self.prompt_context is not None:
            weight = sparse_present[..., None].to(sparse.dtype)
            mean = (sparse * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
            of_outputs, of_image = self.prompt_context(mean).chunk(2, dim=-1)
            outputs = outputs + of_outputs[:, None]
            image = image + of_image[..., None, None, None]
        initial = torch.cat([outputs, sparse], dim=1)
        present = torch.cat([sparse_present.new_ones(batch, outputs.shape[1]), sparse_present], dim=1)
        codes = position_codes.to(image.dtype).repeat_interleave(num_objects, dim=0)
        flat = rearrange(image, "n c d h w -> n (d h w) c")
        tokens = initial
        for block in self.blocks:
            tokens, flat = block(tokens, flat, initial, codes, present)
        tokens = self.final_norm(tokens + self.final_attention(tokens + initial, flat + codes, flat))
        return tokens, rearrange(flat, "n (d h w) c -> n c d h w", d=grid[0], h=grid[1])

    def _draw(self, pyramid: list[Tensor], image: Tensor) -> Tensor:
        """Upsamples from stride 16 to 2 with the pyramid's features; the last convolution is sub-pixel."""
        x = to_channels_last(image)
        for level in (2, 1, 0):
            x = self.up_blocks[level](self.ups[level](x) + pyramid[level])
        return self.out_norm(x)

    def _combine(self, features: Tensor, weights: Tensor) -> Tensor:
        """Logits of each voxel of a 2x2x2 cell: its ``mask_channels`` features times a mask's weights.

        Both are linear, so they are multiplied first and no feature is made at full resolution.

        Args:
            features: (B P, C, D/2, H/2, W/2).
            weights: (B P, M, mask_channels + 1), the last a bias.

        Returns:
            (B P, 8 M, D/2, H/2, W/2), masks innermost.
        """
        num_masks = weights.shape[1]
        kernel = rearrange(self.mask_features.weight.to(weights.dtype), "(s f) c -> s f c", f=self.mask_channels)
        bias = rearrange(self.mask_features.bias.to(weights.dtype), "(s f) -> s f", f=self.mask_channels)
        joint = torch.einsum("nmf,sfc->ncsm", weights[..., :-1], kernel)
        joint_bias = torch.einsum("nmf,sf->nsm", weights[..., :-1], bias) + weights[:, None, :, -1]
        d, h, w = features.shape[2:]
        flat = rearrange(features, "n c d h w -> n (d h w) c")
        cells = torch.baddbmm(joint_bias.flatten(1)[:, None], flat, joint.flatten(2))  # (B P, N, 8 M)
        return rearrange(cells, "n (d h w) c -> n c d h w", d=d, h=h, c=8 * num_masks)

    def _quality(self, tokens: Tensor, mask_logits: Tensor, num_masks: int) -> Tensor:
        """IoU logits (B P, M) from the tokens and from how decided each mask is."""
        coarse = mask_logits.detach().float()[:, :, ::2, ::2, ::2]
        probability = coarse.sigmoid()
        inside = (coarse > 0).float()
        dims = (2, 3, 4)
        size, total = inside.sum(dims), probability.sum(dims)
        overlap = (probability * inside).sum(dims)
        faces = [inside.select(axis, end).sum((2, 3)) for axis in dims for end in (0, -1)]
        border = torch.stack(faces).sum(dim=0)  # not by (0, -1) as an index, which would make a GPU wait
        voxels = inside[0, 0].numel()
        features = [
            overlap / (size + 1),
            (2 * overlap + 1) / (size + total + 1),
            torch.log((size + 1) / voxels) / 10,
            border / (size + 1),
        ]
        quality_token = repeat(tokens[:, 1 + self.num_candidates], "n c -> n m c", m=num_masks)
        stacked = torch.cat(
            [tokens[:, :num_masks], quality_token, torch.stack(features, dim=-1).to(tokens.dtype)], dim=-1
        )
        return self.iou_head(stacked)[..., 0]


def _cells(maps: Tensor, image: Tensor, evidence: tuple[Tensor, Tensor] | None, likeness: Tensor | None) -> Tensor:
    """What is known of cells of 2x2x2 voxels: (B P, C, D/2, H/2, W/2).

    Args:
        maps: (B P, K, D, H, W) of prompts.
        image: (B, 1, D, H, W).
        evidence: (B P, S, D, H, W) of voxels, and (B P, S, D/2, H/2, W/2) of cells.
        likeness: (B P, L, D/2, H/2, W/2) to what was clicked.
    """
    image = image.to(maps.dtype).repeat_interleave(len(maps) // len(image), dim=0)
    of_voxels = [maps, image] if evidence is None else [maps, image, evidence[0].to(maps.dtype)]
    of_cells = [part for part in (None if evidence is None else evidence[1], likeness) if part is not None]
    cells = space_to_depth(torch.cat(of_voxels, dim=1))
    if not of_cells:
        return cells
    parts = [part.to(cells.dtype).permute(0, 2, 3, 4, 1) for part in (cells, *of_cells)]
    return torch.cat(parts, dim=-1).permute(0, 4, 1, 2, 3)  # channels innermost, as they are read


def _voxels(logits: Tensor, dense: Tensor, prior: Tensor, evidence: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
    """Logits of voxels (B P, M, D, H, W): of their cells (B P, 8 M, D/2, H/2, W/2), plus maps times a weight each.

    Args:
        logits: of the cells.
        dense: (B P, K, D, H, W) prompt maps.
        prior: (K,) their weights.
        evidence: (B P, S, D, H, W) of voxels, (B P, S, D/2, H/2, W/2) of cells, and the weights of both (2 S,).
    """
    added = _weighted(dense, prior, logits.dtype)
    if evidence is not None:
        of_alike, of_joined = evidence[2].chunk(2)
        added = added + _weighted(evidence[0], of_alike, logits.dtype)
        logits = logits + _weighted(evidence[1], of_joined, logits.dtype)
    return depth_to_space(logits) + added


def _weighted(maps: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of maps (N, K, D, H, W) times a weight (K,) each: (N, 1, D, H, W)."""
    return (maps.to(dtype) * weights.to(dtype)[:, None, None, None]).sum(dim=1, keepdim=True)
