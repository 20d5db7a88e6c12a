"""Foreign checkpoints, converted once into folders of safetensors with their configuration."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from ..safe_loading import load_into, read_tensors
from .pretrained import sha256
from .sam_med3d import SamMed3DConfig, SamMed3DModel

CARD_FILE = "README.md"

_CARD = """# SAM-Med3D, converted

The published weights of [SAM-Med3D](https://github.com/uni-medical/SAM-Med3D) (Wang et al., 2023), converted from
`{name}` (sha256 `{digest}`) by promptseg. The values are unchanged; keys lost the prefixes of training wrappers.

- Architecture: 3D ViT-B, {parameters:.1f} M parameters, tiles of {tile}^3 voxels at {spacing} mm isotropic.
- Prompts: points, and the previous mask. No boxes, scribbles as points, no text.
- Training data, licence and published results: see the original repository; promptseg has measured none of them.
- Not for clinical use.
"""


def convert_sam_med3d(
    checkpoint: str | Path, out_dir: str | Path, overwrite: bool = False, config: SamMed3DConfig | None = None
) -> Path:
    """Converts SAM-Med3D's published checkpoint, whole or not at all.

    Args:
        checkpoint: ``.pth`` as published or as its training script saves it, or ``.safetensors`` with the same keys.
        out_dir: folder to make, with ``model.safetensors``, ``config.json`` and a card.
        overwrite: replace a folder that is there.
        config: sizes, for a checkpoint of other than the published ones.

    Returns:
        The folder.

    Raises:
        ValueError: if the checkpoint is damaged, carries more than data, or is of another architecture (the differences
            are listed by key), or if the folder is there already.
        OSError: if the folder cannot be written.
    """
    checkpoint, out_dir = Path(checkpoint), Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"{out_dir} is a file: expected a folder to make; choose another name")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not overwrite:
        raise ValueError(f"{out_dir} is there already and not empty: choose another folder, or allow overwriting it")
    config = config or SamMed3DConfig()
    model = SamMed3DModel(config)
    load_into(model, read_tensors(checkpoint, allow_pickle=True), str(checkpoint))
    partial = out_dir.with_name(f".{out_dir.name}.{uuid.uuid4().hex}.part")
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        card = _CARD.format(
            name=checkpoint.name,
            digest=sha256(checkpoint),
            parameters=sum(p.numel() for p in model.parameters()) / 1e6,
            tile=config.tile_size,
            spacing=config.spacing_mm,
        )
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        _replace_folder(partial, out_dir)
    except OSError as error:
        raise OSError(f"cannot write {out_dir}: {error}; choose a writable folder with enough space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out_dir


def _replace_folder(new: Path, target: Path) -> None:
    """Moves a finished folder to its place; one that is there is set aside, and put back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
