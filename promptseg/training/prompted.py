"""Prompted training as one module, so that a distributed wrapper sees every use of a weight."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..data.randomness import Randomness
from ..data.text_targets import WORD_TENSORS, Words
from ..models import PromptableModel
from .episode import EpisodeResult, run_episode

if TYPE_CHECKING:
    from .config import PretrainConfig

_CONDITIONAL = re.compile(r"^(prompt_encoder|mask_decoder)\.")


class PromptedTraining(nn.Module):
    """The model with an episode as its forward pass.

    Which weights an episode uses depends on its prompts: a box uses others than a click. Processes that play different
    episodes would then disagree on which gradients to exchange. So every weight that may be left out takes part with
    a factor of zero.

    Args:
        model: on its device.
        config: of the run.
    """

    def __init__(self, model: PromptableModel, config: PretrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(
        self, batch: dict[str, Tensor], step: int, index: int = 0, clicks: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]] | EpisodeResult:
        """Plays one episode, a pure function of (seed, step, index) and the weights.

        Args:
            batch: ``image`` (B, 1, D, H, W), ``targets`` (B, P, D, H, W) bool, ``spacing_mm`` (B, 3); where there are
                any, names of the objects, see :class:`~promptseg.data.text_targets.Words`.
            step: of the optimiser; it alone decides the number of rounds, so that processes keep pace.
            index: of this batch within the step, over all processes and micro-steps.
            clicks: for validation: so many clicks, each at the deepest point of the error, without losses.

        Returns:
            Loss, and the mean ``dice1``, ``dice2``, ... after each round; for validation the episode as it went.
        """
        embedding = self.model.encode_image(batch["image"], batch["spacing_mm"])
        if clicks:
            return run_episode(self.model, embedding, batch["targets"], clicks, None, self.config.prompts)
        rounds = 1 + int(
            np.random.default_rng((self.config.seed, step, 1)).choice(
                len(self.config.round_probabilities), p=self.config.round_probabilities
            )
        )
        randomness = Randomness((self.config.seed, step, index, 2), batch["image"].device)
        words = Words(**{name: batch[name].flatten(0, 1) for name in WORD_TENSORS}) if "text" in batch else None
        result = run_episode(self.model, embedding, batch["targets"], rounds, randomness, self.config.prompts, words)
        return result.loss + self._zero(), {f"dice{i + 1}": score for i, score in enumerate(result.dice)}

    def _zero(self) -> Tensor:
        """0, as a function of every weight that an episode may leave out."""
        parts = [p.sum() for n, p in self.model.named_parameters() if _CONDITIONAL.match(n) and p.requires_grad]
        return 0.0 * torch.stack(parts).sum()
