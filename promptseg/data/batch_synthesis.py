"""Finishes raw samples: paints label maps, divides unlabelled images, augments, chooses objects; on any device.

The loader hands over crops as they were read; everything that costs arithmetic is done here, in batches, in the
loader's process or on the training device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..preprocessing import PreprocessingConfig
from .prompt_simulator import draw_indices
from .randomness import Randomness, hand_over
from .supervoxels import supervoxels
from .synthesis import FIRST_ELLIPSOID, FIRST_TUBE, NUM_VALUES, paint, shape_labels, split_background
from .transforms import acquire, remap

if TYPE_CHECKING:
    from .sampler import SamplerConfig

REAL, PAINTED, SYNTHETIC, UNLABELLED, IMAGE_ONLY = range(5)
"""Kinds of raw samples: an image with its objects; a label map to paint; nothing yet; an image to divide into
supervoxels; an image that needs no objects."""


def finish_batch(
    raw: dict[str, Tensor], randomness: Randomness, config: SamplerConfig, preprocessing: PreprocessingConfig
) -> dict[str, Tensor]:
    """Finishes a batch.

    Args:
        raw: ``image`` (B, 1, D, H, W), ``labels`` (B, D, H, W) uint8, ``targets`` (B, P, D, H, W) bool, ``spacing_mm``
            (B, 3), all on the randomness's device; ``kind`` (B,) int64. Others are handed through.
        randomness: source.
        config: how samples are drawn.
        preprocessing: the model's.

    Returns:
        The same without ``labels`` and ``kind``.
    """
    image, targets = raw["image"][:, 0].clone(), raw["targets"].clone()
    kinds = raw["kind"].cpu().numpy()
    size = image.shape[1]

    def rows_of(*wanted: int) -> Tensor | None:
        rows = np.isin(kinds, wanted).nonzero()[0]
        return hand_over(rows, image.device) if len(rows) else None

    if (rows := rows_of(SYNTHETIC)) is not None:
        labels = shape_labels(randomness, len(rows), size)
        image[rows] = paint(labels, randomness)
        targets[rows] = choose_objects(labels, randomness, config)
    if (rows := rows_of(PAINTED)) is not None:
        image[rows] = paint(split_background(raw["labels"][rows].long(), randomness), randomness)
    if (rows := rows_of(UNLABELLED)) is not None:
        targets[rows] = choose_objects(supervoxels(image[rows], randomness), randomness, config)
    is_painted = (kinds == PAINTED) | (kinds == SYNTHETIC)
    strength = config.augmentation * (0.5 + 0.5 * is_painted)
    image = acquire(image, randomness, strength)
    image = remap(image, randomness, preprocessing, 0 * strength + config.augmentation)
    rest = {name: tensor for name, tensor in raw.items() if name not in ("labels", "kind")}
    return {**rest, "image": image[:, None], "targets": targets}


def choose_objects(labels: Tensor, randomness: Randomness, config: SamplerConfig) -> Tensor:
    """Objects of drawn label maps; shapes that lie on top of blobs are preferred, being rarer and harder.

    Args:
        labels: (n, D, H, W) int64 below 256.
        randomness: source.
        config: how many objects, how small, how often several labels are one object.

    Returns:
        (n, P, D, H, W) bool. An ellipsoid is taken with its core or without it.
    """
    count, device = len(labels), labels.device
    flat = labels.flatten(1)
    sizes = torch.zeros(count, NUM_VALUES, device=device).scatter_add_(
        1, flat, torch.ones_like(flat, dtype=torch.float32)
    )
    sizes[:, 0] = 0
    usable = (sizes >= config.min_object_voxels).float()
    usable = torch.where(usable.any(dim=1, keepdim=True), usable, (sizes > 0).float())
    special = usable.clone()
    special[:, :FIRST_ELLIPSOID] = 0
    prefers = (randomness.uniform(count, 1) < 0.75) & special.any(dim=1, keepdim=True)
    weights = torch.where(prefers, special, usable)
    values = torch.arange(NUM_VALUES, device=device)
    is_shell = (values >= FIRST_ELLIPSOID) & (values < FIRST_TUBE) & (values % 2 == 0)
    members = torch.zeros(count, config.objects_per_crop, NUM_VALUES, dtype=torch.bool, device=device)
    for number in range(config.objects_per_crop):
        value = draw_indices(weights + 1e-6 * usable, randomness)
        weights = usable * (members[:, : number + 1].any(dim=1) == 0).float()
        weights = weights.scatter(1, value, 0.0)
        chosen = values == value
        takes_core = (is_shell & chosen).any(dim=1, keepdim=True) & (randomness.uniform(count, 1) < 0.5)
        core = torch.cat([chosen[:, -1:], chosen[:, :-1]], dim=1)
        several = randomness.uniform(count, 1) < config.merge_share
        extra = (randomness.uniform(count, NUM_VALUES) < 0.3) & (usable > 0) & several
        members[:, number] = chosen | (core & takes_core) | extra
    return torch.stack(
        [members[:, p].gather(1, flat).reshape(labels.shape) for p in range(config.objects_per_crop)], dim=1
    )
