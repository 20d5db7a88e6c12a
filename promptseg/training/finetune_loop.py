"""The loop of a fine-tuning: steps, validations, and when to stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..adapters import Adapter, AdapterConfig, AdapterLabel
from ..adapters.config import LOW_RANK_METHODS
from ..adapters.trainable import TrainableAdapter
from ..data.crops import TrainingVolume
from ..data.prompt_simulator import PromptSimulatorConfig
from ..data.text_targets import cell_share
from ..models import ImageEmbedding, PromptableModel
from ..models.numerics import embedding_bytes, preferred_dtype
from ..structures import known_words
from .finetune_config import FinetuneConfig
from .finetune_data import View, draw_view
from .finetune_episode import choose_targets, play_episode, validate_crops
from .finetune_views import ViewCache, hash_of
from .muon import MuonAndAdamW
from .prompted import hint_loss

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.03
"""Share of the budget, be it of time or of steps, in which the learning rate rises."""
TOKEN_RATE = 0.03
"""Peak learning rate of labels' tokens: they have far to go, to where words lie."""
HINT_WEIGHT = 0.5
"""Weight of where the word head sees labels, beside an episode's loss."""
WHOLE_RATE = 1.2
"""Learning rate of convolutions that an adapter holds whole, relative to that of its low-rank changes."""
MIN_VIEWS_PER_LABEL, MAX_VIEWS_PER_LABEL = 4, 64
"""Crops of a label in a case whose embeddings are kept, as far as the memory goes."""
ANYWHERE = 0.25
"""Crops of any place that are kept, relative to those of a label."""
VALIDATION_SHARE = 0.1
"""Most of the time that validations may take."""
TOKENS_PER_LABEL = 4
MAX_VALIDATION_VIEWS = 24
MAX_NONFINITE_STEPS = 20
Progress = Callable[[float, str], None]
"""Called with the share of the budget that is spent, and one line."""


@dataclass(frozen=True)
class FinetuneBatch:
    """What a step learns from.

    Attributes:
        embedding: of B crops.
        targets: (B, P, D, H, W) bool, objects to ask for; on the CPU.
        numbers: (B, P) which labels they are; on the CPU.
        shares: (B, L, D/8, H/8, W/8) of every label, see :func:`~promptseg.data.text_targets.cell_share`; on the CPU.
    """

    embedding: ImageEmbedding
    targets: Tensor
    numbers: Tensor
    shares: Tensor


