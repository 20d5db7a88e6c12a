"""Which labels of a crop a step of fine-tuning asks for."""

from __future__ import annotations

import numpy as np
import torch

from promptseg.training.finetune_data import View
from promptseg.training.finetune_episode import choose_targets


def test_absent_labels_are_asked_for_in_automatic_mode_only() -> None:
    labels = torch.zeros(32, 32, 32, dtype=torch.int32)
    labels[4:12, 4:12, 4:12] = 1
    view = View(torch.zeros(1, 32, 32, 32), labels, torch.ones(3))
    rng = np.random.default_rng(0)
    asked = [choose_targets(view, [1, 2], 1, rng, True, 1) for _ in range(60)]
    empty = [int(numbers[0]) for targets, numbers in asked if not targets.any()]
    assert empty
    assert set(empty) == {1}
    assert all(choose_targets(view, [1, 2], 2, rng, False, 1)[0].flatten(1).any(dim=1).all() for _ in range(20))


def test_several_objects_of_a_crop_are_different_labels_as_far_as_there_are_some() -> None:
    labels = torch.zeros(32, 32, 32, dtype=torch.int32)
    labels[:10], labels[20:] = 1, 2
    view = View(torch.zeros(1, 32, 32, 32), labels, torch.ones(3))
    rng = np.random.default_rng(0)
    assert all(sorted(choose_targets(view, [1, 2], 2, rng, False, 1)[1]) == [0, 1] for _ in range(20))
    assert all(len(choose_targets(view, [1, 2], 3, rng, False, 1)[1]) == 3 for _ in range(5))
