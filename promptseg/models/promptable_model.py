"""The promptable model: image encoder, prompt encoder and mask decoder as one module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .atlas import Atlas
from .config import ModelConfig
from .image_encoder import ImageEmbedding, ImageEncoder
from .layers import init_weights
from .mask_decoder import DecoderOutput, MaskDecoder
from .position import PositionCode
from .prompt_encoder import EncodedPrompts, PromptBatch, PromptEncoder
from .word_head import WordHead, with_hint


class PromptableModel(nn.Module):
    """Segments what prompts point at, in tiles of preprocessed intensities.

    Args:
        config: sizes and preprocessing.

    Example:
        >>> import torch
        >>> from promptseg.models import ModelConfig, PromptableModel, PromptBatch
        >>> small = {"stem_channels": (8, 8, 8), "decoder_channels": (8, 8, 8), "embed_dim": 24, "depth": 1}
        >>> config = ModelConfig(**small, num_heads=2)
        >>> model = PromptableModel(config).eval()
        >>> embedding = model.encode_image(torch.zeros(1, 1, 32, 32, 32), torch.ones(1, 3))
        >>> click = PromptBatch(torch.full((1, 1, 1, 3), 16.0), torch.ones(1, 1, 1, dtype=torch.long))
        >>> tuple(model.decode(embedding, click, multimask=True).mask_logits.shape)
        (1, 1, 4, 32, 32, 32)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weights_digest: str | None = None  # sha256 of the file that the weights were loaded from
        position_code = PositionCode(config.embed_dim)
        self.image_encoder = ImageEncoder(config, position_code)
        self.prompt_encoder = PromptEncoder(config, position_code)
        self.mask_decoder = MaskDecoder(config)
        self.word_head = WordHead(config) if config.word_hints else None
        self.atlases = nn.ModuleList(Atlas(atlas) for atlas in config.atlases)
        self.apply(init_weights)
        self.mask_decoder.init_output()

    @classmethod
    def from_pretrained(cls, name: str | Path, **hub: Any) -> PromptableModel:
        """Loads a checkpoint that ships, a folder or a Hub id, in evaluation mode.

        Args:
            name: which.
            hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``, for Hub ids.

        Raises:
            ValueError: if it cannot be had, is damaged, or of another architecture.
        """
        from .pretrained import load_pretrained

        return load_pretrained(name, **hub)[0]

    def save_pretrained(self, folder: str | Path, **facts: Any) -> Path:
        """Writes ``config.json``, ``model.safetensors`` and a card. See :func:`~.pretrained.save_pretrained`."""
        from .pretrained import save_pretrained

        return save_pretrained(self, folder, **facts)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model as one commit, and returns it. See :func:`~.pretrained.push_to_hub`."""
        from .pretrained import push_to_hub

        return push_to_hub(self, repo_id, **options)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def encode_image(self, image: Tensor, spacing_mm: Tensor) -> ImageEmbedding:
        """Encodes tiles: image (B, 1, D, H, W) preprocessed, spacing_mm (B, 3). See :class:`ImageEncoder`."""
        return self.image_encoder(image, spacing_mm)

    def encode_prompts(
        self, prompts: PromptBatch, grid_shape: tuple[int, int, int], spacing_mm: Tensor
    ) -> EncodedPrompts:
        """Encodes prompts for tiles of ``grid_shape`` voxels. See :class:`PromptEncoder`."""
        return self.prompt_encoder(prompts, grid_shape, spacing_mm)

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask: bool = False) -> DecoderOutput:
        """Decodes masks for P prompts on each of B encoded tiles.

        Args:
            embedding: of B tiles.
            prompts: B tiles with P objects.
            multimask: also return the candidates of an ambiguous prompt (M = 1 + candidates), else M = 1.

        Returns:
            Logits (B, P, M, D, H, W), quality (B, P, M), presence (B, P).
        """
        encoded = self.encode_prompts(prompts, embedding.grid_shape, embedding.spacing_mm)
        if prompts.text is None:
            return self.decode_encoded(embedding, encoded, multimask)
        words, are_present = self.prompt_encoder.embed_text(prompts), prompts.text_is_present
        if are_present is None:
            are_present = torch.ones(words.shape[:3], dtype=torch.bool, device=words.device)
        return self.decode_encoded(embedding, encoded, multimask, words, are_present)

    def decode_encoded(
        self,
        embedding: ImageEmbedding,
        encoded: EncodedPrompts,
        multimask: bool = False,
        words: Tensor | None = None,
        words_are_present: Tensor | None = None,
    ) -> DecoderOutput:
        """Decodes masks for prompts that are encoded, see :meth:`decode`.

        Args:
            embedding: of B tiles.
            encoded: prompts of P objects on each, the tokens of words among them.
            multimask: also return candidates.
            words: (B, P, T, C) the tokens that name an object; None for none.
            words_are_present: (B, P, T) bool; needed with ``words``.
        """
        codes = self.image_encoder.token_position_codes(embedding.grid_shape, embedding.spacing_mm)
        given: dict[str, Any] = {"image_embedding": embedding, "image_position_codes": codes, "multimask": multimask}
        if self.word_head is None or words is None or words_are_present is None:
            return self.mask_decoder(prompts=encoded, **given)
        hint, are_named = self.word_head(embedding, words, words_are_present), words_are_present.any(dim=2)
        output = self.mask_decoder(prompts=with_hint(encoded, hint, are_named), **given)
        presence = torch.where(are_named, output.presence_logits + hint.presence_logits, output.presence_logits)
        return replace(output, presence_logits=presence)

    def forward(
        self, image: Tensor, spacing_mm: Tensor, prompts: PromptBatch, multimask: bool = False
    ) -> DecoderOutput:
        """Encodes and decodes in one call, as distributed training needs."""
        return self.decode(self.encode_image(image, spacing_mm), prompts, multimask)
