"""The training loop: setup, fit, validate; resume from wherever a run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..predictor import preferred_dtype
from .checkpoint import find_latest, load_checkpoint, read_progress, save_checkpoint
from .config import PretrainConfig
from .distributed import Process, any_rank, gradient_sync, start, sum_over_ranks, whole, wrap
from .metrics_log import MetricsLog, StepMeans, summary_writer
from .optimisation import (
    WeightAverage,
    clip_gradients,
    learning_rate,
    make_optimizer,
    nonfinite_gradients,
    optimizer_tensors,
    set_learning_rate,
)
from .run_folder import RunError, held, on_main, writing
from .run_identity import refuse_another_run, run_identity
from .signals import calling_on_signals, leave_signals_and_locks_to_the_trainer
from .stages import Stage, make_stage
from .validation import Validator

logger = logging.getLogger(__name__)
CHECKPOINTS_NAME, WEIGHTS_NAME = "checkpoints", "weights"
_EARLIER_CHECKPOINT = "checkpoint.pt"
NONFINITE_WINDOW = 10
"""Steps, in multiples of ``max_nonfinite_steps``, among which those that are not finite are counted."""


class Trainer:
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
        self.is_fast_in_bf16 = config.bf16 and preferred_dtype(self.process.device) == torch.bfloat16
        self.step = 0
        self.seconds = 0.0
        self.nonfinite_steps = 0
        self._recent: list[int] = []
        self.stop_requested = False

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
                with torch.autocast(process.device.type, torch.bfloat16, enabled=self.is_fast_in_bf16):
                    loss, measured = self.wrapped(batch, self.step, index)
                (loss / len(batches)).backward()
            for name, value in {"loss": loss, **measured}.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
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
        bad = nonfinite_gradients(self.model)
        where = f"gradients of {len(bad)} weights, such as {bad[0]}" if bad else "the loss alone"
        logger.warning("step %d: loss or gradient is not finite (%s); skipped", self.step, where)
        self._recent = [step for step in self._recent if step > self.step - NONFINITE_WINDOW * most] + [self.step]
        if len(self._recent) > most:
            path = self.out_dir / f"nonfinite_batch_{self.process.rank}.pt"
            with writing(self.out_dir):
                torch.save({"step": self.step, "batches": batches}, path)
            raise RunError(
                f"more than {most} of {NONFINITE_WINDOW * most} steps with a loss or gradient that is not finite "
                f"({where}); the last batch is in {path}; lower the learning rate, or look at the batch"
            )

    def request_stop(self) -> None:
        """Ends :meth:`fit` with a checkpoint after the step or the validation forward at hand."""
        self.stop_requested = True

    def validate(self, validator: Validator) -> dict[str, float] | None:
        """Measures the averaged weights on the validation fold, with pictures; all processes have to call it.

        Returns:
            See :meth:`Validator.measure`; None if a stop was requested on any process meanwhile.
        """
        self.average.swap()
        try:
            folder = self.out_dir / "pictures" / f"step-{self.step:08d}"
            return validator.measure(self.wrapped, folder, lambda: any_rank(self.stop_requested)[0])
        finally:
            self.average.swap()

    def fit(self) -> None:
        """Trains to the end of the schedule, or until SIGTERM or SIGINT, which save and return.

        A validation comes after a save and gives way to a stop; a run that resumes makes up for it.
        """
        config = self.config
        log = None
        if self.process.is_main:
            with writing(self.out_dir):
                log = MetricsLog(self.out_dir, self.step, config.tensorboard)
        validator = Validator(config, self.process) if config.validation.every else None
        pending = StepMeans()
        last_save = time.monotonic()
        waited = 0.0
        self.wrapped.train()
        with calling_on_signals(self.request_stop), contextlib.closing(self._steps()) as steps:
            is_missing = any_rank(log is not None and not log.has("val_dice1", self.step))[0]
            if validator and self.step and is_missing and self._is_validated:
                must_stop = not self._validate_and_log(validator, log)
            else:
                must_stop = False
            ready = list(islice(steps, 0 if must_stop else 1))

            def fetch() -> None:
                nonlocal waited
                fetching = time.monotonic()
                ready.extend(islice(steps, 1))
                waited += time.monotonic() - fetching

            started = stepped = time.monotonic()
            while self.position < config.max_steps and not must_stop:
                pending.add(self.train_step(ready.pop(), fetch))
                if config.minutes:
                    share = (time.monotonic() - stepped) / self.process.world_size
                    self.seconds += sum_over_ranks({"seconds": share})["seconds"]  # the same on every process
                    stepped = time.monotonic()
                if self.step % config.log_every == 0 or self.position >= config.max_steps:
                    seconds = time.monotonic() - started
                    row = pending.row() | {"seconds_per_step": seconds / pending.steps}
                    row |= {"wait_share": waited / seconds, "nonfinite_steps": float(self.nonfinite_steps)}
                    self._log(log, row)
                    pending, started, waited = StepMeans(), time.monotonic(), 0.0
                is_late = time.monotonic() - last_save > 60 * config.save_every_minutes
                is_due = bool(config.save_every_steps) and self.step % config.save_every_steps == 0
                must_stop, is_late = any_rank(self.stop_requested, is_late)
                is_validated = validator is not None and self._is_validated
                if (is_late or is_due or is_validated) and not must_stop:  # a stop saves below
                    self.save()
                    last_save = time.monotonic()
                if validator and is_validated and not must_stop:
                    must_stop = not self._validate_and_log(validator, log)
            if must_stop:
                logger.info("stopped at step %d on request", self.step)
            self.save()
        if log:
            log.close()

    @property
    def _is_validated(self) -> bool:
        """Whether the fold is to be measured at the step at hand."""
        return self.step % self.config.validation.every == 0 or self.position >= self.config.max_steps

    def _validate_and_log(self, validator: Validator, log: MetricsLog | None) -> bool:
        """Whether it came to its end."""
        measured = self.validate(validator)
        if measured is not None:
            self._log(log, measured)
        return measured is not None

    def _log(self, log: MetricsLog | None, row: dict[str, float]) -> None:
        """Writes a row on the main process; all of them have to call it."""

        def write() -> None:
            with writing(self.out_dir):
                if log:
                    log.write(self.step, row)

        on_main(self.process, write)

    def _steps(self) -> Generator[list[dict[str, Tensor]]]:
        """Prepared micro-batches of each step left. A sample is a function of its number, so the step is the data's
        state.
        """
        config, process = self.config, self.process
        micro_steps = config.accumulation
        loader = DataLoader(
            self.stage.stream,
            batch_size=None,
            sampler=range(self.step * micro_steps, config.max_steps * micro_steps),
            num_workers=config.num_workers,
            worker_init_fn=leave_signals_and_locks_to_the_trainer,
            pin_memory=process.device.type == "cuda",
        )
        batches = iter(loader)
        try:
            for step in range(self.step, config.max_steps):
                yield [
                    self.stage.prepare(batch, step, micro * process.world_size + process.rank)
                    for micro, batch in enumerate(islice(batches, micro_steps))
                ]
        finally:
            # An error's traceback keeps the iterator, and an exiting process waits for workers that ignore signals.
            getattr(batches, "_shutdown_workers", lambda: None)()


def setup(config: PretrainConfig, resume: str = "auto", process: Process | None = None) -> Trainer:
    """Makes a trainer, at the step where its folder's run stopped.

    Args:
        config: of the run.
        resume: ``auto`` continues a run found in ``out_dir``; ``never`` refuses to touch one.
        process: this one; None to join the others.

    Raises:
        ValueError: with ``never`` where a run exists; for a run of an earlier version, or one of another model, stage,
            seed, data or sampler; for another ``resume``; without TensorBoard where it is asked for.
        RunError: if ``out_dir`` cannot be written.
    """
    if resume not in ("auto", "never"):
        raise ValueError(f"resume={resume!r}: expected 'auto' or 'never'")
    out_dir = Path(config.out_dir)
    latest = find_latest(out_dir / CHECKPOINTS_NAME)
    if latest is None and (out_dir / _EARLIER_CHECKPOINT).exists():
        raise ValueError(f"{out_dir} holds a run of an earlier version ({_EARLIER_CHECKPOINT}); choose another out_dir")
    if resume == "never" and latest is not None:
        step = read_progress(latest)["step"]
        raise ValueError(f"{out_dir} holds a run at step {step}; choose another out_dir, or resume='auto'")
    if latest is not None:
        refuse_another_run(config, read_progress(latest))
    process = process or start(config.device)
    if config.tensorboard:
        on_main(process, summary_writer)  # which fails before minutes of reading and not after them
    trainer = Trainer(config, process)
    trainer.resume()

    def record() -> None:
        with writing(out_dir):
            text = json.dumps(dataclasses.asdict(config), indent=1)
            (out_dir / "config.json").write_text(text + "\n", encoding="utf-8")

    on_main(process, record)
    return trainer


def pretrain(config: PretrainConfig, resume: str = "auto") -> Trainer:
    """Runs a stage of pretraining; see :func:`setup` for the arguments and for what else is raised.

    Returns:
        The trainer at its last step.

    Raises:
        RunError: if another run writes to ``out_dir``, if it cannot be written, or if too many steps are not finite.
    """
    process = start(config.device)
    with held(config.out_dir, process):
        trainer = setup(config, resume, process)
        trainer.fit()
    return trainer
