"""Episodes mix prompts by object, repeat under their key, and end with clicks that inference would make."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from promptseg.data.prompt_simulator import PromptSimulatorConfig
from promptseg.data.randomness import Randomness
from promptseg.data.text_targets import Words
from promptseg.models import DecoderOutput, PromptableModel
from promptseg.training.episode import correct_episode, open_episode, round_loss, run_episode

CONFIG = PromptSimulatorConfig(scribble_share=0.3, lasso_share=0.2)


def balls(count: int) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(32)] * 3, indexing="ij"), dim=-1).float()
    return torch.stack([(grid - 12 - n % 8).norm(dim=-1) < 6 for n in range(count)])


def test_each_object_opens_with_prompts_of_its_own_and_only_lone_clicks_are_ambiguous():
    state = open_episode(balls(24), Randomness((1,)), CONFIG)
    assert state.boxes is not None and state.box_is_present is not None
    assert state.mask_is_present is not None and state.strokes is not None and state.is_ambiguous is not None
    has_stroke = state.strokes.flatten(1).any(dim=1)
    explained = state.box_is_present[:, 0] | state.mask_is_present | has_stroke
    assert torch.equal(state.is_ambiguous, ~explained)
    assert 0 < int(state.is_ambiguous.sum()) < 24
    assert ((state.labels >= 0).any(dim=1) | state.box_is_present[:, 0] | state.mask_is_present).all()


def test_corrections_accumulate_and_lie_on_errors_of_their_sign():
    target = balls(12)
    state = open_episode(target, Randomness((2,)), CONFIG)
    before = state.points.shape[1]
    logits = torch.where(target.roll(4, dims=1), 1.0, -1.0)
    correct_episode(state, logits, Randomness((3,)), CONFIG)
    assert state.points.shape[1] > before and not state.ambiguous
    for row in range(12):
        for point, label in zip(state.points[row, before:].long(), state.labels[row, before:], strict=True):
            if label >= 0:
                assert target[row][tuple(point)] == bool(label) and (logits[row][tuple(point)] > 0) != bool(label)
    assert (state.labels[:, before:] >= 0).any(dim=1).all()


def test_corrections_are_asked_for_without_the_mask_as_often_as_said_and_always_with_it_by_the_deterministic_user():
    config = PromptSimulatorConfig(mask_dropout=0.5)
    state = open_episode(balls(64), Randomness((1,)), config)
    correct_episode(state, torch.zeros_like(state.target, dtype=torch.float32), Randomness((2,)), config)
    assert state.mask_is_present is not None and 16 < int(state.mask_is_present.sum()) < 48
    correct_episode(state, torch.zeros_like(state.target, dtype=torch.float32), None, config)
    assert state.mask_is_present.all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_masks_open_an_episode_alone_as_often_as_said(share):
    config = PromptSimulatorConfig(box_share=0, mask_share=1, mask_alone_share=share)
    state = open_episode(balls(64), Randomness((1,)), config)
    assert state.mask_is_present is not None and state.mask_is_present.all()
    count = int((state.labels < 0).all(dim=1).sum())
    assert count == 64 * share if share in (0, 1) else 16 < count < 48


def test_an_episode_repeats_under_its_key_and_without_randomness(make_config):
    torch.manual_seed(0)
    model = PromptableModel(make_config().model).eval()
    targets = balls(2)[:, None]
    with torch.no_grad():
        embedding = model.encode_image(targets.float(), torch.ones(2, 3))
        first, again, other = (run_episode(model, embedding, targets, 3, Randomness((k,)), CONFIG) for k in (1, 1, 2))
        exact = [run_episode(model, embedding, targets, 2, None, CONFIG) for _ in range(2)]
    assert first.loss == again.loss and first.loss != other.loss
    assert len(first.dice) == 3
    assert torch.equal(exact[0].logits, exact[1].logits) and exact[0].logits.shape == (2, 2, 32, 32, 32)
    assert (exact[0].points[:, 0] - torch.tensor([[12.0], [13.0]])).abs().max() <= 2


def test_only_the_last_rounds_are_learnt_from_and_the_others_are_played_all_the_same(make_config):
    torch.manual_seed(0)
    model = PromptableModel(make_config().model)
    targets = balls(8)[:, None]
    embedding = model.encode_image(targets.float(), torch.ones(8, 3))
    whole, last = (run_episode(model, embedding, targets, 3, Randomness((3,)), CONFIG, None, n) for n in (0, 1))
    assert [d.item() for d in last.dice] == [d.item() for d in whole.dice]
    assert torch.equal(last.points, whole.points)
    candidates = [w for n, w in model.mask_decoder.mask_weights.named_parameters() if not n.startswith("0.")]
    grads = torch.autograd.grad(whole.loss, candidates, retain_graph=True, allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in grads), "the first round draws candidates"
    grads = torch.autograd.grad(last.loss, candidates, retain_graph=True, allow_unused=True)
    assert all(g is None or not g.any() for g in grads)
    last.loss.backward()
    grad = model.image_encoder.stem.weight.grad
    assert grad is not None and grad.abs().sum() > 0


@pytest.fixture
def answers():
    """A model that answers a first prompt with the truth and three masks that are wrong, and what it is handed then."""
    targets, handed = balls(64), []

    def decode(_, batch, multimask):
        if batch.mask_logits is not None:
            handed.append(batch.mask_logits.flatten(0, 1).abs().amax(dim=(1, 2, 3)).long())
        signs = [targets, ~targets, targets | True, targets & False][: 4 if multimask else 1]
        logits = torch.stack([(size + 1) * torch.where(sign, 1.0, -1.0) for size, sign in enumerate(signs)], dim=1)
        iou_logits = torch.tensor([3.0, 0.0, 0.0, 0.0])[: len(signs)].expand(64, 1, -1)
        return DecoderOutput(logits[:, None], iou_logits, torch.zeros(64, 1))

    return SimpleNamespace(decode=decode), targets[:, None], handed


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_any_answer_is_corrected_as_often_as_said(answers, share):
    model, targets, handed = answers
    config = PromptSimulatorConfig(box_share=0, mask_share=0, scribble_share=0, lasso_share=0, astray_share=share)
    run_episode(model, None, targets, 3, Randomness((5,)), config)  # type: ignore[arg-type]
    counts = torch.bincount(handed[0], minlength=5)[1:]
    assert counts.sum() == 64 and (handed[1] == 1).all()
    if not share:
        assert counts.tolist() == [64, 0, 0, 0]
    else:
        assert 30 < counts[0] < 50 and (counts[1:] > 2).all()


@pytest.mark.parametrize("ambiguous", [True, False])
def test_one_flag_for_all_objects_is_the_same_as_one_for_each(make_config, ambiguous):
    torch.manual_seed(0)
    model = PromptableModel(make_config().model).eval()
    targets = balls(3)[:, None]
    with torch.no_grad():
        embedding = model.encode_image(targets.float(), torch.ones(3, 3))
        state = open_episode(targets[:, 0], None, CONFIG)
        output = model.decode(embedding, state.batch(3), multimask=True)
        loss, best = round_loss(output, targets[:, 0], ambiguous)
        each, best_each = round_loss(output, targets[:, 0], torch.full((3,), ambiguous))
    assert loss == each and torch.equal(best, best_each)
    assert ambiguous or not np.any(best.numpy())


def _words(present: list[bool]) -> Words:
    count = len(present)
    return Words(torch.randn(count, 384), torch.zeros(count).long(), torch.zeros(count).long(), torch.tensor(present))


def test_a_name_comes_alone_or_beside_other_prompts_and_alone_for_what_is_not_there():
    target = balls(40)
    target[:8] = False
    state = open_episode(target, Randomness((1,)), CONFIG, _words([True] * 30 + [False] * 10))
    assert state.box_is_present is not None and state.mask_is_present is not None and state.strokes is not None
    is_prompted = (state.labels >= 0).any(dim=1) | state.box_is_present[:, 0] | state.mask_is_present
    is_prompted |= state.strokes.flatten(1).any(dim=1)
    assert not is_prompted[:8].any() and is_prompted[30:].all()
    assert 3 < int(is_prompted[8:30].sum()) < 19
    assert state.is_ambiguous is not None and not state.is_ambiguous[:30].any() and state.is_ambiguous[30:].any()


def test_names_reach_the_model_in_every_round_and_weigh_on_presence(make_config):
    torch.manual_seed(0)
    model = PromptableModel(make_config().model)
    targets = balls(4)[:, None].clone()
    targets[0] = False
    embedding = model.encode_image(targets.float(), torch.ones(4, 3))
    words = _words([True, True, False, False])
    result = run_episode(model, embedding, targets, 3, Randomness((5,)), CONFIG, words)
    result.loss.backward()
    weight = model.prompt_encoder.text_proj.weight.grad
    assert weight is not None and weight.abs().sum() > 0
    without = run_episode(model, embedding, targets, 3, Randomness((5,)), CONFIG, _words([False] * 4))
    assert not torch.equal(result.loss, without.loss)


def test_what_is_not_there_gets_no_positive_click():
    target = torch.zeros(6, 32, 32, 32, dtype=torch.bool)
    state = open_episode(target, Randomness((1,)), CONFIG, _words([True] * 6))
    correct_episode(state, torch.where(balls(6), 1.0, -1.0), Randomness((2,)), CONFIG)
    assert not (state.labels == 1).any() and (state.labels == 0).any(dim=1).all()


def test_what_nobody_knows_is_neither_corrected_nor_learnt_from():
    target = balls(3)
    is_known = torch.ones_like(target)
    is_known[:, 24:] = False
    logits = torch.where(target, 4.0, -4.0).requires_grad_()
    astray = torch.where(is_known, logits, 9.0)  # all of it drawn
    losses, gradients = [], []
    for drawn in (logits, astray):
        output = DecoderOutput(drawn[:, None, None], torch.zeros(3, 1, 1), torch.zeros(3, 1))
        loss, _ = round_loss(output, target, False, is_known=is_known)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, logits)[0])
    assert losses[0] == losses[1] and torch.equal(*gradients)
    assert not gradients[0][~is_known].any() and gradients[0][is_known].any()
    state = open_episode(target, None, CONFIG)
    state.is_known = is_known
    before = state.points.shape[1]
    correct_episode(state, astray.detach(), None, CONFIG)
    assert (state.labels[:, before:] < 0).all(), "there is no error but where nobody knows"
