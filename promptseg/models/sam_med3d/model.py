"""SAM-Med3D behind promptseg's model interface: encode a tile once, then decode clicks on it."""

from __future__ import annotations

import logging
from typing import cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..foreign_weights import ForeignModel
from ..image_encoder import ImageEmbedding
from ..mask_decoder import DecoderOutput
from ..prompt_encoder import ABSENT, PromptBatch
from .config import SamMed3DConfig
from .image_encoder import RelativeAttention, SamMed3DImageEncoder
from .mask_decoder import SamMed3DMaskDecoder
from .prompt_encoder import SamMed3DPromptEncoder

logger = logging.getLogger(__name__)

HOUNSFIELD_RANGE = (-1000.0, 1000.0)
CT_MINIMUM = -500.0
ABSENT_LOGIT = -10.0
PRESENT_LOGIT = 10.0


def normalise_tile(tile: Tensor) -> Tensor:
    """Normalises raw intensities as SAM-Med3D's training did: z-scores over the tile's voxels above zero.

    A tile that reaches below -500 is taken for CT and clamped to [-1000, 1000] first. Where no two different values are
    above zero (a CT tile of air and fat), all voxels are measured, and a constant tile becomes zeros: the published
    code returns NaN or fails there.

    Source: SAM-Med3D, ``utils/data_loader.py`` and ``train.py`` (torchio's ZNormalization; deviation with n - 1).

    Args:
        tile: (B, 1, D, H, W) raw intensities; padding beyond the image is 0.

    Returns:
        The same shape, float32.

    Example:
        >>> tile = torch.tensor([0.0, 1.0, 3.0, 0.0]).reshape(1, 1, 1, 1, 4)
        >>> [round(v, 3) for v in normalise_tile(tile).flatten().tolist()]
        [-1.414, -0.707, 0.707, -1.414]
    """
    normalised = []
    for image in tile.float():
        if float(image.min()) < CT_MINIMUM:
            image = image.clamp(*HOUNSFIELD_RANGE)
        measured = image[image > 0]
        if measured.numel() < 2 or float(measured.std()) == 0:
            measured = image.flatten()
        std = measured.std()
        normalised.append((image - measured.mean()) / std if float(std) > 0 else torch.zeros_like(image))
    return torch.stack(normalised)


