"""Prompted training as one module, so that a distributed wrapper sees every use of a weight."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.randomness import Randomness
from ..data.text_targets import WORD_TENSORS, Words
from ..models import ImageEmbedding, PromptableModel, PromptBatch
from ..models.prompt_encoder import ABSENT
from ..models.word_head import WordHint
from .episode import EpisodeResult, run_episode
from .losses import UNKNOWN_LOGIT, dice_loss, score_masks

if TYPE_CHECKING:
    from .config import PretrainConfig

_CONDITIONAL = re.compile(r"^(prompt_encoder|mask_decoder|word_head)\.")
NAME_WEIGHT = 0.5
"""Weight of the word head's loss beside an episode's."""
WORD_PARAMETERS = ("word_head.", "prompt_encoder.laterality_embedding.", "prompt_encoder.level_embedding.")
"""What the stage ``words`` trains: nothing that a prompt without words passes through."""
PLACE_WEIGHT = 0.1
"""Weight, within it, of telling the cells of a structure from all others of the tile."""


class PromptedTraining(nn.Module):
    """The model with an episode as its forward pass.

    Which weights an episode uses depends on its prompts: a box uses others than a click. Processes that play different
    episodes would then disagree on which gradients to exchange. So with several of them every weight that may be left
    out takes part with a factor of zero.

    Args:
        model: on its device.
        config: of the run.
    """

    def __init__(self, model: PromptableModel, config: PretrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.score = score_masks
        if not config.train_encoder:
            model.image_encoder.requires_grad_(False)
        if not config.train_words:
            for name, parameter in model.named_parameters():
                if name.startswith((*WORD_PARAMETERS, "prompt_encoder.text_proj.")):
                    parameter.requires_grad_(False)

    def forward(
        self, batch: dict[str, Tensor], step: int, index: int = 0, clicks: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]] | EpisodeResult:
        """Plays one episode, a pure function of (seed, step, index) and the weights.

        Args:
            batch: ``image`` (B, 1, D, H, W), ``targets`` (B, P, D, H, W) bool, ``spacing_mm`` (B, 3); ``is_known``
                (B, D, H, W) bool where voxels are neither object nor background; where there are any, names of the
                objects, see :class:`~promptseg.data.text_targets.Words`.
            step: of the optimiser; it alone decides the number of rounds, so that processes keep pace.
            index: of this batch within the step, over all processes and micro-steps.
            clicks: for validation: so many clicks, each at the deepest point of the error, without losses.

        Returns:
            Loss, and the mean ``dice1``, ``dice2``, ... after each round; for validation the episode as it went.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_encoder):
            embedding = self.model.encode_image(batch["image"], batch["spacing_mm"])
        if clicks:
            prompts, is_known = self.config.prompts, batch.get("is_known")
            return run_episode(self.model, embedding, batch["targets"], clicks, None, prompts, is_known=is_known)
        rounds = 1 + int(
            np.random.default_rng((self.config.seed, step, 1)).choice(
                len(self.config.round_probabilities), p=self.config.round_probabilities
            )
        )
        randomness = Randomness((self.config.seed, step, index, 2), batch["image"].device)
        words = Words(**{name: batch[name].flatten(0, 1) for name in WORD_TENSORS}) if "text" in batch else None
        result = run_episode(
            self.model,
            embedding,
            batch["targets"],
            rounds,
            randomness,
            self.config.prompts,
            words,
            self.config.scored_rounds,
            self.score,
            batch.get("is_known"),
        )
        loss, measured = result.loss + self._zero(), {f"dice{i + 1}": s for i, s in enumerate(result.dice)}
        if self.config.train_words and self.model.word_head is not None and "name_text" in batch:
            hint_loss = name_loss(self.model, embedding, batch)
            loss, measured = loss + NAME_WEIGHT * hint_loss, {**measured, "names": hint_loss.detach()}
        return loss, measured

    def _zero(self) -> Tensor | float:
        """0, with several processes as a function of every weight that an episode may leave out."""
        if not dist.is_initialized():
            return 0.0
        parts = [p.sum() for n, p in self.model.named_parameters() if _CONDITIONAL.match(n) and p.requires_grad]
        return 0.0 * torch.stack(parts).sum()


class WordTraining(nn.Module):
    """The word head, and what sides and levels add to a word: all else stays bit-equal, and with it all answers to
    clicks, boxes and masks.

    Args:
        model: with a word head, on its device.
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.model = model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(WORD_PARAMETERS))

    def forward(self, batch: dict[str, Tensor], step: int, index: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch's names; ``step`` and ``index`` are those of other stages."""
        with torch.no_grad():
            embedding = self.model.encode_image(batch["image"], batch["spacing_mm"])
        loss = name_loss(self.model, embedding, batch)
        return loss, {"names": loss.detach()}


def name_loss(model: PromptableModel, embedding: ImageEmbedding, batch: dict[str, Tensor]) -> Tensor:
    """Loss of the word head: where structures lie that were named, and whether they are there.

    Args:
        model: with a word head.
        embedding: of B tiles.
        batch: see :func:`~promptseg.data.text_targets.draw_names`, for B tiles.

    Returns:
        A scalar, 0 where nothing was named.
    """
    prompts = PromptBatch(
        batch["name_text"].new_zeros(*batch["name_level"].shape, 1, 3),
        torch.full_like(batch["name_level"], ABSENT)[..., None],
        text=batch["name_text"][:, :, None],
        text_laterality=batch["name_laterality"][:, :, None],
        text_level=batch["name_level"][:, :, None],
    )
    is_asked = batch["name_is_present"]  # (B, K)
    assert model.word_head is not None
    hint = model.word_head(embedding, model.prompt_encoder.embed_text(prompts), is_asked[..., None])
    return hint_loss(hint, batch["name_share"], is_asked)


def hint_loss(hint: WordHint, share: Tensor, is_asked: Tensor) -> Tensor:
    """Loss of what the word head says of K structures on B tiles.

    Args:
        hint: what it says.
        share: (B, K, d, h, w), see :func:`~promptseg.data.text_targets.cell_share`; negative where it is unknown.
        is_asked: (B, K) bool: which structures count.

    Returns:
        A scalar: the mean over tiles, of which one of which nothing was asked counts as 0.
    """
    logits = hint.mask_logits.float()
    is_known = (share >= 0).float()
    share = share.float().clamp(min=0)
    is_there = share.flatten(2).amax(dim=2) > 0
    cells = F.binary_cross_entropy_with_logits(logits, share, reduction="none") * (1 + 4 * share) * is_known
    cells = cells.flatten(2).sum(dim=2) / is_known.flatten(2).sum(dim=2).clamp(min=1)
    logits = logits.masked_fill(is_known == 0, UNKNOWN_LOGIT)
    shape = dice_loss(logits, share) * is_there
    where = share.flatten(2) / share.flatten(2).sum(dim=2, keepdim=True).clamp(min=1)
    place = -(where * logits.flatten(2).log_softmax(dim=2)).sum(dim=2)  # of one cell among hundreds, as a classifier
    presence = F.binary_cross_entropy_with_logits(hint.presence_logits.float(), is_there.float(), reduction="none")
    presence = presence * torch.maximum(is_known.flatten(2).amin(dim=2), is_there.float())
    each = cells + 0.5 * shape + PLACE_WEIGHT * place + 0.5 * presence
    # The mean over a tile's names, then over tiles: tiles may be split over micro-batches and processes in any way.
    return ((each * is_asked).sum(dim=1) / is_asked.sum(dim=1).clamp(min=1)).mean()
