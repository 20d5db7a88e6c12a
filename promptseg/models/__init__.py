"""The promptable model and its parts."""

from .config import ModelConfig, TextTerm
from .image_encoder import ImageEmbedding, ImageEncoder
from .mask_decoder import DecoderOutput, MaskDecoder
from .prompt_encoder import EncodedPrompts, PromptBatch, PromptEncoder
from .promptable_model import PromptableModel

__all__ = [
    "DecoderOutput",
    "EncodedPrompts",
    "ImageEmbedding",
    "ImageEncoder",
    "MaskDecoder",
    "ModelConfig",
    "PromptBatch",
    "PromptEncoder",
    "PromptableModel",
    "TextTerm",
]
