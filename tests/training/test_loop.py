"""A run that is killed, stopped, or spread differently goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from promptseg.models.pretrained import load_pretrained
from promptseg.safe_loading import read_tensors
from promptseg.training.config import PretrainConfig
from promptseg.training.distributed import start, whole
from promptseg.training.loop import Trainer, pretrain, setup
from promptseg.training.optimisation import optimizer_tensors
from promptseg.training.run_folder import RunError

FORK = multiprocessing.get_context("fork")


def _weights(config: PretrainConfig) -> dict[str, torch.Tensor]:
    return read_tensors(Path(config.out_dir) / "weights" / "model.safetensors")


def _assert_bit_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name]), name


def _rows(config: PretrainConfig) -> list[dict]:
    return [json.loads(line) for line in (Path(config.out_dir) / "metrics.jsonl").read_text().splitlines()]


def _run_and_die_at(config: PretrainConfig, deadly_step: int) -> None:
    torch.set_num_threads(1)
    trainer = setup(config)
    honest = trainer.train_step

    def train_step(*arguments):
        if trainer.step == deadly_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*arguments)

    trainer.train_step = train_step  # type: ignore[method-assign]
    trainer.fit()


@pytest.fixture
def one_thread():
    """As the killed process has: sums of several threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_run_killed_at_a_random_step_and_resumed_is_bit_equal_to_one_that_was_not(make_config, tmp_path):
    changes = {"max_steps": 5, "save_every_steps": 2, "accumulation": 2}
    undisturbed = make_config(out_dir=str(tmp_path / "undisturbed"), **changes)
    pretrain(undisturbed)
    killed = make_config(out_dir=str(tmp_path / "killed"), **changes)
    deadly_step = int(np.random.default_rng().integers(1, 5))
    child = FORK.Process(target=_run_and_die_at, args=(killed, deadly_step))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    trainer = pretrain(killed)
    assert trainer.step == 5
    _assert_bit_equal(_weights(killed), _weights(undisturbed))
    kept = ("step", "loss", "norm", "lr", "nonfinite_steps")
    assert [r["step"] for r in _rows(killed)] == [r["step"] for r in _rows(undisturbed)]
    last, expected = _rows(killed)[-1], _rows(undisturbed)[-1]
    assert {k: last[k] for k in kept} == {k: expected[k] for k in kept}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_sigterm_saves_and_the_run_goes_on_from_there(make_config, tmp_path, optimizer):
    undisturbed = make_config(out_dir=str(tmp_path / "undisturbed"), max_steps=4, optimizer=optimizer)
    pretrain(undisturbed)
    config = make_config(max_steps=4, optimizer=optimizer)
    trainer = setup(config)
    honest = trainer.train_step

    def train_step(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return honest(*arguments)

    trainer.train_step = train_step  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.step == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = setup(config)
    assert resumed.step == 1
    resumed.fit()
    _assert_bit_equal(_weights(config), _weights(undisturbed))


_A_RUN_THAT_FAILS = """
import pickle, sys
from promptseg.training.loop import setup

trainer = setup(pickle.loads(open(sys.argv[1], "rb").read()))
trainer.train_step = lambda *_: 1 / 0
trainer.fit()
"""


def test_a_run_that_fails_ends_although_its_workers_ignore_signals(make_config, tmp_path):
    saved = tmp_path / "config.pkl"
    saved.write_bytes(pickle.dumps(make_config(num_workers=2)))
    run = subprocess.run(
        [sys.executable, "-c", _A_RUN_THAT_FAILS, str(saved)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1 and "ZeroDivisionError" in run.stderr


def test_a_run_of_minutes_goes_through_its_schedule_in_them_however_slow_its_steps(make_config, monkeypatch):
    now = 0.0
    monkeypatch.setattr("promptseg.training.loop.time", SimpleNamespace(monotonic=lambda: now))
    config = make_config(max_steps=1000, warmup_steps=0, decay_start=500, minutes=1.0, log_every=1)

    def with_slow_steps(trainer, last_step):
        honest = trainer.train_step

        def train_step(*arguments):
            nonlocal now
            now += 15.0
            trainer.stop_requested = trainer.step == last_step
            return honest(*arguments)

        trainer.train_step = train_step
        return trainer

    trainer = with_slow_steps(setup(config), last_step=1)
    trainer.fit()
    assert (trainer.step, trainer.position) == (2, 500)
    resumed = with_slow_steps(setup(config), last_step=None)
    assert resumed.seconds == 30
    resumed.fit()
    assert (resumed.step, resumed.position) == (4, 1000)
    rates = [row["lr"] / config.learning_rate for row in _rows(config)]
    assert rates == pytest.approx([1, 1, 1, 0.5])


def _stop_on_rank_1(config: PretrainConfig) -> tuple[int, bool]:
    trainer = Trainer(config, start("cpu"))
    if trainer.process.rank == 1:
        trainer.stop_requested = True
    trainer.fit()
    return trainer.step, (Path(config.out_dir) / "checkpoints" / "latest").exists()


def test_a_stop_signal_to_one_process_saves_and_stops_all(make_config, run_processes):
    assert run_processes(2, _stop_on_rank_1, make_config(parallel="fsdp")) == [(1, True), (1, True)]


def _resume(config: PretrainConfig) -> tuple[int, dict, dict, dict]:
    trainer = setup(config)
    weights = {k: whole(v).detach().numpy().copy() for k, v in trainer.model.state_dict().items()}
    average = {k: whole(v).numpy().copy() for k, v in trainer.average.tensors.items()}
    states = optimizer_tensors(trainer.model, trainer.optimizer)
    moments = {name: whole(state["exp_avg"]).numpy().copy() for name, state in states.items()}
    trainer.fit()
    return trainer.step, weights, average, moments


def test_a_sharded_run_resumes_on_one_process_and_back(make_config, run_processes):
    config = make_config(max_steps=2, parallel="fsdp")
    run_processes(2, _resume, config)
    exported = _weights(config)
    alone = _resume(dataclasses.replace(config, max_steps=3))
    assert alone[0] == 3
    assert all(np.array_equal(average, exported[name]) for name, average in alone[2].items())
    assert any(moment.any() for moment in alone[3].values())
    again = run_processes(2, _resume, dataclasses.replace(config, max_steps=3))
    single = _resume(dataclasses.replace(config, max_steps=3))
    for part in again:
        for found, expected in zip(part[1:], single[1:], strict=True):
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[k], expected[k]) for k in found)


def test_steps_that_are_not_finite_are_skipped_counted_and_then_stop_the_run(make_config, caplog):
    config = make_config(max_nonfinite_steps=1)
    trainer = setup(config)
    batches = next(trainer._steps())
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    broken = [{**b, "image": torch.full_like(b["image"], float("nan"))} for b in batches]
    trainer.train_step(broken)
    assert (trainer.step, trainer.nonfinite_steps) == (1, 1)
    assert "such as image_encoder" in caplog.text
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    with pytest.raises(RuntimeError, match="more than 1 of 10 steps"):
        trainer.train_step(broken)
    saved = torch.load(Path(config.out_dir) / "nonfinite_batch_0.pt", weights_only=True)
    assert saved["step"] == 1 and saved["batches"][0]["image"].isnan().all()


def test_steps_that_are_not_finite_may_come_now_and_then(make_config):
    trainer = setup(make_config(max_nonfinite_steps=1))
    batches = next(trainer._steps())
    broken = [{**b, "image": torch.full_like(b["image"], float("nan"))} for b in batches]
    for step in (0, 10, 20):
        trainer.step = step
        trainer.train_step(broken)
    assert trainer.nonfinite_steps == 3


def test_a_run_that_is_stopped_again_and_again_remembers_its_steps_that_were_not_finite(make_config):
    config = make_config(max_nonfinite_steps=2)
    for life in range(3):
        trainer = setup(config)
        batches = next(trainer._steps())
        broken = [{**b, "image": torch.full_like(b["image"], float("nan"))} for b in batches]
        if life == 2:
            with pytest.raises(RunError, match="more than 2 of 20 steps"):
                trainer.train_step(broken)
        else:
            trainer.train_step(broken)
            trainer.save()


def test_small_crops_are_not_computed_in_bfloat16_on_a_cpu_and_the_log_says_why(make_config, monkeypatch, caplog):
    monkeypatch.setattr("promptseg.training.training_state.preferred_dtype", lambda _: torch.bfloat16)
    caplog.set_level("INFO")
    sizes = [{"first_step": step, "crop_size": size, "batch_size": 1} for step, size in ((0, 16), (1, 32))]
    model = dataclasses.replace(make_config().model, tile_size=32)
    trainer = setup(make_config(bf16=True, stages=sizes, model=model))
    assert "computed in float32" in caplog.text
    found = []
    for step in range(2):
        trainer.step = step
        found.append(trainer.is_in_bf16)
    assert found == [False, True]
    trainer.step = 0
    for batches in islice(trainer._steps(), 1):
        assert math.isfinite(trainer.train_step(batches)["norm"])


def test_a_run_leaves_a_loadable_model_a_log_pictures_and_few_checkpoints(make_config):
    config = make_config(
        max_steps=4, save_every_steps=1, validation={"every": 2, "crops_per_group": 2, "clicks": 2, "pictures": 1}
    )
    trainer = pretrain(config)
    out_dir = Path(config.out_dir)
    model, _ = load_pretrained(out_dir / "weights")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trainer.average.tensors[name]), name
    assert sorted(p.name for p in (out_dir / "checkpoints").iterdir()) == ["latest", "step-00000003", "step-00000004"]
    measured = [r for r in _rows(config) if "val_dice2" in r]
    assert [r["step"] for r in measured] == [2, 4]
    assert 0 <= measured[0]["val_dice1/balls"] <= 1
    assert [p.name for p in sorted(out_dir.glob("pictures/*/*.png"))] == ["00.png", "00.png"]


def test_the_log_says_how_long_there_was_no_sample_and_not_how_long_one_was_prepared(make_config, monkeypatch):
    trainer = Trainer(make_config(max_steps=2, decay_start=2, log_every=2))
    prepare = trainer.stage.prepare

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.5)
        return prepare(*arguments)

    object.__setattr__(trainer.stage, "prepare", slowly)
    trainer.fit()
    row = json.loads((trainer.out_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["seconds_per_step"] > 0.25
    assert row["wait_share"] * row["seconds_per_step"] < 0.25


def test_a_run_is_not_touched_by_resume_never_nor_silently_replaced(make_config):
    config = make_config(max_steps=1, decay_start=1)
    pretrain(config)
    with pytest.raises(ValueError, match="holds a run at step 1"):
        setup(config, resume="never")
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, embed_dim=48))
    with pytest.raises(ValueError, match="model.embed_dim=48, not 24"):
        setup(other)
    started = time.monotonic()
    assert pretrain(config).step == 1, "a finished run has nothing left to do"
    assert time.monotonic() - started < 60
