"""An episode of prompted training: a first prompt, then corrections, with every round's loss summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..data.prompt_simulator import PromptSimulatorConfig, correct, corrupt_mask, draw_boxes, sample_points
from ..data.randomness import Randomness, RandomSource, hand_over
from ..data.stroke_simulator import draw_strokes
from ..data.text_targets import Words
from ..models import DecoderOutput, ImageEmbedding, PromptableModel, PromptBatch
from ..models.prompt_encoder import ABSENT
from .losses import UNKNOWN_LOGIT, dice_score, iou, score_masks

PRESENCE_WEIGHT, TEXT_PRESENCE_WEIGHT = 0.1, 0.5
"""Weights of the presence loss, for objects without and with a name."""
BOX_ALONE_SHARE = 0.7
"""Share of the boxes that open an episode without a click beside them."""


@dataclass
class EpisodeState:
    """Prompts of N = B * P objects accumulated over rounds, as a user accumulates them.

    Attributes:
        target: (N, D, H, W) bool.
        is_known: (N, D, H, W) bool: voxels that are object or background; None for all.
        points: (N, n, 3) float.
        labels: (N, n) int64, -1 for points that pad.
        boxes: (N, 1, 6) float or None, with ``box_is_present`` (N, 1).
        strokes: (N, 2, D, H, W) float or None.
        mask_logits: (N, D, H, W) or None, with ``mask_is_present`` (N,).
        ambiguous: some object was given nothing but one click, which may mean several things: candidates are wanted.
        is_ambiguous: (N,) bool: which; None for ``ambiguous`` everywhere.
        words: names of the objects, for those that have one; they stay over all rounds.
    """

    target: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    box_is_present: Tensor | None = None
    strokes: Tensor | None = None
    mask_logits: Tensor | None = None
    mask_is_present: Tensor | None = None
    ambiguous: bool = True
    is_ambiguous: Tensor | None = None
    words: Words | None = None
    is_known: Tensor | None = None

    def add_points(self, points: Tensor, labels: Tensor) -> None:
        """Adds (N, k, 3) points and their (N, k) labels."""
        self.points = torch.cat([self.points, points.float()], dim=1)
        self.labels = torch.cat([self.labels, labels], dim=1)

    def batch(self, num_tiles: int) -> PromptBatch:
        """The prompts as the model takes them."""

        def unfold(x: Tensor | None) -> Tensor | None:
            return None if x is None else rearrange(x, "(b p) ... -> b p ...", b=num_tiles)

        points, labels = unfold(self.points), unfold(self.labels)
        assert points is not None and labels is not None
        return PromptBatch(
            points,
            labels,
            boxes=unfold(self.boxes),
            boxes_are_present=unfold(self.box_is_present),
            strokes=unfold(self.strokes),
            mask_logits=unfold(self.mask_logits),
            masks_are_present=unfold(self.mask_is_present),
            **({} if self.words is None else {k: unfold(v[:, None]) for k, v in self.words.tensors().items()}),
        )


@dataclass(frozen=True)
class EpisodeResult:
    """What an episode gives.

    Attributes:
        loss: scalar, the mean over the rounds that are scored.
        dice: the mean Dice after each round, scalars.
        logits: (rounds, N, D, H, W) of the mask after each round, of an episode without randomness; else empty.
        points: (N, n, 3) given.
        labels: (N, n) of them, -1 for points that pad.
    """

    loss: Tensor
    dice: list[Tensor]
    logits: Tensor
    points: Tensor
    labels: Tensor


def open_episode(
    target: Tensor, source: RandomSource | None, config: PromptSimulatorConfig, words: Words | None = None
) -> EpisodeState:
    """First prompts: for each object a click, a box, a stroke, a coarse mask, or a click with one of them.

    One with a name has it beside these, or instead of them; it is all that an object has which is not there.

    Args:
        target: (N, D, H, W) bool.
        source: of randomness; None for a click at the deepest point.
        config: how prompts are drawn.
        words: names of the objects; None where none has one.
    """
    count = len(target)
    randomness = None if source is None else Randomness.of(source, target.device)
    points, found = sample_points(target, randomness, config.deepest_share)
    labels = torch.where(found, 1, ABSENT)[:, None]
    state = EpisodeState(target, points[:, None].float(), labels, words=words)
    if randomness is None:
        return state
    opening, company, stroke = randomness.host.random((3, count))
    has_box = opening < config.box_share
    has_mask = ~has_box & (opening < config.box_share + config.mask_share)
    has_stroke = ~has_box & ~has_mask & (stroke < config.scribble_share + config.lasso_share)
    is_alone = (has_box & (company < BOX_ALONE_SHARE)) | (has_mask & (company < config.mask_alone_share))
    state.labels = torch.where(_on(is_alone, target)[:, None], ABSENT, labels)
    if has_box.any():
        state.boxes = draw_boxes(target, randomness, config)[:, None]
        state.box_is_present = _on(has_box, target)[:, None]
    if has_mask.any():
        state.mask_logits = corrupt_mask(target, randomness)
        state.mask_is_present = _on(has_mask, target)
    if has_stroke.any():
        is_scribble = stroke < config.scribble_share
        add_strokes(state, points, labels[:, 0], target, has_stroke, is_scribble, randomness)
    is_ambiguous = ~(has_box | has_mask | has_stroke)
    state.ambiguous, state.is_ambiguous = bool(is_ambiguous.any()), _on(is_ambiguous, target)
    if words is not None:
        is_alone = words.text_is_present & ((randomness.uniform(count) < config.text_alone_share) | ~found)
        _leave_words_alone(state, is_alone)
        state.is_ambiguous = state.is_ambiguous & ~words.text_is_present
    return state


def _leave_words_alone(state: EpisodeState, is_alone: Tensor) -> None:
    """Takes back every prompt but its name from the objects (N,) bool that are to be asked for by that alone."""
    state.labels = torch.where(is_alone[:, None], ABSENT, state.labels)
    if state.box_is_present is not None:
        state.box_is_present = state.box_is_present & ~is_alone[:, None]
    if state.mask_is_present is not None:
        state.mask_is_present = state.mask_is_present & ~is_alone
    if state.strokes is not None:
        state.strokes = state.strokes * ~is_alone[:, None, None, None, None]


def _on(flags: np.ndarray, like: Tensor) -> Tensor:
    """Flags drawn on the host as a tensor on the device."""
    return hand_over(flags, like.device)


def add_strokes(
    state: EpisodeState,
    points: Tensor,
    labels: Tensor,
    region: Tensor,
    has_stroke: np.ndarray,
    is_scribble: np.ndarray,
    randomness: Randomness,
) -> None:
    """Draws a scribble or a lasso through the points of some objects, inside their region.

    Args:
        state: to add to.
        points: (N, 3) voxels.
        labels: (N,) 1, 0, or -1 for nothing to draw.
        region: (N, D, H, W) bool: where the stroke may lie; it stays on its own side of the target.
        has_stroke: (N,) bool on the host.
        is_scribble: (N,) bool on the host; else a lasso.
        randomness: source.
    """
    chosen = has_stroke.nonzero()[0]
    rows = hand_over(chosen, region.device)
    signs = labels[rows]
    side = region[rows] & (state.target[rows] == (signs == 1)[:, None, None, None])
    kinds = ["scribble" if is_scribble[n] else "lasso" for n in chosen]
    drawn, keys = draw_strokes(side, points[rows], kinds, randomness)
    drawn = drawn * (signs != ABSENT)[:, None, None, None]
    if state.strokes is None:
        state.strokes = torch.zeros(len(region), 2, *region.shape[1:], device=region.device)
    channel = torch.where(signs == 0, 1, 0)
    state.strokes = state.strokes.index_put((rows, channel), torch.maximum(state.strokes[rows, channel], drawn))
    all_keys = points[:, None].repeat(1, keys.shape[1], 1)
    all_keys[rows] = keys
    key_labels = torch.where(_on(has_stroke, region), labels, ABSENT)
    state.add_points(all_keys, key_labels[:, None].expand(-1, keys.shape[1]))


def correct_episode(
    state: EpisodeState, logits: Tensor, source: RandomSource | None, config: PromptSimulatorConfig
) -> None:
    """Adds one correction to each object where ``logits`` (N, D, H, W) are wrong, and hands the mask back."""
    randomness = None if source is None else Randomness.of(source, logits.device)
    predicted = logits > 0
    if state.is_known is not None:
        predicted = predicted & state.is_known  # no user corrects what nobody knows
    points, labels = correct(state.target, predicted, randomness, config.deepest_share)
    if randomness is None:
        state.add_points(points[:, None], labels[:, None])
    else:
        draw = randomness.host.random(len(logits))
        has_stroke = draw < config.scribble_share + config.lasso_share
        if not has_stroke.all():
            click_labels = torch.where(_on(has_stroke, logits), ABSENT, labels)
            state.add_points(points[:, None], click_labels[:, None])
        if has_stroke.any():
            wrong = state.target ^ predicted
            add_strokes(state, points, labels, wrong, has_stroke, draw < config.scribble_share, randomness)
    state.mask_logits = logits
    is_handed = np.ones(len(logits), dtype=bool)
    if randomness is not None and config.mask_dropout:
        is_handed = randomness.host.random(len(logits)) >= config.mask_dropout
    state.mask_is_present = _on(is_handed, logits)
    state.ambiguous, state.is_ambiguous = False, None


def round_loss(
    output: DecoderOutput,
    target: Tensor,
    ambiguous: bool | Tensor,
    words: Words | None = None,
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = score_masks,
    is_known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of one round, and the index of each object's best candidate.

    Args:
        output: of B * P objects, M masks.
        target: (N, D, H, W) bool.
        ambiguous: the prompt may mean several things, for all or (N,): only the best candidate is pulled to the target,
            and the single mask a little. Without candidates (M = 1) it is not looked at.
        words: names of the objects; whether something is there at all is a question mostly for those.
        score: :func:`~promptseg.training.losses.score_masks`, or the same compiled.
        is_known: (N, D, H, W) bool: voxels that count; None for all.

    Returns:
        scalar loss and (N,) int64.
    """
    logits = _leave_out_unknown(rearrange(output.mask_logits, "b p m d h w -> (b p) m d h w"), is_known)
    losses, actual = score(logits, target)  # (N, M)
    best = actual.argmax(dim=1)
    quality = rearrange(output.iou_logits, "b p m -> (b p) m").float()
    quality_loss = F.binary_cross_entropy_with_logits(quality, actual)  # least where the two are equal
    drawn = losses[:, 0]
    if logits.shape[1] > 1:
        is_ambiguous = torch.as_tensor(ambiguous, device=logits.device).expand(len(logits))
        candidates = losses[:, 1:]
        several = 0.7 * candidates.min(dim=1).values + 0.25 * losses[:, 0] + 0.05 * candidates.mean(dim=1)
        drawn = torch.where(is_ambiguous, several, drawn)
        best = torch.where(is_ambiguous, best, 0)
    loss = quality_loss + drawn.mean()
    presence = rearrange(output.presence_logits, "b p -> (b p)").float()
    present = target.flatten(1).any(dim=1).float()
    weight = torch.full_like(presence, PRESENCE_WEIGHT)
    if words is not None:
        weight = torch.where(words.text_is_present, TEXT_PRESENCE_WEIGHT, weight)
    return loss + F.binary_cross_entropy_with_logits(presence, present, weight), best