class Finetuner:
    """Owns the model with the adapter in it, the cases, and the best state so far.

    Args:
        config: of the run.
        model: base weights, changed in place while training.
        base: name of the base, its revision and the sha256 of its weights.
        training: cases to train on.
        validation: cases held out; may be empty.
        names: label value -> name.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        model: PromptableModel,
        base: tuple[str, str, str],
        training: list[TrainingVolume],
        validation: list[TrainingVolume],
        names: dict[int, str] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.model = config, model
        self.training, self.validation = training, validation
        labels = describe_labels(training, names or {})
        self.values = [label.value for label in labels]
        holds_convolutions = config.convolutions and config.method in LOW_RANK_METHODS
        self.adapter_config = AdapterConfig(
            method=config.method,
            scope=config.scope,
            rank=config.rank,
            alpha=2.0 * config.rank,
            tunes_convolutions=holds_convolutions,
            tunes_pyramid=holds_convolutions and config.scope != "decoder",
            holds_changes=True,
            tunes_words=config.automatic and config.method != "full" and model.word_head is not None,
            base=base[0],
            base_revision=base[1],
            base_digest=base[2],
            tile_size=model.config.tile_size,
            preprocessing=model.config.preprocessing,
            labels=tuple(labels),
            tokens_per_label=TOKENS_PER_LABEL if config.automatic else 0,
        )
        self.prompts = PromptSimulatorConfig(box_share=0.15, mask_share=0.2, scribble_share=0.08, lasso_share=0.04)
        self.trainable = TrainableAdapter(model, self.adapter_config)
        if self.trainable.tokens is not None:
            self.trainable.tokens.start_from(known_words(model, [label.name for label in labels]))
        self.optimizer = MuonAndAdamW(*self._groups(), betas=(0.9, 0.98))
        encoder = model.image_encoder
        self.keeps_embeddings = self.trainable.pyramid_is_frozen
        frozen_part = encoder if self.trainable.encoder_is_frozen else encoder.tokenize
        self.views = ViewCache(frozen_part, config.cache_megabytes * 2**20)
        self.validation_views = self._validation_views()
        self.step = 0
        self.nonfinite_steps = 0
        self.history: list[dict[str, float]] = []

    def _groups(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Parameters with their learning rates: kernels for Muon; low-rank changes, norms and embeddings for AdamW."""
        parameters = self.trainable.parameters()
        embeddings = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        tokens = [p for k, p in parameters.items() if k == "label_tokens"]
        others = [p for p in parameters.values() if p.ndim <= 1 or id(p) in embeddings]
        matrices = {
            k: p for k, p in parameters.items() if p.ndim > 1 and id(p) not in embeddings and k != "label_tokens"
        }
        whole = [p for k, p in matrices.items() if not k.startswith("delta.")]
        low_rank = [p for k, p in matrices.items() if k.startswith("delta.")]
        rate = self.config.peak_learning_rate
        whole_rate = WHOLE_RATE * rate if self.adapter_config.is_low_rank else rate
        for_muon = [{"params": whole, "peak": whole_rate, "weight_decay": 0.01}]
        for_adamw = [
            {"params": low_rank, "peak": rate, "weight_decay": 0.01},
            {"params": others, "peak": rate, "weight_decay": 0.0},
            {"params": tokens, "peak": TOKEN_RATE, "weight_decay": 0.0},
        ]
        muon, adamw = ([{**g, "lr": 0.0} for g in groups if g["params"]] for groups in (for_muon, for_adamw))
        return muon, adamw

    def _validation_views(self) -> list[View]:
        """Fixed crops of the held-out cases, each label in the middle of one."""
        rng = np.random.default_rng(self.config.seed)
        wanted = [(v, value) for v in self.validation for value in self.values if value in v.objects]
        if len(wanted) > MAX_VALIDATION_VIEWS:
            wanted = [wanted[n] for n in np.linspace(0, len(wanted) - 1, MAX_VALIDATION_VIEWS).round().astype(int)]
        size, preprocessing = self.model.config.tile_size, self.model.config.preprocessing
        return [draw_view(v, rng, size, preprocessing, value=value, centred=True) for v, value in wanted]

    def draw_batch(self, step: int) -> FinetuneBatch:
        """What a step learns from, a function of seed and step."""
        config = self.config
        rng = np.random.default_rng((config.seed, step))
        is_automatic = self.is_automatic(step)
        views, targets, numbers = [], [], []
        for _ in range(config.batch_size):
            volume = self.training[int(rng.integers(len(self.training)))]
            present = [v for v in self.values if v in volume.objects]
            anywhere = not present or is_automatic and rng.random() < 0.15
            value = None if anywhere else present[int(rng.integers(len(present)))]
            view = self._view(volume, value, rng)
            target, number = choose_targets(view, self.values, config.objects_per_crop, rng, is_automatic, value)
            views.append(view)
            targets.append(target)
            numbers.append(number)
        labels = torch.stack([view.labels for view in views])
        values = torch.tensor(self.values)[:, None, None, None]
        shares = cell_share(labels[:, None] == values)
        return FinetuneBatch(self._encode(views), torch.stack(targets), torch.tensor(numbers), shares)

    def _view(self, volume: TrainingVolume, value: int | None, rng: np.random.Generator) -> View:
        """A fresh crop; or, where the encoder's convolutions are frozen, one of those whose embeddings are kept."""
        config, model = self.config, self.model.config

        def draw(source: np.random.Generator) -> View:
            return draw_view(
                volume, source, model.tile_size, model.preprocessing, config.augmentation, config.mirror, value
            )

        if not self.keeps_embeddings:
            return draw(rng)
        number = int(rng.integers(self._num_views(value)))
        key = (volume.case, value, number)
        return self.views.view(key, lambda: draw(np.random.default_rng((config.seed, hash_of(key)))))

    def _num_views(self, value: int | None) -> int:
        """How many crops of a label in a case are drawn: as many as can be kept, fewer of anywhere in it."""
        room = self.views.max_bytes // embedding_bytes(self.model)
        fitting = int(room / len(self.training) / (len(self.values) + ANYWHERE))
        number = min(max(fitting, MIN_VIEWS_PER_LABEL), MAX_VIEWS_PER_LABEL)
        return number if value is not None else max(1, int(ANYWHERE * number))

    def _encode(self, views: list[View]) -> ImageEmbedding:
        device = self.model.device
        if self.keeps_embeddings:
            kept = ImageEmbedding.concatenate([self.views.embed(view, device) for view in views])
            return kept if self.trainable.encoder_is_frozen else self.model.image_encoder.transform(kept)
        image = torch.stack([v.image for v in views]).to(device)
        return self.model.encode_image(image, torch.stack([v.spacing_mm for v in views]).to(device))

    def is_automatic(self, step: int) -> bool:
        """Whether a step practises finding labels without a prompt."""
        if self.trainable.tokens is None:
            return False
        return float(np.random.default_rng((self.config.seed, step, 1)).random()) < self.config.automatic_share

    def train_step(self, progress: float) -> float:
        """One optimiser step at a share of the budget, 0 to 1; returns the loss. Non-finite ones are skipped."""
        for group in self.optimizer.param_groups:
            warm = min(1.0, 0.1 + progress / WARMUP_SHARE)
            group["lr"] = group["peak"] * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        batch = self.draw_batch(self.step)
        with self._autocast():
            tokens = None
            if self.is_automatic(self.step) and self.trainable.tokens is not None:
                tokens = self.trainable.tokens(batch.numbers.to(self.model.device))
            loss, _ = play_episode(self.model, batch.embedding, batch.targets, tokens, generator, self.prompts)
            loss = loss + HINT_WEIGHT * self._hint_loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(self.trainable.parameters().values()), 1.0)
        value = float(loss.detach())
        if math.isfinite(float(norm)) and math.isfinite(value):
            self.optimizer.step()
        else:
            self.nonfinite_steps += 1
            if self.nonfinite_steps > MAX_NONFINITE_STEPS:
                raise ValueError(
                    f"more than {MAX_NONFINITE_STEPS} steps gave no finite loss; lower the learning rate "
                    f"({self.config.peak_learning_rate}) or look for images with broken intensities"
                )
        self.step += 1
        return value

    def _hint_loss(self, batch: FinetuneBatch) -> Tensor | float:
        """Of where the word head sees each label: without the decoder, so that all of them cost next to nothing."""
        model, tokens = self.model, self.trainable.tokens
        if tokens is None or model.word_head is None:
            return 0.0
        words = tokens.weight[None].expand(len(batch.shares), -1, -1, -1)
        are_present = torch.ones(words.shape[:3], dtype=torch.bool, device=words.device)
        hint = model.word_head(batch.embedding, words, are_present)
        return hint_loss(hint, batch.shares.to(words.device), are_present[..., 0])

    def _autocast(self) -> torch.autocast:
        device = self.model.device
        return torch.autocast(device.type, torch.bfloat16, enabled=preferred_dtype(device) == torch.bfloat16)

    def validate(self) -> dict[str, float]:
        """Mean Dice on the held-out crops; ``score`` is the mean of what applies."""
        self.model.eval()
        with self._autocast():
            found = validate_crops(
                self.model, self.validation_views, self.values, self.trainable.tokens, self.config.batch_size
            )
        return {**found, "score": sum(found.values()) / len(found)}

    def fit(self, progress: Progress | None = None, must_stop: Callable[[], bool] = lambda: False) -> Adapter:
        """Trains until the budget is spent or the held-out cases gain nothing more; returns the best adapter.

        Args:
            progress: told how far it is.
            must_stop: asked before each step; a yes ends the training, as if its budget were spent.

        Raises:
            ValueError: if the time was over before the first step.
            KeyboardInterrupt: if it is stopped before the first step.
        """
        config = self.config
        started = time.monotonic()
        best, best_score, stale = self.trainable.state(), -1.0, 0
        if self.validation_views:
            self.history.append({"step": 0.0, **self.validate()})
            best_score = self.history[0]["score"]
        losses: list[float] = []
        next_validation = 0.0
        while True:
            spent = max(self.step / config.max_steps, (time.monotonic() - started) / (60 * config.minutes))
            is_stopped = must_stop()
            is_last = spent >= 1 or is_stopped
            if is_last and not self.step:
                self._explain_nothing(is_stopped)
            is_due = self.step % config.validate_every == 0 and time.monotonic() >= next_validation
            if (is_last or is_due) and self.step and self.validation_views:
                began = time.monotonic()
                row = {"step": float(self.step), "loss": float(np.mean(losses or [0.0])), **self.validate()}
                self.history.append(row)
                next_validation = time.monotonic() + (time.monotonic() - began) / VALIDATION_SHARE
                losses.clear()
                logger.info("%s", {k: round(v, 4) for k, v in row.items()})
                if row["score"] > best_score:
                    best, best_score, stale = self.trainable.state(), row["score"], 0
                else:
                    stale += 1
            if is_stopped:
                logger.warning("stopped after %d steps: what was learned so far is kept", self.step)
            if is_last or stale >= config.patience:
                break
            losses.append(self.train_step(spent))
            if progress is not None:
                progress(spent, f"step {self.step}, loss {losses[-1]:.3f}")
        if self.validation_views:
            self.trainable.load_state(best)
        self.model.eval()
        return self.trainable.export(Path(config.output).name or "adapter")

    def _explain_nothing(self, is_stopped: bool) -> None:
        if is_stopped:
            raise KeyboardInterrupt
        raise ValueError(
            f"minutes={self.config.minutes}: over before the first step, as the first validation takes longer; give "
            "more, or validation_share=0"
        )


def describe_labels(volumes: list[TrainingVolume], names: dict[int, str]) -> list[AdapterLabel]:
    """Every label that occurs, of those that have a name where any has one, with its typical extent.

    Raises:
        ValueError: if there is none.
    """
    extents: dict[int, list[float]] = {}
    for volume in volumes:
        for value in volume.objects:
            extents.setdefault(int(value), []).append(volume.extents_mm[value])
    if not extents:
        raise ValueError("no label map has a label of 8 voxels or more: there is nothing to learn; check the labels")
    return [
        AdapterLabel(value, names.get(value, f"label {value}"), float(np.quantile(found, 0.9)))
        for value, found in sorted(extents.items())
        if value in names or not names
    ]
