"""What a run remembers of itself holds at whichever moment it dies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from promptseg.training.checkpoint import find_latest, save_checkpoint
from promptseg.training.distributed import Process
from promptseg.training.loop import setup


def test_the_latest_checkpoint_is_complete_whenever_a_save_is_cut_short(tmp_path, monkeypatch):
    found = []

    def watched(change):
        def and_look(*arguments, **options):
            result = change(*arguments, **options)
            found.append(find_latest(tmp_path))  # an error if it names what is missing
            return result

        return and_look

    for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"a": torch.zeros(1)}, {}, Process(0, 1, torch.device("cpu")), keep=1)
    names = [path.name for path in found if path is not None]
    assert names == sorted(names) and set(names) == {"step-00000001", "step-00000002", "step-00000003"}


def test_steps_taken_again_after_a_crash_are_logged_once(make_config):
    config = make_config(max_steps=4, log_every=1, save_every_steps=2)
    trainer = setup(config)
    honest = trainer.train_step

    def train_step(*arguments):
        if trainer.step == 3:
            raise RuntimeError("a crash")
        return honest(*arguments)

    trainer.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a crash"):
        trainer.fit()
    path = Path(config.out_dir) / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    resumed = setup(config)
    assert resumed.step == 2
    resumed.fit()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_steps_that_were_not_finite_are_still_counted_after_a_resume(make_config):
    config = make_config()
    trainer = setup(config)
    batch = trainer.stage.prepare(trainer.stage.stream[0], 0, 0)
    trainer.train_step([{**batch, "image": torch.full_like(batch["image"], float("nan"))}])
    trainer.save()
    assert setup(config).nonfinite_steps == 1
