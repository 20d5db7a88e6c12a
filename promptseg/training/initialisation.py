"""First weights of a run: another checkpoint's, a masked autoencoder's encoder, or an inflated 2D transformer."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.atlas import AtlasConfig
from ..models.config import TextTerm
from ..models.image_encoder import ImageEncoder
from ..models.inflate import PLAIN_MODELS, inflate_sam, inflate_transformer
from ..models.registry import CONFIG_NAME, WEIGHTS_NAME, resolve
from ..safe_loading import load_into, read_tensors

logger = logging.getLogger(__name__)
TIMM_PREFIX, SAM_PREFIX = "timm:", "sam2d:"
ENCODER_PREFIX, WORD_HEAD_PREFIX, ATLAS_PREFIX = "image_encoder.", "word_head.", "atlases."
POINT_FEATURES_PREFIX, PROMPT_STEM = "mask_decoder.point_features.", "mask_decoder.prompt_stem.weight"


def initialise(model: nn.Module, init_from: str, stage: str) -> None:
    """Gives a model its first weights. Parts that earlier ones lack start anew: of a word head, and features of points,
    which change no answer until they are trained.

    Args:
        model: a promptable model, or a masked autoencoder; changed in place.
        init_from: see :class:`~promptseg.training.config.PretrainConfig`.
        stage: ``prompted``, ``words`` or ``mae``.

    Raises:
        ValueError: for an unknown name, or weights of other sizes.
    """
    if not init_from:
        return
    encoder = model.get_submodule("image_encoder")
    assert isinstance(encoder, ImageEncoder)
    if init_from.startswith(TIMM_PREFIX):
        taken = inflate_transformer(encoder, _timm_model(init_from))
        logger.info("%s: inflated %s", init_from, taken)
        return
    if init_from.startswith(SAM_PREFIX):
        taken = inflate_sam(encoder, read_tensors(init_from[len(SAM_PREFIX) :], allow_pickle=True))
        logger.info("%s: inflated %s", init_from, taken)
        return
    folder = resolve(init_from)
    tensors = read_tensors(folder / WEIGHTS_NAME)
    written_by = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("stage", "prompted")
    if (written_by == "mae") == (stage == "mae"):
        prefixes = (WORD_HEAD_PREFIX, POINT_FEATURES_PREFIX)
        new = {k: v for k, v in model.state_dict().items() if k.startswith(prefixes) and k not in tensors}
        if any(k.startswith(POINT_FEATURES_PREFIX) for k in new):  # weights of 0 read them
            stem = torch.zeros_like(model.get_parameter(PROMPT_STEM))
            stem[:, : tensors[PROMPT_STEM].shape[1]] = tensors[PROMPT_STEM]
            tensors = {**tensors, PROMPT_STEM: stem}
        if new:
            parts = sorted({k.removesuffix(".weight").removesuffix(".bias") for k in new})
            logger.info("%s has no %s: they start anew", folder, ", ".join(parts))
        kept = {k: v for k, v in tensors.items() if not k.startswith(ATLAS_PREFIX)}  # of label maps, and not trained
        load_into(model, {**kept, **new}, str(folder))
    else:
        encoders = {k[len(ENCODER_PREFIX) :]: v for k, v in tensors.items() if k.startswith(ENCODER_PREFIX)}
        load_into(encoder, encoders, f"{folder} (image encoder)")
    logger.info("started from %s (%s)", folder, written_by)


def _timm_model(init_from: str) -> nn.Module:
    """A pretrained model of timm.

    Raises:
        ValueError: for an unknown name, or weights that can be neither found on this machine nor fetched.
    """
    import timm

    try:
        return timm.create_model(init_from[len(TIMM_PREFIX) :], pretrained=True)
    except RuntimeError as error:
        raise ValueError(
            f"init_from={init_from!r}: timm has no such pretrained model ({error}); expected one such as "
            f"{TIMM_PREFIX}{PLAIN_MODELS[0]}"
        ) from error
    except Exception as error:  # the client's, httpx's and the file system's
        raise ValueError(
            f"init_from={init_from!r}: the weights are not on this machine and could not be fetched "
            f"({type(error).__name__}: {error}); connect to huggingface.co once, or start the same run on a machine "
            "that is connected, copy its folder ~/.cache/huggingface to this one, and point HF_HOME to the copy"
        ) from error


@dataclass(frozen=True)
class Inheritance:
    """What weights hold that a run which starts from them does not train, and hands on to those it writes.

    Attributes:
        terms: that they were trained to find by name.
        atlases: of label maps.
        tensors: of the atlases, by their names in the weights.
    """

    terms: tuple[TextTerm, ...] = ()
    atlases: tuple[AtlasConfig, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)


def inherit(init_from: str, exported: Path | None = None) -> Inheritance:
    """What the weights that a run starts from hand on.

    Args:
        init_from: see :class:`~promptseg.training.config.PretrainConfig`.
        exported: folder of the weights that a run to be resumed has written, which hold what was handed on, and more
            terms. They are preferred: what the run started from may be gone by then. None for a new run.

    Raises:
        ValueError: if there are weights to start from and neither they nor the exported ones are found.
    """
    if not init_from or init_from.startswith((TIMM_PREFIX, SAM_PREFIX)):
        return Inheritance()
    # A run that was killed in its first save has exported nothing.
    folder = exported if exported and (exported / CONFIG_NAME).is_file() else resolve(init_from)
    content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    model = content.get("model", content)
    atlases = tuple(AtlasConfig(**atlas) for atlas in model.get("atlases", ()))
    tensors = read_tensors(folder / WEIGHTS_NAME) if atlases else {}
    return Inheritance(
        tuple(TextTerm(**term) for term in model.get("text_terms", ())),
        atlases,
        {k: v for k, v in tensors.items() if k.startswith(ATLAS_PREFIX)},
    )
