"""Episodes of fine-tuning: the prompts that a user gives, or a label's learned tokens and then corrections.

Users are simulated on the CPU, wherever the model computes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ..adapters.tokens import LabelTokens
from ..data.prompt_simulator import PromptSimulatorConfig, corrupt_mask, sample_points
from ..models import DecoderOutput, ImageEmbedding, PromptableModel, PromptBatch
from ..models.tokens import decode_with_tokens
from .episode import EpisodeState, correct_episode, open_episode, round_loss
from .finetune_data import View
from .losses import dice_score

ROUND_PROBABILITIES = (0.65, 0.2, 0.1, 0.05)
"""Probability of an episode of 1, 2, ... rounds of prompts."""
AUTOMATIC_ROUND_PROBABILITIES = (0.85, 0.1, 0.05)
"""The same where the first one is a label's tokens."""
COARSE_MASK_SHARE = 0.5
"""Share of automatic episodes that begin from a coarse mask, as the coarser zoom level hands it down to weights
without a word head."""
PRESENCE_WEIGHT = 0.3
"""Weight of the presence estimate in automatic episodes, where it decides, beside its small share of every round."""
ABSENT_SHARE = 0.1
"""Share of objects of automatic episodes that may be a label which the crop does not show."""


def choose_targets(
    view: View, values: list[int], count: int, rng: np.random.Generator, may_be_absent: bool, primary: int | None
) -> tuple[Tensor, list[int]]:
    """Objects to ask for in a crop.

    Args:
        view: the crop.
        values: the labels.
        count: how many.
        rng: source of randomness.
        may_be_absent: also labels that are not in the crop; where it shows none, they are taken in any case.
        primary: asked for first, where it is in the crop.

    Returns:
        (count, D, H, W) bool, and the numbers of the labels in ``values``.
    """
    present = [v for v in view.values() if v in values]
    chosen: list[int] = []
    for number in range(count):
        is_absent = not present or may_be_absent and rng.random() < ABSENT_SHARE
        pool = values if is_absent else [v for v in present if v not in chosen] or present
        value = primary if number == 0 and primary in present and not is_absent else pool[int(rng.integers(len(pool)))]
        chosen.append(int(value))  # type: ignore[arg-type]
    targets = torch.stack([view.labels == v for v in chosen])
    return targets, [values.index(v) for v in chosen]


def play_episode(
    model: PromptableModel,
    embedding: ImageEmbedding,
    targets: Tensor,
    tokens: Tensor | None,
    generator: torch.Generator,
    config: PromptSimulatorConfig,
) -> tuple[Tensor, list[float]]:
    """Prompts as at inference, or a label's tokens; then corrections of what is wrong.

    Without tokens it begins with a click, a box, a stroke or a mask. With them it begins with the tokens, alone or (for
    weights without a word head) with a coarse mask, and the corrections go without them.

    Args:
        model: with the adapter in it.
        embedding: of B tiles.
        targets: (B, P, D, H, W) bool; an empty one gets no click and counts little, or is a label that is absent.
        tokens: (B, P, T, C); None for the prompts of a user.
        generator: source of randomness.
        config: how prompts are drawn.

    Returns:
        loss, the mean over rounds; and the mean Dice after each.
    """
    flat = rearrange(targets, "b p d h w -> (b p) d h w")
    coarse = 0.0 if model.word_head is not None else COARSE_MASK_SHARE
    state = open_episode(flat, generator, config) if tokens is None else open_automatic(flat, generator, coarse)
    num_tiles = embedding.tokens.shape[0]
    target = state.target.to(model.device)
    probabilities = torch.tensor(ROUND_PROBABILITIES if tokens is None else AUTOMATIC_ROUND_PROBABILITIES)
    num_rounds = 1 + int(torch.multinomial(probabilities, 1, generator=generator))
    losses, scores = [], []
    for number in range(num_rounds):
        is_ambiguous = state.ambiguous if state.is_ambiguous is None else state.is_ambiguous
        output = _decode(model, embedding, state, tokens if number == 0 else None, num_tiles)
        loss, best = round_loss(output, target, is_ambiguous)
        if tokens is not None and number == 0:
            loss = loss + PRESENCE_WEIGHT * presence_loss(output, target)
        losses.append(loss)
        flat = rearrange(output.mask_logits.detach(), "b p m d h w -> (b p) m d h w").float().cpu()
        logits = flat[torch.arange(len(flat)), best.cpu()]
        scores.append(float(dice_score(logits > 0, state.target).mean()))
        if number + 1 < num_rounds:
            correct_episode(state, logits, generator, config)
    return torch.stack(losses).mean(), scores


