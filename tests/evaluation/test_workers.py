"""Processes and folders of a run: what ends with it, what does not start, and who else writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptseg.evaluation import EvaluationConfig, run_evaluation, workers
from promptseg.io.locks import locked

SLOW = """
import os, sys, time
from pathlib import Path
from promptseg.evaluation import EvaluationConfig, run_evaluation
from promptseg.evaluation.segmenters import EmptySegmenter

class Slow(EmptySegmenter):
    def predict(self, prompts):
        (Path(sys.path[0]) / "pids" / str(os.getpid())).touch()
        time.sleep(120)

if __name__ == "__main__":
    run_evaluation(EvaluationConfig(sys.argv[1], sys.argv[2], model=("slow:Slow",), workers=2, threads=1))
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_with_a_run_that_is_killed(pool: Path, tmp_path: Path) -> None:
    """They would hold the model, on a GPU too, and wait for work for ever."""
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    (tmp_path / "pids").mkdir()
    run = subprocess.Popen([sys.executable, str(tmp_path / "slow.py"), str(pool), str(tmp_path / "out")])
    limit = time.monotonic() + 120
    while not (pids := [int(p.name) for p in (tmp_path / "pids").iterdir()]) and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert pids, "no worker came to its first object"
    limit = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_workers_that_do_not_start_are_no_fault_of_the_cases(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_start_worker", os._exit)
    with pytest.raises(ValueError, match=r'workers=2: the processes die when they start.*__name__ == "__main__"'):
        run_evaluation(EvaluationConfig(str(pool), str(tmp_path / "out"), model=("empty",), workers=2))
    assert not list((tmp_path / "out").rglob("cases/*/*"))


def test_a_folder_in_which_another_run_is_writing_is_refused(pool: Path, tmp_path: Path) -> None:
    config = EvaluationConfig(str(pool), str(tmp_path / "out"), model=("empty",), clicks=1, max_cases=1, gallery=0)
    run_evaluation(config)
    with locked(tmp_path / "out"), pytest.raises(ValueError, match="another run is writing there; wait for it to end"):
        run_evaluation(EvaluationConfig(str(pool), str(tmp_path / "out"), model=("empty",), resume=False))
    assert len(list((tmp_path / "out" / "cases" / "empty").iterdir())) == 2
    run_evaluation(config)