def _leave_out_unknown(logits: Tensor, is_known: Tensor | None) -> Tensor:
    """Logits (N, M, D, H, W) that are surely right, and have no gradient, where nobody knows what is there."""
    return logits if is_known is None else logits.masked_fill(~is_known[:, None], UNKNOWN_LOGIT)


def run_episode(
    model: PromptableModel,
    embedding: ImageEmbedding,
    targets: Tensor,
    num_rounds: int,
    randomness: Randomness | None,
    config: PromptSimulatorConfig,
    words: Words | None = None,
    scored_rounds: int = 0,
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = score_masks,
    is_known: Tensor | None = None,
) -> EpisodeResult:
    """Plays one episode on encoded tiles.

    Args:
        model: whose decoder answers.
        embedding: of B tiles.
        targets: (B, P, D, H, W) bool.
        num_rounds: prompts given to each object.
        randomness: source; None for the deterministic user: one click after the other, each at the deepest point.
        config: how prompts are drawn.
        words: names of the B * P objects; None where none has one.
        scored_rounds: rounds with a loss, the last ones; those before are played without gradients. 0 for all.
        score: see :func:`round_loss`.
        is_known: (B, D, H, W) bool: voxels that are object or background; None for all.
    """
    num_tiles, num_objects = targets.shape[:2]
    first_scored = max(0, num_rounds - scored_rounds) if scored_rounds else 0
    state = open_episode(rearrange(targets, "b p d h w -> (b p) d h w"), randomness, config, words)
    state.is_known = None if is_known is None else is_known.repeat_interleave(num_objects, dim=0)
    rows = torch.arange(len(state.target), device=targets.device)
    losses: list[Tensor] = []
    scores: list[Tensor] = []
    handed: list[Tensor] = []
    for number in range(num_rounds):
        is_scored = number >= first_scored
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_scored):
            output = model.decode(embedding, state.batch(num_tiles), multimask=number == 0)
        is_ambiguous = torch.full_like(rows, state.ambiguous, dtype=torch.bool)
        if state.is_ambiguous is not None:
            is_ambiguous = state.is_ambiguous
        flat = rearrange(output.mask_logits.detach(), "b p m d h w -> (b p) m d h w")
        counted = _leave_out_unknown(flat, state.is_known)
        if is_scored:
            loss, best = round_loss(output, state.target, is_ambiguous, words, score, state.is_known)
            losses.append(loss)
        else:
            best = iou(counted > 0, state.target[:, None].expand_as(flat)).argmax(dim=1)
            best = torch.where(is_ambiguous, best, 0)
        trusted = rearrange(output.iou_scores.detach(), "b p m -> (b p) m").argmax(dim=1)
        trusted = torch.where(is_ambiguous, trusted, 0)
        # A user goes on from the mask that was shown, or picks the best of those offered.
        is_picked = torch.zeros_like(best, dtype=torch.bool)
        if randomness is not None:
            is_picked = randomness.uniform(len(rows)) < 0.5
        best = torch.where(is_picked, best, trusted)
        if randomness is not None and number == 0 and config.astray_share:
            is_astray = is_ambiguous & (randomness.uniform(len(rows)) < config.astray_share)
            best = torch.where(is_astray, (randomness.uniform(len(rows)) * flat.shape[1]).long(), best)
        logits = flat[rows, best].float()
        scores.append(dice_score(counted[rows, best] > 0, state.target).mean())
        if randomness is None:
            handed.append(logits)
        if number + 1 < num_rounds:
            correct_episode(state, logits, randomness, config)
    stacked = torch.stack(handed) if handed else torch.empty(0)
    return EpisodeResult(torch.stack(losses).mean(), scores, stacked, state.points, state.labels)
