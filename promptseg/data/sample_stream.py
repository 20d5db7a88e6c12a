"""Training samples as a stream of micro-batches, each a pure function of its number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..preprocessing import PreprocessingConfig
from .batch_synthesis import REAL, UNLABELLED, choose_objects
from .pool import TrainingPool
from .randomness import Randomness
from .sampler import RawSample, SamplerConfig, draw_raw, finish_alone
from .supervoxels import supervoxels


class SampleStream(Dataset[dict[str, Tensor]]):
    """Micro-batches by number, for a DataLoader whose sampler counts.

    Args:
        pool: volumes.
        seed: of the run.
        crops_at: step -> (side of a crop, samples in a micro-batch).
        config: how samples are drawn; its ``crop_size`` gives way to ``crops_at``.
        preprocessing: the model's.
        rank: of this process.
        world_size: processes.
        accumulation: micro-batches of a step.
        images_only: crops of any image, without objects.
        is_finished: paint and augment here; else hand over raw samples, for :func:`finish_batch` on the device.
        real_from: step from which on only images with labels of their own are drawn; 0 for never.

    Raises:
        ValueError: where there is nothing to draw.
    """

    def __init__(
        self,
        pool: TrainingPool,
        seed: int,
        crops_at: Callable[[int], tuple[int, int]],
        config: SamplerConfig,
        preprocessing: PreprocessingConfig,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        images_only: bool = False,
        is_finished: bool = True,
        real_from: int = 0,
    ) -> None:
        if images_only and not any(v.levels for volumes in pool.groups.values() for v in volumes):
            raise ValueError(f"no image among {', '.join(pool.groups)}: training without labels needs images")
        self.pool, self.seed, self.crops_at = pool, seed, crops_at
        self.config, self.preprocessing = config, preprocessing
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self.images_only, self.is_finished = images_only, is_finished
        self.real_from = real_from
        self.real_pool = pool.labelled_images() if real_from else pool
        has_names = not images_only and config.upright_share > 0
        for drawn in {id(p): p for p in (pool, self.real_pool)}.values():
            drawn.make_tables(config.temperature, has_names)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Micro-batch ``number % accumulation`` of step ``number // accumulation``.

        The samples of a step are numbered through over micro-batches, processes and batches, so two processes draw what
        one draws in two micro-batches.

        Returns:
            image (B, 1, D, H, W), targets (B, P, D, H, W), spacing_mm (B, 3), and the tensors of :class:`Words`
            (B, P, ...); is_known (B, D, H, W) where the labels do not tell of some voxels what they are; raw ones also
            labels and kind.
        """
        step, micro = divmod(number, self.accumulation)
        crop_size, batch_size = self.crops_at(step)
        config, pool = dataclasses.replace(self.config, crop_size=crop_size), self.pool
        if self.real_from and step >= self.real_from:
            config = dataclasses.replace(config, synthetic_share=0.0, painted_share=0.0, supervoxel_share=0.0)
            pool = self.real_pool
        first = (micro * self.world_size + self.rank) * batch_size
        samples = []
        for index in range(first, first + batch_size):
            raw = draw_raw(pool, self.seed, step, index, config, self.images_only)
            if self.is_finished:
                alone = finish_alone(raw, (self.seed, step, index), config, self.preprocessing)
                samples.append({k: v[0] for k, v in alone.items()})
            else:
                samples.append(_divided(raw, (self.seed, step, index), config))
        batch = {k: torch.stack([s[k] for s in samples]) for k in samples[0]}
        if bool(batch["is_known"].all()):
            del batch["is_known"]
        return batch


def _divided(raw: RawSample, key: tuple[int, int, int], config: SamplerConfig) -> dict[str, Tensor]:
    """A raw sample's tensors, its supervoxels chosen: they are merged on the host, which would make a GPU wait."""
    tensors = raw.tensors()
    if raw.kind != UNLABELLED:
        return tensors
    randomness = Randomness((*key, 1))
    targets = choose_objects(supervoxels(raw.image, randomness), randomness, config)[0]
    return {**tensors, "targets": targets, "kind": torch.tensor(REAL)}
