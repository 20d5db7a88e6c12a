"""Checkpoints are complete or absent, and old ones go."""

from __future__ import annotations

import shutil

import pytest
import torch

from promptseg.training.checkpoint import find_latest, load_checkpoint, save_checkpoint
from promptseg.training.distributed import Process

ALONE = Process(0, 1, torch.device("cpu"))


def test_what_was_saved_is_loaded_in_place_with_its_progress(tmp_path):
    save_checkpoint(tmp_path, 5, {"model": {"a": torch.arange(3.0)}}, {"nonfinite_steps": 2}, ALONE)
    tensors = {"model": {"a": torch.zeros(3)}}
    latest = find_latest(tmp_path)
    assert latest is not None and latest.name == "step-00000005"
    assert load_checkpoint(latest, tensors) == {"step": 5, "nonfinite_steps": 2}
    assert torch.equal(tensors["model"]["a"], torch.arange(3.0))


def test_only_the_newest_are_kept_and_scraps_of_killed_runs_go(tmp_path):
    (tmp_path / ".step-00000001.partial").mkdir()
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"a": torch.zeros(1)}, {}, ALONE, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000003", "step-00000004"]


def test_an_unfinished_checkpoint_is_never_the_latest(tmp_path):
    assert find_latest(tmp_path) is None
    (tmp_path / ".step-00000001.partial").mkdir()
    assert find_latest(tmp_path) is None


def test_a_pointer_to_a_missing_checkpoint_is_refused_with_the_others_named(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"a": torch.zeros(1)}, {}, ALONE)
    shutil.rmtree(tmp_path / "step-00000002")
    with pytest.raises(ValueError, match="step-00000001"):
        find_latest(tmp_path)


def test_a_run_taken_back_to_an_earlier_step_writes_over_what_came_after(tmp_path):
    for step, value in ((1, 1.0), (2, 2.0)):
        save_checkpoint(tmp_path, step, {"a": torch.tensor(value)}, {}, ALONE)
    (tmp_path / "latest").write_text("step-00000001\n")
    latest = save_checkpoint(tmp_path, 2, {"a": torch.tensor(5.0)}, {}, ALONE)
    tensors = {"a": torch.tensor(0.0)}
    load_checkpoint(latest, tensors)
    assert tensors["a"].item() == 5.0


def test_tensors_of_other_shapes_are_refused(tmp_path):
    latest = save_checkpoint(tmp_path, 1, {"a": torch.zeros(3)}, {}, ALONE)
    with pytest.raises(ValueError, match="does not fit"):
        load_checkpoint(latest, {"a": torch.zeros(4)})


def test_tensors_that_nobody_asks_for_are_refused(tmp_path):
    latest = save_checkpoint(tmp_path, 1, {"model": {"a": torch.zeros(3), "b": torch.zeros(3)}}, {}, ALONE)
    with pytest.raises(ValueError, match=r"does not fit .* as model\.b"):
        load_checkpoint(latest, {"model": {"a": torch.zeros(3)}})
