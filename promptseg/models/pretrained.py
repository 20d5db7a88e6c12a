"""Loading and saving of complete checkpoints: ``config.json`` beside ``model.safetensors``, and a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cards import CARD_NAME, CardFacts, list_terms, render_card
from ..safe_loading import load_into, read_tensors, replacing, save_tensors
from .config import ModelConfig
from .migrations import MODEL_MIGRATIONS
from .promptable_model import PromptableModel
from .registry import CONFIG_NAME, WEIGHTS_NAME, resolve, revision

CHECKSUM_KEY = "weights_sha256"
"""Entry of ``config.json`` with the checksum of the weights beside it."""


def load_pretrained(name: str | Path, **hub: Any) -> tuple[PromptableModel, str]:
    """Loads a checkpoint.

    Args:
        name: one that ships, a folder, or a Hub id.
        hub: of :func:`~.registry.resolve`: ``revision``, ``cache_dir``, ``token``, ``local_files_only``.

    Returns:
        The model in evaluation mode, and the digest of its files.

    Raises:
        ValueError: for an unknown name, a damaged or incomplete folder, or weights of another architecture.
    """
    folder = resolve(name, **hub)
    model = PromptableModel(read_config(folder))
    model.weights_digest = check_weights(folder)
    load_into(model, read_tensors(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME), MODEL_MIGRATIONS)
    return model.eval(), revision(folder)


def read_settings(folder: Path, name: str = CONFIG_NAME) -> dict[str, Any]:
    """All entries of a folder's ``config.json``.

    Raises:
        ValueError: if it is not readable, or not an object.
    """
    path = folder / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected an object of model fields, as save_pretrained writes it")
    return values


def read_config(folder: Path) -> ModelConfig:
    """Configuration of a checkpoint folder."""
    values = read_settings(folder)
    path = folder / CONFIG_NAME
    if not isinstance(values.get("model", values), dict):
        raise ValueError(f"{path}: expected an object of model fields, as save_pretrained writes it")
    return ModelConfig.from_dict(values.get("model", values), source=str(path))


FOREIGN_ARCHITECTURES = ("sam-med3d", "vista3d")
"""Architectures of other projects, whose weights ``promptseg convert`` brings into folders."""


def foreign_architecture(folder: Path) -> str | None:
    """Which of :data:`FOREIGN_ARCHITECTURES` a folder's weights are of; None for promptseg's own."""
    stated = read_settings(folder).get("architecture")
    return str(stated) if stated in FOREIGN_ARCHITECTURES else None


def foreign_predictor(folder: Path) -> Any:
    """The predictor class of a folder's foreign weights; None for promptseg's own."""
    architecture = foreign_architecture(folder)
    if architecture == "sam-med3d":
        from .sam_med3d.predictor import SamMed3DPredictor

        return SamMed3DPredictor
    if architecture == "vista3d":
        from .vista3d.predictor import Vista3DPredictor

        return Vista3DPredictor
    return None


def check_weights(folder: Path, config_name: str = CONFIG_NAME, weights_name: str = WEIGHTS_NAME) -> str:
    """Compares a folder's weights with the checksum in its configuration, where there is one.

    Returns:
        sha256 of the weights.

    Raises:
        ValueError: if they differ.
    """
    stated = read_settings(folder, config_name).get(CHECKSUM_KEY)
    found = sha256(folder / weights_name)
    if stated is not None and stated != found:
        raise ValueError(
            f"{folder / weights_name}: its checksum {found[:12]}... is not the one in {config_name}, "
            f"{str(stated)[:12]}...: the file is damaged or belongs to another configuration; fetch or save both again"
        )
    return found


def sha256(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def save_pretrained(
    model: PromptableModel,
    folder: str | Path,
    extra: dict[str, Any] | None = None,
    vocabulary: Sequence[str] = (),
    card: CardFacts | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a checkpoint folder that :func:`load_pretrained` reads.

    Args:
        model: to save.
        folder: made if missing.
        extra: further entries of ``config.json``, such as the training step.
        vocabulary: terms that the weights were trained to find by name.
        card: facts for the model card; None keeps a card that is there, or says that nothing was stated.
        dtype: of the stored weights; float16 halves the file.

    Returns:
        The folder.

    Raises:
        ValueError: for a model with adapters beside its layers, whose weights would not be loaded again.
        OSError: if it cannot be written; nothing half-written is left behind.
    """
    from ..adapters.deltas import AdaptedLinear

    if any(isinstance(module, AdaptedLinear) for module in model.modules()):
        raise ValueError(
            "adapters are on: take them off first, with set_adapter(None), or save what they make of the weights, with "
            "set_adapter(..., merge=True)"
        )
    values = {"model": model.config.to_dict(), **({"vocabulary": list(vocabulary)} if vocabulary else {})}
    facts_of_model = {
        "name": model.config.name,
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "tile_size": model.config.tile_size,
        "words": list_terms(model.config.text_terms),
    }
    return write_folder(
        Path(folder),
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()},
        {**values, **(extra or {})},
        card,
        lambda facts: render_card("model", facts, **facts_of_model),
    )


def write_folder(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    card: CardFacts | None,
    render: Callable[[CardFacts], str],
    config_name: str = CONFIG_NAME,
    weights_name: str = WEIGHTS_NAME,
) -> Path:
    """Writes tensors, their configuration with the tensors' checksum in it, and a card.

    Args:
        folder: made if missing.
        tensors: to write.
        settings: entries of the configuration.
        card: facts; None keeps a card that is there, or says that nothing was stated.
        render: makes the card of facts.
        config_name: file of the configuration.
        weights_name: file of the tensors.

    Returns:
        The folder.

    Raises:
        OSError: if it cannot be written; nothing half-written is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, folder / weights_name)
    stated = {**settings, CHECKSUM_KEY: sha256(folder / weights_name)}
    write_text(folder / config_name, json.dumps(stated, indent=1) + "\n")
    if card is not None or not (folder / CARD_NAME).exists():
        write_text(folder / CARD_NAME, render(card or CardFacts()))
    return folder


def write_text(path: Path, text: str) -> None:
    """Writes a small file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def push_to_hub(
    model: PromptableModel,
    repo_id: str,
    *,
    card: CardFacts | None = None,
    vocabulary: Sequence[str] = (),
    **options: Any,
) -> str:
    """Saves a model and uploads it as one commit.

    Args:
        model: to upload.
        repo_id: ``owner/name``; made if it is not there.
        card: facts for the model card.
        vocabulary: terms that the weights were trained to find by name.
        options: of :func:`promptseg.hub.push`.

    Returns:
        The commit.

    Raises:
        ValueError: if the upload is refused.
    """
    import tempfile

    from ..hub import push

    with tempfile.TemporaryDirectory(prefix="promptseg-") as folder:
        save_pretrained(model, folder, vocabulary=vocabulary, card=card)
        return push(folder, repo_id, (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME), **options)
