"""What a label rules out: names that nobody looked for cannot be where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg.data.counted_labels import CountedLabels
from promptseg.data.crops import TrainingVolume, index_objects
from promptseg.data.exclusion import Exclusion
from promptseg.data.pool import TrainingPool
from promptseg.data.structures import structures_of
from promptseg.data.text_targets import UNKNOWN, draw_names
from promptseg.models.word_head import WordHint
from promptseg.training.prompted import hint_loss

BRAIN = {1: "left hippocampus", 2: "right hippocampus", 3: "cerebral cortex", 4: "brainstem"}


def _volume(case: str, names: dict[int, str]) -> TrainingVolume:
    labels = np.zeros((24, 24, 24), np.uint8)
    for number, value in enumerate(names):
        labels[8 * (number % 3) : 8 * (number % 3) + 8, :8, :8] = value
    objects, boxes = index_objects(labels, np.ones(3), np.random.default_rng(0))
    return TrainingVolume(
        case, "set", "MR", (), labels, np.ones(3), objects, boxes, names, structures_of(names)
    )  # fmt: skip


@pytest.mark.parametrize(("one", "other", "expected"), [
    ("hippocampus", "cerebral_cortex", True),  # labelled apart in one case
    ("anterior_hippocampus", "cerebral_cortex", True),  # a part of the one
    ("hippocampus", "anterior_hippocampus", False),  # its own part
    ("brainstem", "brain", False),  # its whole
    ("hippocampus", "thalamus", False),  # nobody labelled both
    ("hippocampus", "lung", True),  # another region
    ("lung", "heart", False),  # the same region
    ("soft_tissue_sarcoma", "lung", False),  # no region
])  # fmt: skip
def test_what_excludes_what(one: str, other: str, expected: bool):
    exclusion = Exclusion([structures_of(BRAIN), structures_of({1: "thalamus"})])
    assert exclusion.excludes(one, other) is exclusion.excludes(other, one) is expected


def test_values_that_overlap_exclude_nothing():
    structures = structures_of({1: "vertebra", 2: "spinal canal"}, [("spine", (1, 2))])
    exclusion = Exclusion([structures])
    assert exclusion.excludes("vertebra", "spinal_canal") and not exclusion.excludes("vertebra", "spine")
    nested = Exclusion([structures_of({1: "spinal cord", 2: "meninges"}, [("spinal canal", (1, 2))])])
    assert not nested.excludes("spinal_cord", "spinal_canal")


def test_a_pool_knows_what_the_labels_of_a_volume_rule_out():
    heads = [_volume(f"head {n}", BRAIN) for n in range(2)]
    crop = _volume("crop", {7: "anterior hippocampus", 8: "thalamus"})
    pool = TrainingPool({"heads": heads, "crops": [crop]}, {"heads": 0.5, "crops": 0.5})
    found = {structure.name: values for structure, values in pool.elsewhere(crop)}
    assert found == {"cerebral cortex": (7,), "brainstem": (7,)}
    assert pool.elsewhere(heads[0]) == [], "it speaks of all that others show"


def test_ruled_out_names_are_asked_for_where_the_labels_are_and_nowhere_else():
    heads = [_volume(f"head {n}", BRAIN) for n in range(2)]
    crop = _volume("crop", {7: "anterior hippocampus"})
    pool = TrainingPool({"heads": heads, "crops": [crop]}, {"heads": 0.5, "crops": 0.5})
    assert crop.labels is not None
    rng = np.random.default_rng(0)
    names = draw_names(CountedLabels.of(crop.labels), crop.structures, False, rng, 8, 4, pool.elsewhere(crop))
    assert int(names["name_is_present"].sum()) == 3
    shown, *excluded = names["name_share"][:3]
    assert shown[0, 0, 0] == 1 and shown.sum() == 1
    for share in excluded:
        assert share[0, 0, 0] == 0 and (share == UNKNOWN).sum() == share.numel() - 1
    few = draw_names(CountedLabels.of(crop.labels), crop.structures, False, rng, 4, 4, pool.elsewhere(crop))
    assert int((few["name_share"] == UNKNOWN).flatten(1).any(dim=1).sum()) == 1, "they leave room for the others"


def test_unknown_cells_teach_nothing():
    share = torch.full((1, 2, 3, 3, 3), UNKNOWN)
    share[0, 0, 1, 1, 1] = 0
    share[0, 1] = 0
    asked = torch.ones(1, 2, dtype=torch.bool)
    logits = torch.zeros(1, 2, 3, 3, 3, requires_grad=True)
    presence = torch.zeros(1, 2, requires_grad=True)
    hint_loss(WordHint(logits, presence), share, asked).backward()
    assert logits.grad is not None and presence.grad is not None
    assert logits.grad[0, 0, 1, 1, 1] > 0 and (logits.grad[0, 0] != 0).sum() == 1
    assert presence.grad[0, 0] == 0 and presence.grad[0, 1] > 0
    assert (logits.grad[0, 1] > 0).all()
