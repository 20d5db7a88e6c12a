"""``promptseg convert``: published weights of another project become a folder that ``--model`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .command import Command, option


@dataclass(frozen=True)
class ConvertConfig:
    """Converts published weights once into a folder of safetensors with their configuration.

    The file is read as data: nothing in it is executed. Use the folder as --model of the other commands, or with
    Predictor.from_pretrained.
    """

    kind: Literal["sam-med3d", "vista3d"] = option(metavar="KIND", is_positional=True)
    """whose weights: sam-med3d, SAM-Med3D's and SAM-Med3D-turbo's; vista3d, those of MONAI's bundle"""
    checkpoint: str = option(metavar="CKPT", is_positional=True)
    """the file as published: .pth or .pt, or .safetensors with the same keys"""
    output: str = option(short="-o", metavar="DIR")
    """folder to make"""
    overwrite: bool = False
    """replace a folder of converted weights that is there"""


def run(config: ConvertConfig) -> int:
    """Converts, and prints where the result is."""
    from ..models.convert import convert_sam_med3d, convert_vista3d

    convert = {"sam-med3d": convert_sam_med3d, "vista3d": convert_vista3d}[config.kind]
    folder = convert(config.checkpoint, config.output, overwrite=config.overwrite)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    print(f"{folder}: {size:.0f} MB; use it as --model {folder}")
    return 0


COMMAND = Command(
    ConvertConfig,
    run,
    example="""\
  promptseg convert sam-med3d sam_med3d_turbo.pth -o sam-med3d
  promptseg convert vista3d vista3d/models/model.pt -o vista3d""",
)
