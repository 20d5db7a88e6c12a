"""``promptseg info``: what an image is, and how it will be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .command import Command, option
from .loading import DEFAULT_MODEL

if TYPE_CHECKING:
    from ..models import ModelConfig
    from ..volume import Volume

_DIRECTIONS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


@dataclass(frozen=True)
class InfoConfig:
    """Describes a 3D image: grid, orientation, intensities, guessed modality and the zoom levels it is read at."""

    image: str = option(metavar="IMAGE", is_positional=True)
    """image file, or the folder of a DICOM series"""
    model: str = option(DEFAULT_MODEL, metavar="NAME")
    """weights whose tiles are listed: a name that promptseg doctor lists, or a folder"""
    json: bool = False
    """print JSON"""


def run(config: InfoConfig) -> int:
    """Prints the description."""
    from ..io import read_volume

    facts = describe_volume(read_volume(config.image), _model_config(config.model))
    if config.json:
        print(json.dumps(facts, indent=1))
        return 0
    for line in _lines(facts):
        print(line)
    return 0


def describe_volume(volume: Volume, model: ModelConfig) -> dict[str, Any]:
    """Facts about an image, as plain values.

    Args:
        volume: the image.
        model: whose tile size the zoom levels are listed for.
    """
    import numpy as np

    from ..modality import guess_modality
    from ..preprocessing import subsample
    from ..tiles import TileLattice

    guess = guess_modality(volume.array)
    low, middle, high = np.percentile(subsample(volume.array, 2_000_000), [1, 50, 99])
    n0, n1, n2 = (int(n) for n in volume.canonical_shape)
    s0, s1, s2 = (float(s) for s in volume.canonical_spacing_mm)
    lattice = TileLattice((n0, n1, n2), (s0, s1, s2), model.tile_size)
    levels = [
        {"level": n, "spacing_mm": lattice.level_spacing_mm(n), "tiles": list(lattice.counts(n))}
        for n in range(lattice.num_levels)
    ]
    return {
        "image": str(volume.source),
        "shape": [int(n) for n in volume.shape],
        "spacing_mm": [float(s) for s in volume.spacing_mm],
        "orientation": volume.orientation,
        "is_orientation_known": volume.is_orientation_known,
        "is_oblique": _is_oblique(np.asarray(volume.affine)),
        "affine": np.asarray(volume.affine).tolist(),
        "dtype": str(volume.array.dtype),
        "minimum": float(volume.array.min()),
        "maximum": float(volume.array.max()),
        "percentiles": {"1": float(low), "50": float(middle), "99": float(high)},
        "replaced_nonfinite_voxels": int(volume.nonfinite_count),
        "modality_guess": guess.name,
        "modality_reason": guess.reason,
        "model": model.name,
        "tile_size": model.tile_size,
        "tile_levels": levels,
    }


def _model_config(name: str) -> ModelConfig:
    """Configuration of weights; the default sizes where the default weights are not installed."""
    from ..models import ModelConfig
    from ..models.pretrained import read_config
    from ..models.registry import list_models, resolve

    if name == DEFAULT_MODEL and name not in list_models():
        return ModelConfig()
    return read_config(resolve(name))


def _is_oblique(affine: Any) -> bool:
    """Whether the grid is turned against the body's axes by more than about half a degree."""
    import numpy as np

    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool((np.abs(columns).max(axis=0) < 0.99996).any())


def _lines(facts: dict[str, Any]) -> list[str]:
    n, s = facts["shape"], facts["spacing_mm"]
    towards = ", ".join(f"{axis} to {_DIRECTIONS[d]}" for axis, d in zip("ijk", facts["orientation"], strict=True))
    orientation = f"{facts['orientation']} ({towards}{'; oblique' if facts['is_oblique'] else ''})"
    if not facts["is_orientation_known"]:
        orientation = f"unknown (assumed {facts['orientation']}: {towards}; left and right are guessed)"
    size_mm = [f"{a * b:.4g}" for a, b in zip(n, s, strict=True)]
    percentiles = facts["percentiles"]
    lines = [
        f"image        {facts['image']}",
        f"shape        {' x '.join(map(str, n))} voxels",
        f"spacing      {' x '.join(f'{v:.4g}' for v in s)} mm (extent {' x '.join(size_mm)} mm)",
        f"orientation  {orientation}",
        f"intensities  {facts['dtype']}, {facts['minimum']:g} to {facts['maximum']:g}"
        f" (1 %: {percentiles['1']:g}, median: {percentiles['50']:g}, 99 %: {percentiles['99']:g})",
        f"modality     {facts['modality_guess']} (a guess: {facts['modality_reason']})",
        f"tile levels  {len(facts['tile_levels'])}, tiles of {facts['tile_size']}^3 voxels for {facts['model']}",
    ]
    if facts["replaced_nonfinite_voxels"]:
        lines.insert(5, f"replaced     {facts['replaced_nonfinite_voxels']} NaN or infinite voxels")
    for level in facts["tile_levels"]:
        tiles = level["tiles"]
        count = f"{' x '.join(map(str, tiles))} tiles" if max(tiles) > 1 else "one tile"
        lines.append(f"             level {level['level']}: {level['spacing_mm']:.4g} mm, {count}")
    return lines


COMMAND = Command(InfoConfig, run, example="  promptseg info ct.nii.gz\n  promptseg info ct.nii.gz --json")
