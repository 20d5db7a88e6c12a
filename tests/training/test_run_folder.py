"""A folder that cannot be written, or that another run writes to, ends a run with one line."""

from __future__ import annotations

import builtins
import errno
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.checkpoint.api import CheckpointException

from promptseg.training import checkpoint
from promptseg.training.checkpoint import find_latest, save_checkpoint
from promptseg.training.distributed import Process, start
from promptseg.training.loop import pretrain
from promptseg.training.run_folder import MainProcessError, RunError, held, leave_locks, on_main, writing

ALONE = Process(0, 1, torch.device("cpu"))
SCRIPT = Path(__file__).resolve().parents[2] / "train" / "pretrain.py"


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_ends(make_config, tmp_path):
    config = make_config(out_dir=str(tmp_path), max_steps=1, decay_start=1)
    with held(tmp_path, ALONE), pytest.raises(RunError, match="another run is writing there"):
        pretrain(config)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert pretrain(config).step == 1


@pytest.mark.parametrize(("error", "is_said"), [
    (ValueError("image of set/case is damaged"), True),
    (RunError("its disk is full"), True),
    (MainProcessError("the main process failed"), False),
])  # fmt: skip
def test_what_fails_on_another_process_than_the_main_one_is_said_by_it(
    make_config, monkeypatch, caplog, error: Exception, is_said: bool
):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("promptseg.training.loop.Trainer.fit", fails)
    with pytest.raises(type(error)):
        pretrain(make_config())
    assert (f"process 1 of 1 fails: {error}" in caplog.text) is is_said


def _helper(has_begun, may_end) -> None:
    leave_locks()
    has_begun.set()
    may_end.wait(60)


def test_a_forked_helper_that_outlives_its_run_does_not_hold_the_lock(tmp_path):
    fork = multiprocessing.get_context("fork")
    has_begun, may_end = fork.Event(), fork.Event()
    helper = fork.Process(target=_helper, args=(has_begun, may_end))
    with held(tmp_path, ALONE):
        helper.start()
        assert has_begun.wait(60)
    with held(tmp_path, ALONE):  # without an unlock, as after a kill: the descriptors alone are closed
        may_end.set()
    helper.join(60)


def test_a_folder_that_cannot_be_made_is_named_with_the_cure_by_the_command(make_config, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"device": "cpu", "data_root": str(tmp_path), "num_workers": 0}))
    command = [sys.executable, str(SCRIPT), "--config", str(path), "--out-dir", str(tmp_path / "file" / "run")]
    for rank, lines in (("0", 1), ("1", 0)):
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "LOCAL_RANK": rank}, timeout=60
        )
        assert run.returncode == 2 and len(run.stderr.splitlines()) == lines, run.stderr
        assert not lines or "cannot be written (Not a directory)" in run.stderr and "--out-dir" in run.stderr


def test_an_option_that_is_not_yaml_is_named_with_the_cure(tmp_path, monkeypatch, capsys):
    config = str(tmp_path / "none.yaml")
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--config", config, "--set", "data_weights={a: 1"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert end.value.code == 2 and "--set data_weights={a: 1: not YAML" in capsys.readouterr().err


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: CheckpointException("save", {0: (e, None)})])  # type: ignore[arg-type,dict-item]
def test_a_save_that_fails_leaves_the_latest_and_its_scraps_go_before_the_next(tmp_path, monkeypatch, wrap):
    latest = save_checkpoint(tmp_path, 1, {"a": torch.zeros(1)}, {}, ALONE)

    def fails(*_, checkpoint_id, **__):
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half of it")
        raise wrap(OSError(errno.ENOSPC, "No space left on device"))

    honest = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", fails)
    with pytest.raises(RunError, match="cannot be written .No space left on device.; make room"):
        save_checkpoint(tmp_path, 2, {"a": torch.zeros(1)}, {}, ALONE)
    assert find_latest(tmp_path) == latest

    def after_the_scraps(*arguments, **options):
        assert [p.name for p in tmp_path.glob(".step-*")] == [".step-00000003.partial"]
        return honest(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", after_the_scraps)
    save_checkpoint(tmp_path, 3, {"a": torch.zeros(1)}, {}, ALONE)


def test_tensorboard_that_is_asked_for_and_absent_is_refused_before_data_are_read(make_config, tmp_path, monkeypatch):
    honest = builtins.__import__

    def without_tensorboard(name, *arguments):
        if "tensorboard" in name:
            raise ImportError("No module named 'tensorboard'")
        return honest(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_tensorboard)
    with pytest.raises(ValueError, match="tensorboard=True.*pip install tensorboard"):
        pretrain(make_config(tensorboard=True, data_root=str(tmp_path / "none")))


def _fail_on_main(folder: Path) -> str:
    def fail() -> None:
        with writing(folder):
            raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(RunError) as failure:
        on_main(start("cpu"), fail)
    return str(failure.value)


def test_what_fails_on_the_main_process_ends_the_others_too(run_processes, tmp_path):
    said = run_processes(2, _fail_on_main, tmp_path)
    assert "Read-only file system" in said[0] and said[1] == "the main process failed; its message says why"


def test_a_picture_that_cannot_be_written_does_not_end_the_run(make_config, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("promptseg.training.validation._draw", fail)
    trainer = pretrain(make_config(max_steps=2, validation={"every": 2, "crops_per_group": 1, "clicks": 1}))
    assert trainer.step == 2 and "validation goes on without it" in caplog.text
