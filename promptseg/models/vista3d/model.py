"""VISTA3D behind promptseg's model interface: what depends on the image alone is computed once for each tile."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...safe_loading import load_into, read_tensors
from ..foreign_weights import ForeignModel
from ..image_encoder import ImageEmbedding
from ..mask_decoder import DecoderOutput
from ..prompt_encoder import ABSENT, PromptBatch
from ..sam_med3d.model import ABSENT_LOGIT, PRESENT_LOGIT, expected_iou
from .config import Vista3DConfig
from .labels import SPECIAL_CLASSES

logger = logging.getLogger(__name__)

SPECIAL_OFFSET = 2
"""Added to the labels of clicks on a special class: 2 excludes, 3 includes."""


def build_network(config: Vista3DConfig) -> nn.Module:
    """MONAI's network with random weights, keys as published."""
    from monai.networks.nets.segresnet_ds import SegResNetDS2
    from monai.networks.nets.vista3d import VISTA3D, ClassMappingClassify, PointMappingSAM

    size = config.feature_size
    encoder = SegResNetDS2(
        in_channels=1, blocks_down=config.blocks_down, norm="instance", out_channels=size, init_filters=size, dsdepth=1
    )
    point_head = PointMappingSAM(feature_size=size, n_classes=config.num_classes, last_supported=config.last_supported)
    class_head = ClassMappingClassify(n_classes=config.num_classes, feature_size=size, use_mlp=True)
    return VISTA3D(image_encoder=encoder, class_head=class_head, point_head=point_head)


