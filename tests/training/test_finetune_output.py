"""The adapter's folder: what was learned is in it, whatever ends the run, and nothing of another run is lost."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from promptseg.adapters import Adapter
from promptseg.io.locks import locked
from promptseg.training import finetune as module
from promptseg.training.finetune import Finetuner, finetune, read_report
from promptseg.training.finetune_data import load_case, split_cases

from .finetune_runs import draw_cases, options, save_base


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_cases(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "random")


def test_a_folder_that_cannot_be_written_is_known_before_training(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Finetuner, "fit", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out'?: cannot be written .*; choose another folder"):
        finetune(options(data, base, tmp_path / "file" / "out"))
    (tmp_path / "busy").mkdir()
    with locked(tmp_path / "busy"), pytest.raises(ValueError, match="busy'?: another run writes there"):
        finetune(options(data, base, tmp_path / "busy"))


def test_two_runs_at_once_do_not_overwrite_each_other(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def while_it_loads(*given: object) -> object:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "adapter_config.json").touch()
        return load_case(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Finetuner, "fit", lambda *_: pytest.fail("it trained"))
    monkeypatch.setattr(module, "load_case", while_it_loads)
    (data / "one").mkdir()
    shutil.copy(data / "images" / "a.nii.gz", data / "one")
    with pytest.raises(ValueError, match="holds an adapter"):
        finetune(options(data, base, tmp_path / "mine", images=str(data / "one")))


def test_the_adapter_is_kept_where_the_report_is_cut_short(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("promptseg.training.finetune_report.make_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(options(data, base, tmp_path / "mine"))
    assert "holds the adapter; what it gained was not measured" in caplog.text
    assert Adapter.from_pretrained(tmp_path / "mine").config.names == {1: "head", 2: "tail"}
    assert read_report(tmp_path / "mine")["measured"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_and_keeps_what_was_learned(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    honest, handlers = Finetuner.train_step, (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))

    def train_step(tuner: Finetuner, progress: float) -> float:
        if tuner.step == 1:
            signal.raise_signal(number)
        return honest(tuner, progress)

    monkeypatch.setattr(Finetuner, "train_step", train_step)
    report = read_report(finetune(options(data, base, tmp_path / "mine", max_steps=9, validate_every=99)))
    assert report["steps"] == 2
    assert report["history"][-1]["step"] == 2  # the last state was looked at, too
    assert Adapter.from_pretrained(tmp_path / "mine").config.labels
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_run_without_a_step_is_no_adapter(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="minutes=1e-09: over before the first step"):
        finetune(options(data, base, tmp_path / "mine", minutes=1e-9))
    monkeypatch.setattr(Finetuner, "validate", lambda _: signal.raise_signal(signal.SIGINT) or {"score": 0.0})
    (tmp_path / "made").mkdir()
    for name in ("mine", "made"):
        with pytest.raises(KeyboardInterrupt):
            finetune(options(data, base, tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_held_out_cases_without_labels_are_not_counted(data: Path, base: Path, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(data / kind, tmp_path / kind)
    given = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels"), "validation_share": 0.5}
    given |= {"max_steps": 1, "report_cases": 2}
    _, held_out = split_cases(list("abcd"), 0.5, 0)
    path = tmp_path / "labels" / f"{held_out[0]}.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((24, 22, 20), np.uint8), np.diag([-1.0, 1.0, 1.0, 1.0])), path)
    report = read_report(finetune(options(data, base, tmp_path / "mine", **given)))
    assert report["validation_cases"] == held_out
    assert {row["cases"] for row in report["measured"]} == {1}


def test_an_adapter_that_is_there_is_replaced_only_when_asked(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finetune(options(data, base, tmp_path / "mine", max_steps=1))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(Finetuner, "fit", lambda *_: pytest.fail("it trained"))
        with pytest.raises(ValueError, match="holds an adapter: choose another folder, or allow .*--overwrite"):
            finetune(options(data, base, folder, max_steps=1, seed=1))
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "mine.txt").touch()
        with pytest.raises(ValueError, match="is there already and not empty"):
            finetune(options(data, base, tmp_path / "notes", max_steps=1))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    finetune(options(data, base, folder, max_steps=1, seed=1, overwrite=True))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} != before
