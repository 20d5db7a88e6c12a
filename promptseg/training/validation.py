"""The validation fold on the way: Dice after each click on fixed crops, with pictures; no tiles, no whole volumes.

A cheap indicator between checkpoints. What a release reports comes from :mod:`promptseg.evaluation`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..data.pool import TrainingPool
from ..data.sampler import Sample, draw_sample
from .distributed import Process, sum_over_ranks
from .losses import dice_score
from .reading import read_pool

if TYPE_CHECKING:
    from .config import PretrainConfig

logger = logging.getLogger(__name__)
LEGEND = ("missed", "too much", "right")


@dataclass(frozen=True)
class ValidationConfig:
    """How the validation fold is measured during training.

    Raises:
        ValueError: for a number out of range.
    """

    every: int = 0
    """Steps between measurements; 0 for none."""
    crops_per_group: int = 4
    """Fixed crops of each data set that has a validation fold."""
    clicks: int = 5
    """Clicks on each object, each at the deepest point of the error."""
    pictures: int = 4
    """Crops drawn as pictures, by turns from each data set."""

    def __post_init__(self) -> None:
        for name, smallest in (("every", 0), ("crops_per_group", 1), ("clicks", 1), ("pictures", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"validation.{name}={getattr(self, name)}: expected {smallest} or more")


class Abandoned(Exception):
    """A measurement was not brought to its end, on request."""


class Validator:
    """Fixed crops of the validation fold and how they are measured, spread over the processes.

    Args:
        config: of the run.
        process: this one.
        pool: the validation fold; None to load it.
    """

    def __init__(self, config: PretrainConfig, process: Process, pool: TrainingPool | None = None) -> None:
        self.config, self.process = config, process
        if pool is None:
            pool = read_pool(config, "validation", skip_empty=True)
        self.samples = _draw_fixed(pool, config)

    @torch.no_grad()
    def measure(
        self, wrapped: nn.Module, folder: Path | None = None, must_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Plays the clicks.

        Args:
            wrapped: prompted training, as wrapped for distribution; all processes have to call this.
            folder: for pictures, made if missing; None for none.
            must_stop: asked before each crop, with the same answer on every process.

        Returns:
            ``val_dice1``, ...: mean over data sets, and ``val_dice1/GROUP``, ... for each; the same on every process.

        Raises:
            Abandoned: if ``must_stop`` says so.
        """
        world, rank = self.process.world_size, self.process.rank
        was_training = wrapped.training
        wrapped.eval()
        groups = sorted({s.source for s in self.samples})
        clicks = self.config.validation.clicks
        sums = {f"{g}/{k}": 0.0 for g in groups for k in ("count", *range(1, clicks + 1))}
        for turn in range(-(-len(self.samples) // world)):  # the same number of forwards on every process
            if must_stop():
                wrapped.train(was_training)
                raise Abandoned
            number = turn * world + rank
            sample = self.samples[min(number, len(self.samples) - 1)]
            parts = {n: getattr(sample, n) for n in ("image", "targets", "spacing_mm", "is_known")}
            batch = {k: v[None].to(self.process.device) for k, v in parts.items()}
            result = wrapped(batch, 0, 0, clicks)
            if number >= len(self.samples):
                continue
            sums[f"{sample.source}/count"] += 1
            for click, logits in enumerate(result.logits, start=1):
                dice = dice_score((logits > 0) & batch["is_known"], batch["targets"][0])
                sums[f"{sample.source}/{click}"] += float(dice.mean())
            if folder is not None and number < self.config.validation.pictures:
                path = folder / f"{number:02d}.png"
                try:
                    _draw(sample, result.logits[-1, 0], result.points[0], result.labels[0], path)
                except OSError as error:  # on one process of several; the next save ends the run on all of them
                    logger.warning("%s cannot be written (%s); validation goes on without it", path, error)
        wrapped.train(was_training)
        return _averages(sum_over_ranks(sums), groups, clicks)


def _averages(sums: dict[str, float], groups: list[str], clicks: int) -> dict[str, float]:
    """Mean Dice of each group, and the mean of those means."""
    means: dict[str, float] = {}
    for click in range(1, clicks + 1):
        each = {g: sums[f"{g}/{click}"] / sums[f"{g}/count"] for g in groups}
        means |= {f"val_dice{click}": sum(each.values()) / max(1, len(each))}
        means |= {f"val_dice{click}/{g}": v for g, v in each.items()}
    return means


def _draw_fixed(pool: TrainingPool, config: PretrainConfig) -> list[Sample]:
    """The same crops at every measurement, without augmentation, by turns from each group."""
    sampler = dataclasses.replace(
        config.sampler, synthetic_share=0.0, painted_share=0.0, supervoxel_share=0.0, augmentation=0.0, merge_share=0.0
    )
    samples = []
    alone = {group: TrainingPool({group: volumes}, {group: 1.0}) for group, volumes in pool.groups.items()}
    for number in range(config.validation.crops_per_group):
        for index, (group, only) in enumerate(alone.items()):
            sample = draw_sample(only, config.seed, number, index, sampler, config.model.preprocessing)
            samples.append(dataclasses.replace(sample, source=group))
    return samples


def _draw(sample: Sample, logits: Tensor, points: Tensor, labels: Tensor, path: Path) -> None:
    """A picture of the first object: what is right, missed and too much, with the clicks."""
    from ..render import render_overlay, save_picture
    from ..volume import Volume

    truth, found = sample.targets[0].numpy(), (logits > 0).cpu().numpy()
    mask = np.where(truth & found, 3, np.where(found, 2, np.where(truth, 1, 0))).astype(np.uint8)
    affine = np.diag([*sample.spacing_mm.tolist(), 1.0])
    given = (labels >= 0).cpu()
    clicks, signs = points.cpu()[given].numpy(), labels.cpu()[given].numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = render_overlay(Volume(sample.image[0].numpy(), affine), mask, points=clicks, labels=signs, legend=LEGEND)
    save_picture(picture, path)
