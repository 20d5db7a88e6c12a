"""The training loop: setup, fit, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..data.pool import load_pool
from ..data.sampler import SampleStream
from ..models import PromptableModel
from ..predictor import preferred_dtype
from .config import PretrainConfig
from .episode import run_episode

logger = logging.getLogger(__name__)
CHECKPOINT_NAME = "checkpoint.pt"


class PromptedTraining(nn.Module):
    """The model with an episode as its forward pass, so that a distributed wrapper sees every use of a weight."""

    def __init__(self, model: PromptableModel, config: PretrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: dict[str, Tensor], step: int, rank: int = 0) -> tuple[Tensor, list[float]]:
        """Loss and Dice per round of the episode of a step, a pure function of (seed, step, rank) and the weights."""
        rounds_generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        probabilities = torch.tensor(self.config.round_probabilities)
        num_rounds = 1 + int(torch.multinomial(probabilities, 1, generator=rounds_generator))
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + step) * 4099 + rank)
        embedding = self.model.encode_image(batch["image"], batch["spacing_mm"])
        return run_episode(self.model, embedding, batch["targets"], num_rounds, generator, self.config.prompts)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Rate at a step: linear warm-up, constant, then half a cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if step < config.decay_start:
        return config.learning_rate
    progress = (step - config.decay_start) / max(1, config.max_steps - config.decay_start)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels with decay; biases, norms and embeddings without."""
    plain, decayed = [], []
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for parameter in model.parameters():
        (plain if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


class Trainer:
    """Owns the weights, their average, the optimiser and the step number."""

    def __init__(self, config: PretrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.rank, self.world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.out_dir = Path(config.out_dir)
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self.model = PromptableModel(config.model).to(memory_format=torch.channels_last_3d)
        self.training: nn.Module = PromptedTraining(self.model, config)
        if self.world_size > 1:
            if not dist.is_initialized():
                dist.init_process_group("gloo")
            # Which weights an episode uses depends on its prompts.
            self.training = DistributedDataParallel(self.training, find_unused_parameters=True)
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.step = 0
        self.nonfinite_steps = 0
        self.stop_requested = False

    def resume(self) -> bool:
        """Continues from the folder's checkpoint, if there is one."""
        path = self.out_dir / CHECKPOINT_NAME
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.nonfinite_steps = state["step"], state["nonfinite_steps"]
        logger.info("resumed at step %d from %s", self.step, path)
        return True

    def save(self) -> None:
        """Writes the checkpoint and the averaged weights, each by renaming a complete file; rank 0 alone does."""
        if self.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "nonfinite_steps": self.nonfinite_steps,
        }
        partial = self.out_dir / f"{CHECKPOINT_NAME}.tmp"
        torch.save(state, partial)
        os.replace(partial, self.out_dir / CHECKPOINT_NAME)
        self.export(self.out_dir / "weights")

    def export(self, folder: Path) -> None:
        """Writes the averaged weights as a loadable checkpoint folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "model.safetensors.tmp"
        save_file({k: v.contiguous() for k, v in self.ema.items()}, partial)
        os.replace(partial, folder / "model.safetensors")
        text = json.dumps({"model": self.config.model.to_dict(), "step": self.step}, indent=1)
        (folder / "config.json").write_text(text, encoding="utf-8")

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        current = self.model.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [current[k].detach() for k in self.ema], 1 - decay)

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One optimiser step; a non-finite loss or gradient is skipped and counted."""
        config = self.config
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        is_fast = config.bf16 and preferred_dtype(self.model.device) == torch.bfloat16
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=is_fast):
            loss, scores = self.training(batch, self.step, self.rank)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm))
        if not math.isfinite(norm):  # the same on every rank, as gradients are averaged
            self.nonfinite_steps += 1
            if self.nonfinite_steps > config.max_nonfinite_steps:
                torch.save(batch, self.out_dir / "nonfinite_batch.pt")
                raise RuntimeError(
                    f"more than {config.max_nonfinite_steps} non-finite steps; batch saved in {self.out_dir}"
                )
        else:
            self.optimizer.step()
            self._update_average()
        self.step += 1
        return {
            "loss": float(loss.detach()),
            "lr": rate,
            "norm": norm,
            **{f"dice{i + 1}": s for i, s in enumerate(scores)},
        }

    def fit(self) -> None:
        """Trains to ``max_steps`` or until SIGTERM, saving every few minutes and at the end."""
        config = self.config
        pool = load_pool(config.data_root, config.data_weights, config.model.preprocessing)
        stream = SampleStream(
            pool,
            config.seed,
            config.crops_at,
            config.sampler,
            config.model.preprocessing,
            self.rank,
            self.world_size,
        )
        loader = DataLoader(
            stream,
            batch_size=None,
            sampler=range(self.step, config.max_steps),
            num_workers=config.num_workers,
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)
        self.training.train()
        metrics: dict[str, list[float]] = {}
        started = last_save = time.monotonic()
        waited = 0.0
        fetched = time.monotonic()
        for batch in loader:
            waited += time.monotonic() - fetched
            for name, value in self.train_step(batch).items():
                metrics.setdefault(name, []).append(value)
            if self.step % config.log_every == 0:
                seconds = time.monotonic() - started
                self._log(metrics, seconds / config.log_every, waited / seconds)
                metrics, started, waited = {}, time.monotonic(), 0.0
            self.stop_requested = self._any_rank(self.stop_requested)
            if self.stop_requested or time.monotonic() - last_save > 60 * config.save_every_minutes:
                self.save()
                last_save = time.monotonic()
                if self.stop_requested:
                    break
            fetched = time.monotonic()
        self.save()

    def _any_rank(self, flag: bool) -> bool:
        if self.world_size == 1:
            return flag
        shared = torch.tensor(int(flag))
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared)

    def _request_stop(self, *_: Any) -> None:
        self.stop_requested = True

    def _log(self, metrics: dict[str, list[float]], seconds_per_step: float, wait_share: float) -> None:
        if self.rank:
            return
        row = {"step": self.step, **{k: round(sum(v) / len(v), 5) for k, v in metrics.items()}}
        row |= {"seconds_per_step": round(seconds_per_step, 3), "wait_share": round(wait_share, 3)}
        row |= {"nonfinite_steps": self.nonfinite_steps}
        with open(self.out_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        logger.info("%s", row)


def _leave_signals_to_the_trainer(_: int) -> None:
    """A batch scheduler signals the whole process group; a worker that died of it would take the last save with it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def pretrain(config: PretrainConfig, resume: str = "auto") -> Trainer:
    """Runs prompted training.

    Args:
        config: of the run.
        resume: ``auto`` continues a run found in ``out_dir``; ``never`` refuses to touch one.

    Returns:
        The trainer at its last step.

    Raises:
        ValueError: with ``never`` where a run exists.
    """
    trainer = Trainer(config)
    if resume == "never" and (trainer.out_dir / CHECKPOINT_NAME).exists():
        raise ValueError(f"{trainer.out_dir} holds a run; choose another out_dir or resume='auto'")
    if resume == "auto":
        trainer.resume()
    text = json.dumps(dataclasses.asdict(config), indent=1)
    (trainer.out_dir / "config.json").write_text(text, encoding="utf-8")
    trainer.fit()
    return trainer
