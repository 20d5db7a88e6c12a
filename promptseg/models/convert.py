"""Foreign checkpoints, converted once into folders of safetensors with their configuration."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ..safe_loading import load_into, read_tensors
from .foreign_weights import CONFIG_NAME, WEIGHTS_NAME
from .pretrained import sha256
from .sam_med3d import SamMed3DConfig, SamMed3DModel

if TYPE_CHECKING:
    from .vista3d import Vista3DConfig, Vista3DModel

CARD_FILE = "README.md"

_SAM_MED3D_CARD = """# SAM-Med3D, converted

The published weights of [SAM-Med3D](https://github.com/uni-medical/SAM-Med3D) (Wang et al., 2023), converted from
`{name}` (sha256 `{digest}`) by promptseg. The values are unchanged; keys lost the prefixes of training wrappers.

- Architecture: 3D ViT-B, {parameters:.1f} M parameters, tiles of {tile}^3 voxels at {spacing} mm isotropic.
- Prompts: points, and the previous mask. No boxes, scribbles as points, no text.
- Training data, licence and published results: see the original repository; promptseg has measured none of them.
- Not for clinical use.
"""
_VISTA3D_CARD = """# VISTA3D, converted

The published weights of [VISTA3D](https://arxiv.org/abs/2406.05285) (He et al., 2024) from the `vista3d` bundle of
[MONAI's model zoo](https://github.com/Project-MONAI/model-zoo), converted from `{name}` (sha256 `{digest}`) by
promptseg. The values are unchanged; keys of the heads' image part were moved.

- Architecture: `monai.networks.nets.vista3d`, {parameters:.1f} M parameters, tiles of {tile}^3 voxels at {spacing} mm
  isotropic, CT in Hounsfield units.
- Prompts: points, class names, and the previous mask. No boxes, scribbles as points.
- The licence of the weights is the bundle's `LICENSE.weights`, which is not that of its code; read it before use.
- Training data and published results: see the bundle; promptseg has measured none of them.
- Not for clinical use.
"""


def convert_sam_med3d(
    checkpoint: str | Path, out_dir: str | Path, overwrite: bool = False, config: SamMed3DConfig | None = None
) -> Path:
    """Converts SAM-Med3D's published checkpoint, whole or not at all.

    Args:
        checkpoint: ``.pth`` as published or as its training script saves it, or ``.safetensors`` with the same keys.
        out_dir: folder to make, with ``model.safetensors``, ``config.json`` and a card.
        overwrite: replace a folder that is there, if it holds nothing but converted weights.
        config: sizes, for a checkpoint of other than the published ones.

    Returns:
        The folder.

    Raises:
        ValueError: if the checkpoint is damaged, carries more than data, or is of another architecture (the differences
            are listed by key), or if the folder is there already.
        OSError: if the folder cannot be written.
    """
    _check_target(Path(out_dir), overwrite)
    model = SamMed3DModel(config)
    load_into(model, read_tensors(checkpoint, allow_pickle=True), str(checkpoint))
    return _write(model, _SAM_MED3D_CARD, Path(checkpoint), Path(out_dir))


def convert_vista3d(
    checkpoint: str | Path, out_dir: str | Path, overwrite: bool = False, config: Vista3DConfig | None = None
) -> Path:
    """Converts the checkpoint of MONAI's ``vista3d`` bundle, whole or not at all.

    Args:
        checkpoint: ``models/model.pt`` of the bundle, or ``.safetensors`` with the same keys.
        out_dir: as for :func:`convert_sam_med3d`.
        overwrite: as there.
        config: sizes, for a checkpoint of other than the published ones.

    Raises:
        ValueError: as there.
        OSError: as there.
    """
    from .vista3d import Vista3DModel

    _check_target(Path(out_dir), overwrite)
    return _write(Vista3DModel.from_published(checkpoint, config), _VISTA3D_CARD, Path(checkpoint), Path(out_dir))


def _check_target(out_dir: Path, overwrite: bool) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"{out_dir} is a file: expected a folder to make; choose another name")
    found = sorted(path.name for path in out_dir.iterdir()) if out_dir.is_dir() else []
    others = [name for name in found if name not in (CONFIG_NAME, WEIGHTS_NAME, CARD_FILE)]
    if others:
        raise ValueError(f"{out_dir} holds {', '.join(others[:3])}, which would be lost: choose another folder")
    if found and not overwrite:
        raise ValueError(f"{out_dir} is there already and not empty: choose another folder, or allow overwriting it")


def _write(model: SamMed3DModel | Vista3DModel, card: str, checkpoint: Path, out_dir: Path) -> Path:
    """Saves a converted model and its card into a folder that appears when both are complete."""
    partial = out_dir.with_name(f".{out_dir.name}.{uuid.uuid4().hex}.part")
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        text = card.format(
            name=checkpoint.name,
            digest=sha256(checkpoint),
            parameters=sum(p.numel() for p in model.parameters()) / 1e6,
            tile=model.config.tile_size,
            spacing=model.config.spacing_mm,
        )
        (partial / CARD_FILE).write_text(text, encoding="utf-8")
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
    except BaseException:  # an interrupt, too
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
