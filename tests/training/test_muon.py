"""Muon and its company."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from promptseg.training.muon import Muon, MuonAndAdamW, orthogonalise


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_all_singular_values_become_about_one_and_the_directions_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    found = orthogonalise(matrix)
    assert found.shape == matrix.shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(left.T @ found @ right.T, torch.diag((left.T @ found @ right.T).diagonal()), atol=0.05)
    assert (found * matrix).sum() > 0


def test_nothing_comes_of_nothing():
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_several_matrices_at_once_are_as_each_alone():
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 20)
    alone = torch.stack([orthogonalise(matrix) for matrix in matrices])
    assert torch.allclose(orthogonalise(matrices), alone, atol=1e-5)


def test_a_kernel_moves_as_its_matrix_does_and_by_what_adamw_would():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d))
    matrix = nn.Parameter(kernel.detach().reshape(6, -1).clone())
    start = matrix.detach().clone()
    gradient = torch.randn(6, 4, 3, 3, 3)
    kernel.grad, matrix.grad = gradient, gradient.reshape(6, -1)
    Muon([{"params": [kernel, matrix], "lr": 0.01}]).step()
    assert torch.allclose(kernel.reshape(6, -1), matrix, atol=1e-6)
    moved = (matrix - start).square().mean().sqrt()
    assert 0.001 < moved < 0.003  # AdamW's updates have a root mean square of about 0.2 times the rate


def test_it_takes_no_vectors():
    with pytest.raises(ValueError, match=r"shape \(3,\), expected two axes"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))]}])


def test_together_they_fit_a_convolution_with_its_bias():
    torch.manual_seed(0)
    layer, target = nn.Conv3d(2, 3, 3), nn.Conv3d(2, 3, 3)
    optimizer = MuonAndAdamW(
        [{"params": [layer.weight], "lr": 0.02, "weight_decay": 0.0}],
        [{"params": [layer.bias], "lr": 0.02, "weight_decay": 0.0}],
        (0.9, 0.98),
    )
    losses = []
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 150)
        x = torch.randn(4, 2, 5, 5, 5)
        loss = (layer(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