class SamMed3DModel(ForeignModel):
    """SAM-Med3D's published network, to be used like :class:`~promptseg.models.PromptableModel`.

    Kept because the weights depend on it: attention over the zero-padded window of 14^3 tokens (computed in a folded,
    exactly equal form), position codes of the image tokens with two axes exchanged, a zero mask (not "no mask") at the
    first click, and only the newest click at each later one, beside the previous low-resolution logits. So
    :meth:`decode` replays an object's clicks in order unless it is given the previous mask.

    Not taken from it: the quality head and the three candidate masks, which its training never touched. Scores are the
    IoU that the mask's own probabilities make expected.

    Args:
        config: sizes; the defaults are the published ones.

    Source: Wang et al., SAM-Med3D: Towards General-purpose Segmentation Models for Volumetric Medical Images, 2023;
        github.com/uni-medical/SAM-Med3D.
    """

    config_class = SamMed3DConfig
    conversion = "sam-med3d CKPT.pth -o DIR"

    def __init__(self, config: SamMed3DConfig | None = None) -> None:
        super().__init__()
        self.config = config or SamMed3DConfig()
        self.image_encoder = SamMed3DImageEncoder(self.config)
        self.prompt_encoder = SamMed3DPromptEncoder(self.config)
        self.mask_decoder = SamMed3DMaskDecoder(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.image_encoder.pos_embed.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.image_encoder.pos_embed.device

    def fold_padding(self, enabled: bool) -> None:
        """Chooses between folded padding keys (the default) and computing them as published: equal, 9 times slower."""
        for module in self.modules():
            if isinstance(module, RelativeAttention):
                module.fold_padding = enabled

    def encode_image(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """Encodes tiles normalised by :func:`normalise_tile`.

        Args:
            image: (B, 1, T, T, T) with T = ``config.tile_size``.
            spacing_mm: (B, 3); the network does not see it, and other than about 1.5 mm is outside its training.

        Returns:
            The embedding: tokens and no skip features.

        Raises:
            ValueError: for another shape.
        """
        ratio = spacing_mm.float() / self.config.spacing_mm
        if bool(((ratio < 0.8) | (ratio > 1.25)).any()):
            logger.warning(
                "SAM-Med3D was trained at %.1f mm isotropic, this tile is %s mm: resample it, or expect a worse mask",
                self.config.spacing_mm,
                [[round(v, 2) for v in row] for row in spacing_mm.tolist()],
            )
        tokens = self.image_encoder(image)
        none = tokens.new_zeros(len(tokens), 0, 1, 1, 1)
        return ImageEmbedding(tokens, (none, none, none), image.to(tokens.dtype), spacing_mm.float())

    def encode_prompts(
        self, points: Tensor | None, labels: Tensor | None, mask_logits_lowres: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encodes one object's prompts on each of B tiles, as published.

        Args:
            points: (B, N, 3) voxel coordinates in the tile; or None for the mask alone.
            labels: (B, N) int: 1 include, 0 exclude, -1 absent.
            mask_logits_lowres: (B, 1, T/4, T/4, T/4); or None.

        Returns:
            Sparse (B, N + 1, C) or (B, 0, C), and dense (B, C, T/16, T/16, T/16).
        """
        if points is None or labels is None:
            batch = 1 if mask_logits_lowres is None else len(mask_logits_lowres)
            sparse = torch.zeros(batch, 0, self.config.prompt_dim, dtype=self.dtype, device=self.device)
        else:
            sparse = self.prompt_encoder.embed_points(points, labels)
        return sparse, self.prompt_encoder.embed_mask(mask_logits_lowres, len(sparse))

    def decode_lowres(
        self,
        image_embedding: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        mask_logits_lowres: Tensor | None = None,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One pass of the published decoder, one object on each of B tiles.

        Args:
            image_embedding: (B, C, T/16, T/16, T/16).
            points: as for :meth:`encode_prompts`.
            labels: as for :meth:`encode_prompts`.
            mask_logits_lowres: as for :meth:`encode_prompts`.
            multimask: the three candidates instead of the one mask.

        Returns:
            Logits (B, M, T/4, T/4, T/4) and the (untrained) quality head's outputs (B, M).
        """
        sparse, dense = self.encode_prompts(points, labels, mask_logits_lowres)
        return self.mask_decoder(
            image_embedding=image_embedding,
            image_position_code=self.prompt_encoder.dense_position_code(),
            sparse_prompts=sparse.to(image_embedding.dtype),
            dense_prompts=dense.to(image_embedding.dtype),
            multimask=multimask,
        )

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask: bool = False) -> DecoderOutput:
        """Decodes P objects on each of B tiles.

        Without a previous mask, an object's clicks are replayed in their order, each pass seeing one click and the
        logits of the pass before. With one, only the last click that lies in the tile is new. Clicks outside the tile
        do not count; an object without any is drawn from its previous mask alone, as in training, or is not there.

        Args:
            embedding: of B tiles.
            prompts: points in the order they were made, and previous masks; scribbles count by the points sampled on
                them.
            multimask: accepted for the common interface; there is one mask either way, M = 1.

        Returns:
            Logits (B, P, 1, T, T, T), quality (B, P, 1), presence (B, P), which is always high. Cost: one decoder pass
            for each click to replay.

        Raises:
            ValueError: for boxes or text, which these weights do not know.
        """
        self._refuse_unknown(prompts)
        batch, num_objects = prompts.labels.shape[:2]
        tokens = embedding.tokens.repeat_interleave(num_objects, dim=0)
        points = rearrange(prompts.points, "b p n c -> (b p) n c").float()
        labels = rearrange(prompts.labels, "b p n -> (b p) n").clone()
        outside = ((points < -0.5) | (points > self.config.tile_size - 0.5)).any(dim=-1)
        labels[outside] = ABSENT
        lowres, has_mask = self._previous_lowres(prompts, len(tokens))
        labels = torch.where(has_mask[:, None], keep_last_present(labels), labels)
        has_click = (labels != ABSENT).any(dim=1)
        mask_alone = has_mask & ~has_click
        if bool(mask_alone.any()):
            lowres[mask_alone] = self.decode_lowres(tokens[mask_alone], None, None, lowres[mask_alone])[0].float()
        for n in range(labels.shape[1]):
            active = labels[:, n] != ABSENT
            if bool(active.any()):
                click = points[active, n : n + 1], labels[active, n : n + 1]
                lowres[active] = self.decode_lowres(tokens[active], *click, lowres[active])[0].float()
        lowres[~(has_click | has_mask)] = ABSENT_LOGIT
        logits = F.interpolate(lowres, size=embedding.grid_shape, mode="trilinear", align_corners=False)
        presence = torch.full((batch, num_objects), PRESENT_LOGIT, device=logits.device)
        return DecoderOutput(
            rearrange(logits, "(b p) m d h w -> b p m d h w", b=batch),
            rearrange(expected_iou(lowres).logit(eps=1e-4), "(b p) m -> b p m", b=batch),
            presence,
        )

    def forward(
        self, image: Tensor, spacing_mm: Tensor, prompts: PromptBatch, multimask: bool = False
    ) -> DecoderOutput:
        """Encodes and decodes in one call."""
        return self.decode(self.encode_image(image, spacing_mm), prompts, multimask)

    def _previous_lowres(self, prompts: PromptBatch, rows: int) -> tuple[Tensor, Tensor]:
        """Previous masks at the decoder's resolution (B P, 1, T/4, ...), zeros for none, and which are there (B P)."""
        side = self.config.lowres_size
        if prompts.mask_logits is None:
            zeros = torch.zeros(rows, 1, side, side, side, device=prompts.points.device)
            return zeros, torch.zeros(rows, dtype=torch.bool, device=zeros.device)
        full = rearrange(prompts.mask_logits.float(), "b p d h w -> (b p) 1 d h w")
        lowres = F.interpolate(full, size=(side, side, side), mode="trilinear", align_corners=False)
        if prompts.masks_are_present is None:
            present = torch.ones(rows, dtype=torch.bool, device=lowres.device)
        else:
            present = rearrange(prompts.masks_are_present, "b p -> (b p)")
        return lowres * present[:, None, None, None, None], present

    @staticmethod
    def _refuse_unknown(prompts: PromptBatch) -> None:
        for kind, values, present in (
            ("boxes", prompts.boxes, prompts.boxes_are_present),
            ("text", prompts.text, prompts.text_is_present),
        ):
            if values is not None and values.shape[2] and (present is None or bool(present.any())):
                raise ValueError(
                    f"prompt of kind {kind!r}: SAM-Med3D's weights know points and a previous mask only; "
                    "click into the object, or use a promptseg model"
                )


def keep_last_present(labels: Tensor) -> Tensor:
    """Labels (R, N) with all but each row's last present one set to absent."""
    present = labels != ABSENT
    later = present.flip(-1).cumsum(-1).flip(-1)
    return torch.where(present & (later == 1), labels, torch.full_like(labels, ABSENT))


def expected_iou(mask_logits: Tensor) -> Tensor:
    """IoU to expect of each mask (B, M, D, H, W) if its probabilities were calibrated: (B, M) in [0, 1]."""
    probability = mask_logits.float().sigmoid()
    inside = (mask_logits > 0).float()
    dims = (2, 3, 4)
    overlap = (probability * inside).sum(dims)
    union = inside.sum(dims) + probability.sum(dims) - overlap
    return cast(Tensor, overlap / union.clamp(min=1e-6))
