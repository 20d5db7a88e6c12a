"""The training loop: setup, fit, validate; resume from wherever a run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Generator
from itertools import islice
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from .checkpoint import find_latest, read_progress
from .config import PretrainConfig
from .distributed import Process, any_rank, start, sum_over_ranks
from .metrics_log import MetricsLog, StepMeans, summary_writer
from .run_folder import MainProcessError, RunError, held, on_main, writing
from .run_identity import refuse_another_run
from .signals import calling_on_signals, leave_signals_and_locks_to_the_trainer
from .training_state import CHECKPOINTS_NAME, TrainingState
from .validation import Abandoned, Validator

logger = logging.getLogger(__name__)
_EARLIER_CHECKPOINT = "checkpoint.pt"


class Trainer(TrainingState):
    """Takes a run through its schedule, with validations, a log and saves on the way.

    Args:
        config: of the run.
        process: this one; None to join the others.
    """

    def __init__(self, config: PretrainConfig, process: Process | None = None) -> None:
        super().__init__(config, process)
        self.stop_requested = False
        self._waited = 0.0
        """Seconds since the last line of the log in which there was no sample to go on with."""

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
        except Abandoned:
            return None
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
        self.wrapped.train()
        with calling_on_signals(self.request_stop), contextlib.closing(self._steps()) as steps:
            is_missing = any_rank(log is not None and not log.has("val_dice1", self.step))[0]
            if validator and self.step and is_missing and self._is_validated:
                must_stop = not self._validate_and_log(validator, log)
            else:
                must_stop = False
            ready = list(islice(steps, 0 if must_stop else 1))

            def fetch() -> None:
                ready.extend(islice(steps, 1))

            started = stepped = time.monotonic()
            self._waited = 0.0
            while self.position < config.max_steps and not must_stop:
                pending.add(self.train_step(ready.pop(), fetch))
                if config.minutes:
                    share = (time.monotonic() - stepped) / self.process.world_size
                    self.seconds += sum_over_ranks({"seconds": share})["seconds"]  # the same on every process
                    stepped = time.monotonic()
                if self.step % config.log_every == 0 or self.position >= config.max_steps:
                    seconds = time.monotonic() - started
                    row = pending.row() | {"seconds_per_step": seconds / pending.steps}
                    row |= {"wait_share": self._waited / seconds, "nonfinite_steps": float(self.nonfinite_steps)}
                    self._log(log, row)
                    pending, started, self._waited = StepMeans(), time.monotonic(), 0.0
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
                asked = time.monotonic()
                raw = list(islice(batches, micro_steps))
                self._waited += time.monotonic() - asked
                yield [
                    self.stage.prepare(batch, step, micro * process.world_size + process.rank)
                    for micro, batch in enumerate(raw)
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
        trainer = setup(config, resume, process)  # what it refuses is the same on every process; the main one says it
        try:
            trainer.fit()
        except (ValueError, RunError) as error:  # perhaps of this process alone, whose case is damaged or disk is full
            if not (process.is_main or isinstance(error, MainProcessError)):
                logger.error("process %d of %d fails: %s", process.rank, process.world_size, error)
            raise
    return trainer
