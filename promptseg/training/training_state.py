"""What a training run consists of at a step: taken a step further, saved, resumed and exported."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..predictor import preferred_dtype
from .checkpoint import find_latest, load_checkpoint, save_checkpoint
from .config import PretrainConfig
from .distributed import Process, gradient_sync, start, sum_over_ranks, whole, wrap
from .optimisation import (
    WeightAverage,
    clip_gradients,
    learning_rate,
    make_optimizer,
    nonfinite_gradients,
    optimizer_tensors,
    set_learning_rate,
)
from .run_folder import RunError, on_main, writing
from .run_identity import run_identity
from .stages import Stage, make_stage

logger = logging.getLogger(__name__)
CHECKPOINTS_NAME, WEIGHTS_NAME = "checkpoints", "weights"
SMALLEST_CPU_BF16_CROP = 32
"""Side of the smallest crop that is computed in bfloat16 on a CPU. At stride 8 a crop of 16 is 2x2x2 voxels, of which
torch 2.14 gives weight gradients of 3x3x3 convolutions that differ from call to call and are often NaN."""
NONFINITE_WINDOW = 10
"""Steps, in multiples of ``max_nonfinite_steps``, among which those that are not finite are counted."""


class TrainingState:
    """Owns the weights, their average, the optimiser, the step number and the seconds spent of one process.

    Args:
        config: of the run.
        process: this one; None to join the others.
    """

    def __init__(self, config: PretrainConfig, process: Process | None = None) -> None:
        self.config = config
        self.process = process or start(config.device)
        self.out_dir = Path(config.out_dir)
        with writing(self.out_dir):
            self.out_dir.mkdir(parents=True, exist_ok=True)
        if self.process.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(config.seed)  # the same weights on every process
        self.stage: Stage = make_stage(
            config, self.process, is_new=find_latest(self.out_dir / CHECKPOINTS_NAME) is None
        )
        self.model = self.stage.model
        self.wrapped = wrap(self.stage.module, self.process, config.parallel)
        self.average = WeightAverage(self.model, config.ema_decay)
        self.optimizer = make_optimizer(self.model, config)
        self._is_fast_in_bf16 = config.bf16 and preferred_dtype(self.process.device) == torch.bfloat16
        self.step = 0
        self.seconds = 0.0
        self.nonfinite_steps = 0
        self._recent_nonfinite: list[int] = []
        sizes = {stage.crop_size for stage in config.stages} or {config.sampler.crop_size}
        if self._is_fast_in_bf16 and not all(map(self._may_use_bf16, sizes)):
            logger.info(
                "crops of fewer than %d voxels a side are computed in float32: of convolutions over grids as small as "
                "theirs, bfloat16 on a CPU gives gradients that are not finite",
                SMALLEST_CPU_BF16_CROP,
            )

    # Precision

    def _may_use_bf16(self, crop_size: int) -> bool:
        return self.process.device.type != "cpu" or crop_size >= SMALLEST_CPU_BF16_CROP

    @property
    def is_in_bf16(self) -> bool:
        """Whether the step at hand is computed in bfloat16 under autocast."""
        return self._is_fast_in_bf16 and self._may_use_bf16(self.config.crops_at(self.step)[0])

    # Checkpoints

    def _tensors(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.tensors,
            "optimizer": optimizer_tensors(self.model, self.optimizer),
        }

    def resume(self) -> bool:
        """Continues from the folder's latest checkpoint, if there is one.

        Raises:
            ValueError: if it does not fit the configuration.
        """
        latest = find_latest(self.out_dir / CHECKPOINTS_NAME)
        if latest is None:
            return False
        progress = load_checkpoint(latest, self._tensors())
        self.step, self.nonfinite_steps = progress["step"], progress["nonfinite_steps"]
        self._recent_nonfinite = progress.get("recent_nonfinite_steps", [])
        self.seconds = progress.get("seconds", 0.0)
        logger.info("resumed at step %d from %s", self.step, latest)
        return True

    def save(self) -> None:
        """Writes a checkpoint and the averaged weights; all processes have to call it."""
        save_checkpoint(
            self.out_dir / CHECKPOINTS_NAME,
            self.step,
            self._tensors(),
            {
                "nonfinite_steps": self.nonfinite_steps,
                "recent_nonfinite_steps": self._recent_nonfinite,
                "world_size": self.process.world_size,
                "seconds": self.seconds,
                "run": run_identity(self.config),
            },
            self.process,
            self.config.keep_checkpoints,
        )
        self.export(self.out_dir / WEIGHTS_NAME)

    def export(self, folder: Path) -> None:
        """Writes the averaged weights as a loadable checkpoint folder; all processes have to call it."""
        from ..safe_loading import replacing, save_tensors

        tensors = {k: whole(v).float().contiguous() for k, v in self.average.tensors.items()}
        tensors |= self.stage.handed_on
        entries = {"model": self.stage.described.to_dict(), "stage": self.config.stage, "step": self.step}

        def write() -> None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_tensors({k: v.cpu() for k, v in tensors.items()}, folder / "model.safetensors")
                with replacing(folder / "config.json") as partial:
                    partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")

        on_main(self.process, write)

    # Steps

    @property
    def position(self) -> float:
        """Place in the schedule, 0 to ``max_steps``: the step or, of a run of ``minutes``, the share that is spent."""
        config = self.config
        share = self.seconds / (60 * config.minutes) if config.minutes else 0.0
        return max(self.step, min(share, 1.0) * config.max_steps)

    def train_step(
        self, batches: list[dict[str, Tensor]], meanwhile: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """One optimiser step over ``accumulation`` micro-batches; a non-finite one is skipped and counted.

        Args:
            batches: as the stage prepared them.
            meanwhile: what the host does while a GPU computes the gradients.

        Raises:
            RunError: after more than ``max_nonfinite_steps`` of those; the batches are saved.
        """
        sums = self._gradients(batches)
        if meanwhile:
            meanwhile()
        return self._finish_step(batches, sums)

    def _gradients(self, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Sums of what was measured over the micro-batches, whose gradients are left in the weights.

        On a GPU nothing has been computed yet when this returns.
        """
        process = self.process
        self.optimizer.zero_grad(set_to_none=True)
        # Crops per step = batch_size * accumulation * world_size, such as 4 * 2 * 8 = 64. Each backward averages over
        # batch_size crops and, when it syncs, over the processes; dividing by the number of micro-steps makes the sum
        # of their gradients the mean over all crops.
        sums: dict[str, Tensor] = {}
        for micro, batch in enumerate(batches):
            index = micro * process.world_size + process.rank
            with gradient_sync(self.wrapped, enabled=micro + 1 == len(batches)):
                with torch.autocast(process.device.type, torch.bfloat16, enabled=self.is_in_bf16):
                    loss, measured = self.wrapped(batch, self.step, index)
                (loss / len(batches)).backward()
            for name, value in {"loss": loss, **measured}.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.grad is None:  # left out, which is no reason not to decay
                parameter.grad = torch.zeros_like(parameter)
        return sums

    def _finish_step(self, batches: list[dict[str, Tensor]], sums: dict[str, Tensor]) -> dict[str, float]:
        config, process = self.config, self.process
        rate = learning_rate(config, self.position)
        set_learning_rate(self.optimizer, rate)
        norm = clip_gradients(self.model, config.clip_norm)
        share = len(batches) * process.world_size
        means = {k: v / share for k, v in sum_over_ranks({k: float(v) for k, v in sums.items()}).items()}
        if math.isfinite(norm) and math.isfinite(means["loss"]):  # both the same on every process
            self.optimizer.step()
            self.average.update(self.step)
        else:
            self._skip(batches)
        self.step += 1
        return {**means, "lr": rate, "norm": norm}

    def _skip(self, batches: list[dict[str, Tensor]]) -> None:
        most, self.nonfinite_steps = self.config.max_nonfinite_steps, self.nonfinite_steps + 1
        window = NONFINITE_WINDOW * max(1, most)
        bad = nonfinite_gradients(self.model)
        where = f"gradients of {len(bad)} weights, such as {bad[0]}" if bad else "the loss alone"
        logger.warning("step %d: loss or gradient is not finite (%s); skipped", self.step, where)
        recent = [step for step in self._recent_nonfinite if step > self.step - window] + [self.step]
        self._recent_nonfinite = recent
        if len(recent) > most:
            path = self.out_dir / f"nonfinite_batch_{self.process.rank}.pt"
            with writing(self.out_dir):
                torch.save({"step": self.step, "batches": batches}, path)
            raise RunError(
                f"more than {most} of {window} steps with a loss or gradient that is not finite ({where}); the last "
                f"batch is in {path}; lower the learning rate, or look at the batch"
            )