class Vista3DModel(ForeignModel):
    """VISTA3D, to be used like :class:`~promptseg.models.PromptableModel`.

    The published network runs its encoder again for each prompt. Here both of its heads are parted where the prompt
    comes in: the point head after its downsampling, so that a tile is kept as ``feature_size`` channels at stride 2,
    and the class head before the product with a class's embedding. Both give what the whole network gives.

    Clicks in a tile are answered together, as in training. Beside a previous mask (of a class, or of earlier clicks)
    they change only those connected parts that they lie in, by MONAI's own rule; what was not drawn yet counts as
    background there, where the published code gives NaN.

    Args:
        config: sizes; the defaults are the published ones.

    Source: He et al., VISTA3D: A Unified Segmentation Foundation Model For 3D Medical Imaging, 2024;
        ``monai.networks.nets.vista3d``.
    """

    config_class = Vista3DConfig
    conversion = "vista3d CKPT.pt -o DIR"

    def __init__(self, config: Vista3DConfig | None = None, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config or Vista3DConfig()
        self.network: Any = build_network(self.config) if network is None else network
        self.point_features: nn.Module = self.network.point_head.feat_downsample
        self.class_features: nn.Module = self.network.class_head.image_post_mapping
        self.network.point_head.feat_downsample = nn.Identity()
        self.network.class_head.image_post_mapping = nn.Identity()

    @classmethod
    def from_published(cls, checkpoint: str | Path, config: Vista3DConfig | None = None) -> Vista3DModel:
        """Loads the bundle's ``model.pt``, read as data.

        Raises:
            ValueError: if it is damaged, carries more than data, or is of another architecture; differences by key.
        """
        config = config or Vista3DConfig()
        tensors = read_tensors(checkpoint, allow_pickle=True)
        network = build_network(config)
        load_into(network, tensors, str(checkpoint))
        return cls(config, network).eval()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.network.point_head.mask_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.point_head.mask_tokens.weight.device

    def encode_image(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """Encodes tiles for clicks, one after the other to bound the memory.

        Args:
            image: (B, 1, T, T, T) intensities from 0 to 1.
            spacing_mm: (B, 3); the network does not see it, and other than about 1.5 mm is outside its training.

        Returns:
            The embedding: ``tokens`` (B, C, T/2, T/2, T/2), no skip features.
        """
        self._warn_of_spacing(spacing_mm)
        features = [
            self.point_features(self.network.image_encoder(tile.to(self.dtype), with_point=True, with_label=False)[0])
            for tile in image.split(1)
        ]
        return self._embedding(torch.cat(features), image, spacing_mm)

    def encode_classes(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """Encodes tiles for class names: as :meth:`encode_image`, with ``tokens`` (B, C, T, T, T)."""
        self._warn_of_spacing(spacing_mm)
        features = [
            self.class_features(self.network.image_encoder(tile.to(self.dtype), with_point=False, with_label=True)[1])
            for tile in image.split(1)
        ]
        return self._embedding(torch.cat(features), image, spacing_mm)

    def _warn_of_spacing(self, spacing_mm: Tensor) -> None:
        ratio = spacing_mm.float() / self.config.spacing_mm
        if bool(((ratio < 0.8) | (ratio > 1.25)).any()):
            logger.warning(
                "VISTA3D was trained at %.1f mm isotropic, this tile is %s mm: resample it, or expect a worse mask",
                self.config.spacing_mm,
                [[round(v, 2) for v in row] for row in spacing_mm.tolist()],
            )

    @staticmethod
    def _embedding(features: Tensor, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        none = features.new_zeros(len(features), 0, 1, 1, 1)
        return ImageEmbedding(features, (none, none, none), image.to(features.dtype), spacing_mm.float())

    def decode_classes(self, embedding: ImageEmbedding, classes: list[int]) -> Tensor:
        """Logits of classes on encoded tiles: (B, len(classes), T, T, T).

        Args:
            embedding: of :meth:`encode_classes`.
            classes: their indices.
        """
        rows = torch.tensor(classes, device=self.device)[:, None]
        masks = [self.network.class_head(features, rows)[0][:, 0] for features in embedding.tokens.split(1)]
        return torch.stack(masks).float()

    def decode_points(
        self, features: Tensor, points: Tensor, labels: Tensor, prompt_class: int | None = None
    ) -> Tensor:
        """Logits (T, T, T) of one object's clicks on one tile.

        Args:
            features: (1, C, T/2, T/2, T/2), ``tokens`` of :meth:`encode_image`.
            points: (N, 3) voxels of the tile.
            labels: (N,) 1 include, 0 exclude.
            prompt_class: index of the object's class; None where it has no name.
        """
        if prompt_class in SPECIAL_CLASSES:
            labels = labels + SPECIAL_OFFSET
        rows = None if prompt_class is None else torch.tensor([prompt_class], device=features.device)
        halved = (points.float() + 0.5) / 2 - 0.5  # the head adds a half and divides by the side of its features
        return self.network.point_head(features, halved[None], labels[None], class_vector=rows)[0, 0].float()

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask: bool = False) -> DecoderOutput:
        """Decodes P objects on each of B tiles.

        Clicks outside a tile do not count there. An object without any is drawn from its previous mask as it is, or is
        not there.

        Args:
            embedding: of :meth:`encode_image`, B tiles.
            prompts: points, and previous masks; scribbles count by the points sampled on them. ``text`` (B, P, 1, 1)
                holds the index of an object's class, if it has one.
            multimask: accepted for the common interface; there is one mask either way, M = 1.

        Returns:
            Logits (B, P, 1, T, T, T), quality (B, P, 1) as the mask's own probabilities make it expected, and presence
            (B, P), which is always high.

        Raises:
            ValueError: for boxes, which these weights do not know.
        """
        boxes, present = prompts.boxes, prompts.boxes_are_present
        if boxes is not None and boxes.shape[2] and (present is None or bool(present.any())):
            raise ValueError(
                "prompt of kind 'boxes': VISTA3D's weights know points, a previous mask and class names only; "
                "click into the object, or use a promptseg model"
            )
        batch, num_objects = prompts.labels.shape[:2]
        masks = [
            torch.stack([self._decode_object(embedding[b].tokens, prompts, b, p) for p in range(num_objects)])
            for b in range(batch)
        ]
        logits = torch.stack(masks)[:, :, None]  # (B, P, 1, T, T, T)
        quality = torch.stack([expected_iou(rows) for rows in logits])
        presence = torch.full((batch, num_objects), PRESENT_LOGIT, device=logits.device)
        return DecoderOutput(logits, quality.logit(eps=1e-4), presence)

    def _decode_object(self, features: Tensor, prompts: PromptBatch, tile: int, number: int) -> Tensor:
        side = self.config.tile_size
        points, labels = prompts.points[tile, number].float(), prompts.labels[tile, number]
        inside = (labels != ABSENT) & ((points >= -0.5) & (points <= side - 0.5)).all(dim=-1)
        points, labels = points[inside], labels[inside]
        before = None
        is_there = prompts.masks_are_present is None or bool(prompts.masks_are_present[tile, number])
        if prompts.mask_logits is not None and is_there:
            before = prompts.mask_logits[tile, number].float()
            before = torch.where(before == 0, torch.full_like(before, ABSENT_LOGIT), before)  # 0: not drawn yet
        if not len(points):
            return torch.full((side,) * 3, ABSENT_LOGIT, device=features.device) if before is None else before
        prompt_class = None if prompts.text is None else int(prompts.text[tile, number, 0, 0])
        drawn = self.decode_points(features, points, labels, prompt_class)
        return drawn if before is None else self._combine(before, drawn, points, labels)

    def _combine(self, before: Tensor, drawn: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """A previous mask, changed by clicks in the connected parts that they lie in."""
        try:
            import skimage.measure  # noqa: F401  # MONAI's rule is built on it
        except ImportError as error:
            raise ImportError("corrections with VISTA3D need scikit-image: pip install 'promptseg[vista3d]'") from error
        corner = points.round().clamp(0, self.config.tile_size - 1)
        combined = self.network.connected_components_combine(
            before[None, None].clone(), drawn[None, None].clone(), corner[None], labels[None], torch.tensor([True])
        )
        return combined[0, 0]

    def forward(
        self, image: Tensor, spacing_mm: Tensor, prompts: PromptBatch, multimask: bool = False
    ) -> DecoderOutput:
        """Encodes and decodes in one call."""
        return self.decode(self.encode_image(image, spacing_mm), prompts, multimask)
