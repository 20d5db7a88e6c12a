"""Several processes give what one gives; every weight takes part on every process."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from promptseg.models import PromptableModel, PromptBatch
from promptseg.training import prompted
from promptseg.training.config import PretrainConfig
from promptseg.training.distributed import Process, any_rank, start, sum_over_ranks, whole, wrap
from promptseg.training.episode import round_loss
from promptseg.training.loop import Trainer


class _OneClick(torch.nn.Module):
    """A forward without draws, so that its loss on a joined batch is the mean of the losses on the parts."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = PromptableModel(config.model).double()

    def forward(self, image: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count = len(image)
        points = torch.full((count, 1, 1, 3), 16.0)
        boxes = torch.tensor([4.0, 4, 4, 20, 20, 20]).expand(count, 1, 1, 6)
        prompts = PromptBatch(points, torch.ones(count, 1, 1, dtype=torch.long), boxes=boxes)
        output = self.model(image, torch.ones(count, 3), prompts, multimask=True)
        return round_loss(output, targets[:, 0], torch.ones(count, dtype=torch.bool))[0] + 0.0 * sum(
            p.sum() for p in self.model.prompt_encoder.parameters()
        )


def _joined_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 1, 32, 32, 32, generator=generator, dtype=torch.float64)
    return image, (image > 0.5)


def _gradients_of_parts(config: PretrainConfig, parallelism: str) -> dict[str, torch.Tensor]:
    process = start("cpu")
    wrapped = wrap(_OneClick(config), process, parallelism)  # type: ignore[arg-type]
    image, targets = _joined_batch()
    mine = slice(process.rank, process.rank + 1)
    wrapped(image[mine], targets[mine]).backward()
    named = dict(wrapped.named_parameters())
    return {k.removeprefix("module."): whole(p.grad).clone().numpy() for k, p in named.items() if p.grad is not None}  # type: ignore[misc]


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_two_processes_give_the_gradients_of_one_with_the_joined_batch(make_config, run_processes, parallelism):
    config = make_config()
    module = _OneClick(config)
    module(*_joined_batch()).backward()
    expected = {k: p.grad for k, p in module.named_parameters() if p.grad is not None}
    for found in run_processes(2, _gradients_of_parts, config, parallelism):
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(torch.from_numpy(gradient), expected[name], rtol=1e-4, atol=1e-6, msg=name)


def _moments_after_steps(config: PretrainConfig, steps: int) -> tuple[dict, list[float]]:
    """First moments of Adam, averages of gradients; weights whose gradient is nearly 0 would move by noise alone."""
    trainer = Trainer(config)
    trainer.wrapped.train()
    batches = trainer._steps()
    losses = [trainer.train_step(next(batches))["loss"] for _ in range(steps)]
    moments = {
        name: whole(trainer.optimizer.state[p]["exp_avg"]).numpy().copy()
        for name, p in trainer.model.named_parameters()
        if p.requires_grad
    }
    return moments, losses


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_two_processes_train_like_one_that_accumulates_two_micro_batches(make_config, run_processes, parallelism):
    config = make_config(accumulation=2, learning_rate=1e-3)
    moments, losses = _moments_after_steps(config, 2)
    spread = dataclasses.replace(config, accumulation=1, parallel=parallelism)
    for found, found_losses in run_processes(2, _moments_after_steps, spread, 2):
        assert found_losses == pytest.approx(losses, abs=1e-4)
        assert found.keys() == moments.keys()
        for name, expected in moments.items():
            torch.testing.assert_close(
                torch.from_numpy(found[name]), torch.from_numpy(expected), rtol=1e-2, atol=1e-5, msg=name
            )


def test_every_weight_that_learns_gets_a_gradient_whatever_the_prompts(make_config, monkeypatch):
    trainer = Trainer(make_config())
    batch = next(trainer._steps())[0]
    trainer._gradients([batch])
    assert not [n for n, p in trainer.model.named_parameters() if p.requires_grad and p.grad is None]
    monkeypatch.setattr(prompted.dist, "is_initialized", lambda: True)  # as of several processes, in the graph itself
    for step in range(3):
        trainer.model.zero_grad(set_to_none=True)
        loss, _ = trainer.wrapped(batch, step, 0)
        loss.backward()
        assert not [n for n, p in trainer.model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_single_process_agrees_with_itself():
    assert any_rank(True, False) == (True, False)
    assert sum_over_ranks({"a": 1.5}) == {"a": 1.5}


def test_an_unknown_parallelism_is_refused_by_name():
    with pytest.raises(ValueError, match="parallel='tensor'"):
        wrap(torch.nn.Linear(1, 1), Process(0, 1, torch.device("cpu")), "tensor")  # type: ignore[arg-type]
