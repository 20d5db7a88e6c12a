"""An episode of prompted training: a first prompt, then corrections, with every round's loss summed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from ..data.prompt_simulator import (
    PromptSimulatorConfig,
    correct,
    corrupt_mask,
    draw_boxes,
    draw_lasso,
    draw_scribble,
    sample_points,
)
from ..models import DecoderOutput, ImageEmbedding, PromptableModel, PromptBatch
from .losses import dice_score, iou, mask_loss


@dataclass
class EpisodeState:
    """Prompts of N = B * P objects accumulated over rounds, as a user accumulates them.

    Attributes:
        target: (N, D, H, W) bool.
        points: (N, n, 3) float.
        labels: (N, n) int64.
        boxes: (N, 1, 6) float or None, with ``box_is_present`` (N, 1).
        strokes: (N, 2, D, H, W) float or None.
        mask_logits: (N, D, H, W) or None, with ``mask_is_present`` (N,).
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
    scores: list[Tensor] = field(default_factory=list)

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
        )


def open_episode(target: Tensor, generator: torch.Generator, config: PromptSimulatorConfig) -> EpisodeState:
    """First prompts: a click, a box, both, or a click with a coarse mask."""
    count = len(target)
    points, found = sample_points(target, generator, config.deepest_share)
    labels = torch.where(found, 1, -1)
    state = EpisodeState(target, points[:, None].float(), labels[:, None])
    draw = torch.rand(3, generator=generator)
    if draw[0] < config.box_share:
        state.boxes = draw_boxes(target, generator, config)[:, None]
        state.box_is_present = torch.ones(count, 1, dtype=torch.bool)
        state.ambiguous = False
        if draw[1] < 0.7:
            state.labels = torch.full_like(state.labels, -1)
    elif draw[0] < config.box_share + config.mask_share:
        state.mask_logits = corrupt_mask(target, generator)
        state.mask_is_present = torch.ones(count, dtype=torch.bool)
        state.ambiguous = False
        if draw[1] < 0.25:
            state.labels = torch.full_like(state.labels, -1)
    elif draw[2] < config.scribble_share + config.lasso_share:
        add_strokes(
            state, points, torch.ones(count, dtype=torch.long), target, draw[2] < config.scribble_share, generator
        )
        state.ambiguous = False
    return state


def add_strokes(
    state: EpisodeState,
    points: Tensor,
    labels: Tensor,
    region: Tensor,
    as_scribble: Tensor | bool,
    generator: torch.Generator,
) -> None:
    """Draws a scribble or a lasso through each object's point, inside its region."""
    count, *grid = state.target.shape
    strokes = torch.zeros(count, 2, *grid) if state.strokes is None else state.strokes.clone()
    keys = []
    for n in range(count):
        if labels[n] < 0 or not bool(region[n].any()):
            keys.append(points[n].expand(4, 3))
            continue
        draw = draw_scribble if as_scribble else draw_lasso
        side = region[n] & (state.target[n] == bool(labels[n]))
        stroke, key_points = draw(side, points[n], generator)
        channel = 1 - int(labels[n])
        strokes[n, channel] = torch.maximum(strokes[n, channel], stroke)
        keys.append(key_points)
    state.strokes = strokes
    state.add_points(torch.stack(keys), labels[:, None].expand(-1, 4))


def correct_episode(
    state: EpisodeState, logits: Tensor, generator: torch.Generator, config: PromptSimulatorConfig
) -> None:
    """Adds one correction to each object where ``logits`` (N, D, H, W) are wrong, and hands the mask back."""
    predicted = logits > 0
    points, labels = correct(state.target, predicted, generator, config.deepest_share)
    draw = float(torch.rand(1, generator=generator))
    if draw < config.scribble_share + config.lasso_share:
        add_strokes(state, points, labels, state.target ^ predicted, draw < config.scribble_share, generator)
    else:
        state.add_points(points[:, None], labels[:, None])
    state.mask_logits = logits
    state.mask_is_present = torch.rand(len(logits), generator=generator) >= config.mask_dropout
    state.ambiguous = False


def round_loss(output: DecoderOutput, target: Tensor, ambiguous: bool) -> tuple[Tensor, Tensor]:
    """Loss of one round, and the index of each object's best candidate.

    Args:
        output: of B * P objects, M masks.
        target: (N, D, H, W) bool.
        ambiguous: the prompt may mean several things: only the best candidate is pulled to the target, and the single
            mask a little.

    Returns:
        scalar loss and (N,) int64.
    """
    logits = rearrange(output.mask_logits, "b p m d h w -> (b p) m d h w").float()
    wanted = target[:, None].float().expand_as(logits)
    losses = mask_loss(logits, wanted)  # (N, M)
    with torch.no_grad():
        actual = iou(logits > 0, target[:, None].expand_as(logits))
        best = actual.argmax(dim=1)
    quality = rearrange(output.iou_logits, "b p m -> (b p) m").float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(quality, actual)  # least where the two are equal
    if ambiguous:
        candidates = losses[:, 1:]
        chosen = candidates.min(dim=1).values
        loss = loss + (0.7 * chosen + 0.25 * losses[:, 0] + 0.05 * candidates.mean(dim=1)).mean()
    else:
        loss = loss + losses[:, 0].mean()
    presence = rearrange(output.presence_logits, "b p -> (b p)").float()
    present = target.flatten(1).any(dim=1).float()
    loss = loss + 0.1 * torch.nn.functional.binary_cross_entropy_with_logits(presence, present)
    return loss, best


def run_episode(
    model: PromptableModel,
    embedding: ImageEmbedding,
    targets: Tensor,
    num_rounds: int,
    generator: torch.Generator,
    config: PromptSimulatorConfig,
) -> tuple[Tensor, list[float]]:
    """Plays one episode on encoded tiles.

    Args:
        model: whose decoder answers.
        embedding: of B tiles.
        targets: (B, P, D, H, W) bool.
        num_rounds: prompts given to each object.
        generator: source of randomness.
        config: how prompts are drawn.

    Returns:
        loss, the mean over rounds; and the mean Dice after each round.
    """
    num_tiles = targets.shape[0]
    state = open_episode(rearrange(targets, "b p d h w -> (b p) d h w"), generator, config)
    losses, scores = [], []
    for number in range(num_rounds):
        ambiguous = state.ambiguous
        output = model.decode(embedding, state.batch(num_tiles), multimask=ambiguous)
        loss, best = round_loss(output, state.target, ambiguous)
        losses.append(loss)
        flat = rearrange(output.mask_logits.detach(), "b p m d h w -> (b p) m d h w").float()
        if ambiguous:
            trusted = rearrange(output.iou_scores.detach(), "b p m -> (b p) m").argmax(dim=1)
            best = torch.where(torch.rand(len(best), generator=generator) < 0.5, best, trusted)
            logits = flat[torch.arange(len(flat)), best]
        else:
            logits = flat[:, 0]
        scores.append(float(dice_score(logits > 0, state.target).mean()))
        if number + 1 < num_rounds:
            correct_episode(state, logits, generator, config)
    return torch.stack(losses).mean(), scores