def open_automatic(target: Tensor, generator: torch.Generator, coarse_share: float) -> EpisodeState:
    """Beginning of an automatic episode for objects (N, D, H, W): nothing, or with a probability a coarse mask."""
    count = len(target)
    state = EpisodeState(target, torch.zeros(count, 1, 3), torch.full((count, 1), -1), ambiguous=False)
    if float(torch.rand(1, generator=generator)) < coarse_share:
        state.mask_logits = corrupt_mask(target, generator)
        state.mask_is_present = torch.rand(count, generator=generator) < 0.9
    return state


def on_device(prompts: PromptBatch, device: torch.device) -> PromptBatch:
    """Prompts where the model computes."""
    given = {f.name: getattr(prompts, f.name) for f in dataclasses.fields(prompts)}
    return dataclasses.replace(prompts, **{k: v.to(device) for k, v in given.items() if v is not None})


def presence_loss(output: DecoderOutput, target: Tensor) -> Tensor:
    """Cross entropy of the estimate whether each of the objects (N, D, H, W) is in the crop."""
    present = target.flatten(1).any(dim=1).float()
    return nn.functional.binary_cross_entropy_with_logits(output.presence_logits.flatten().float(), present)


def _decode(
    model: PromptableModel, embedding: ImageEmbedding, state: EpisodeState, tokens: Tensor | None, num_tiles: int
) -> DecoderOutput:
    prompts = on_device(state.batch(num_tiles), model.device)
    if tokens is None:
        return model.decode(embedding, prompts, multimask=state.ambiguous)
    return decode_with_tokens(model, embedding, prompts, tokens)


@torch.no_grad()
def validate_crops(
    model: PromptableModel, views: list[View], values: list[int], tokens: LabelTokens | None, batch_size: int
) -> dict[str, float]:
    """Mean Dice on crops, one click at the deepest place and, with tokens, without a prompt.

    Args:
        model: with the adapter in it.
        views: crops that each show at least one label.
        values: label values, in the order of the tokens.
        tokens: of the labels; None for an adapter without automatic mode.
        batch_size: crops at a time.

    Returns:
        ``click`` and ``automatic`` (0 to 1), those that apply.
    """
    generator = torch.Generator().manual_seed(0)
    clicks: list[float] = []
    automatic: list[float] = []
    device = model.device
    for first in range(0, len(views), batch_size):
        part = views[first : first + batch_size]
        embedding = model.encode_image(
            torch.stack([v.image for v in part]).to(device), torch.stack([v.spacing_mm for v in part]).to(device)
        )
        for number, view in enumerate(part):
            present = [v for v in view.values() if v in values]
            if not present:
                continue
            targets = torch.stack([view.labels == v for v in present])
            points, _ = sample_points(targets, generator, 1.0)
            state = EpisodeState(targets, points[:, None].float(), torch.ones(len(present), 1, dtype=torch.long))
            output = model.decode(embedding[number], on_device(state.batch(1), device), multimask=True)
            trusted = output.iou_scores[0].argmax(dim=1).cpu()
            logits = output.mask_logits[0].cpu()[torch.arange(len(present)), trusted]
            clicks += dice_score(logits > 0, targets).tolist()
            if tokens is not None:
                rows = tokens(torch.tensor([values.index(v) for v in present], device=device))[None]
                nothing = EpisodeState(targets, points[:, None].float(), torch.full((len(present), 1), -1))
                output = decode_with_tokens(model, embedding[number], on_device(nothing.batch(1), device), rows)
                automatic += dice_score(output.mask_logits[0, :, 0].cpu() > 0, targets).tolist()
    found = {"click": float(np.mean(clicks)) if clicks else 0.0}
    if tokens is not None:
        found["automatic"] = float(np.mean(automatic)) if automatic else 0.0
    return found
