"""A stop loses nothing, whenever it comes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from promptseg.data.exclusion import Exclusion
from promptseg.training.checkpoint import find_latest
from promptseg.training.distributed import Process
from promptseg.training.loop import setup
from promptseg.training.validation import Validator

VALIDATION = {"every": 2, "crops_per_group": 3, "clicks": 1, "pictures": 0}


@pytest.fixture
def config(make_config):
    """Of a run that is validated at its steps 2 and 4."""
    return make_config(max_steps=4, validation=VALIDATION)


def _validated(config) -> list[int]:
    rows = [json.loads(line) for line in (Path(config.out_dir) / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "val_dice1" in row]


def _saved_step(config) -> int | None:
    latest = find_latest(Path(config.out_dir) / "checkpoints")
    return None if latest is None else int(latest.name.removeprefix("step-"))


def test_a_stop_during_a_validation_finds_the_run_saved_abandons_it_and_resuming_makes_up_for_it(config, monkeypatch):
    trainer = setup(config)
    saved, forwards = [], 0
    honest = Validator.measure

    def measure(validator, wrapped, *arguments):
        nonlocal forwards
        saved.append(_saved_step(config))

        def signalled(*inputs):
            nonlocal forwards
            forwards += 1
            os.kill(os.getpid(), signal.SIGTERM)
            return wrapped(*inputs)

        signalled.training, signalled.eval, signalled.train = wrapped.training, wrapped.eval, wrapped.train  # type: ignore[attr-defined]
        return honest(validator, signalled, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Validator, "measure", measure)
    trainer.fit()
    assert (trainer.step, saved, forwards, _validated(config)) == (2, [2], 1, [])
    assert trainer.wrapped.training
    monkeypatch.undo()
    setup(config).fit()
    assert _validated(config) == [2, 4]


def test_a_stop_in_a_step_that_is_to_be_validated_does_not_lose_its_row(config):
    trainer = setup(config)
    honest = trainer.train_step

    def train_step(*arguments):
        trainer.stop_requested = trainer.step == 1
        return honest(*arguments)

    trainer.train_step = train_step  # type: ignore[method-assign]
    trainer.fit()
    assert (trainer.step, _validated(config)) == (2, [])
    for _ in range(2):  # the second has nothing left to do
        setup(config).fit()
        assert _validated(config) == [2, 4]


def test_a_stop_during_the_last_save_does_not_interrupt_it(make_config):
    config = make_config(max_steps=1, decay_start=1)
    trainer = setup(config)
    honest = trainer.save

    def save():
        os.kill(os.getpid(), signal.SIGINT)
        honest()

    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    trainer.save = save  # type: ignore[method-assign]
    trainer.fit()
    assert _saved_step(config) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_what_labels_rule_out_is_found_once_for_all_crops_of_a_group(make_config, monkeypatch):
    made, honest = [], Exclusion.__init__

    def counted(self, cases):
        made.append(1)
        honest(self, cases)

    monkeypatch.setattr(Exclusion, "__init__", counted)
    sampler = {"crop_size": 16, "upright_share": 1.0}
    validator = Validator(make_config(sampler=sampler, validation=VALIDATION), Process(0, 1, torch.device("cpu")))
    assert len(validator.samples) == 3 and len(made) == 1
