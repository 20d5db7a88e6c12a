"""What may be compiled gives the same loss and gradients as what is not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptseg.models import PromptableModel
from promptseg.models.layers import NormRelu
from promptseg.training.prompted import PromptedTraining
from promptseg.training.stages import compile_passes


def _step(module: PromptedTraining, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    module.zero_grad()
    loss, _ = module(batch, 0)
    loss.backward()
    grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(grads)


def test_a_compiled_step_is_the_same_step(make_config):
    torch.manual_seed(0)
    config = make_config(round_probabilities=(0.0, 0.0, 1.0), scored_rounds=2)
    module = PromptedTraining(PromptableModel(config.model), config)
    targets = torch.rand(2, 1, 16, 16, 16) > 0.7
    batch = {"image": targets.float() - 0.5, "targets": targets, "spacing_mm": torch.ones(2, 3)}
    loss, grads = _step(module, batch)
    compile_passes(module, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    compiled_loss, compiled_grads = _step(module, batch)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 11, "norms of three sizes, cells, spreading, and voxels and losses of one mask and of several"
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled_grads, grads, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_and_its_relu_stay_in_the_dtype_that_comes_in(dtype):
    x = torch.randn(2, 16, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    norm = NormRelu(16)
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), F.relu(F.group_norm(x.float(), 2)), atol=0.02, rtol=0.02)
