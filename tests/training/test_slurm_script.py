"""``train/pretrain.slurm`` beside stand-ins for SLURM: when a job queues itself again, and when it does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "train" / "pretrain.slurm"
STEP = """#!/usr/bin/env bash
echo "$@" > arguments
trap 'echo TERM > got; exit {at_term}' TERM
echo $$ > step
for _ in $(seq {tenths}); do sleep 0.1; done
exit {at_end}
"""
COMMANDS = {
    "scancel": '#!/usr/bin/env bash\n[[ $1 == --signal=TERM && $2 == 7 ]] && kill -TERM "$(cat step)"\n',
    "scontrol": '#!/usr/bin/env bash\nif [[ $1 == show ]]; then printf "n1\\nn2\\n"; else echo "$@" >> asked; fi\n',
}

pytestmark = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="SLURM scripts are for bash")


class Job:
    """The script as SLURM's batch step, in a folder of its own."""

    def __init__(self, folder: Path, *, tenths: int, at_end: int = 0, at_term: int = 1) -> None:
        self.folder = folder
        for name, text in {**COMMANDS, "srun": STEP.format(tenths=tenths, at_end=at_end, at_term=at_term)}.items():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)
        given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
        environment = {**os.environ, **given, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        self.process = subprocess.Popen(["bash", str(SCRIPT), "a.yaml", "DATA"], cwd=folder, env=environment)

    def send(self, signum: int) -> None:
        """A signal to the batch step once the training runs."""
        for _ in range(100):
            if (self.folder / "step").exists():
                time.sleep(0.2)
                self.process.send_signal(signum)
                return
            time.sleep(0.1)
        raise AssertionError("the step did not start")

    def end(self) -> tuple[int, str]:
        """Exit status, and what was asked of ``scontrol``."""
        status = self.process.wait(timeout=30)
        asked = self.folder / "asked"
        return status, asked.read_text(encoding="utf-8").strip() if asked.exists() else ""


def test_job_whose_time_is_up_stops_its_step_and_queues_itself_again(tmp_path: Path) -> None:
    job = Job(tmp_path, tenths=200)
    job.send(signal.SIGUSR1)
    assert job.end() == (1, "requeue 7")
    assert (tmp_path / "got").read_text(encoding="utf-8") == "TERM\n"


@pytest.mark.parametrize("status", [0, 3])
def test_job_that_ends_by_itself_keeps_its_status_and_is_not_queued_again(tmp_path: Path, status: int) -> None:
    assert Job(tmp_path, tenths=1, at_end=status).end() == (status, "")


def test_job_that_finishes_when_its_time_is_up_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, tenths=200, at_term=0)
    job.send(signal.SIGUSR1)
    assert job.end() == (0, "")


def test_job_that_is_cancelled_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, tenths=20)
    job.send(signal.SIGTERM)
    status, asked = job.end()
    assert status != 0
    assert asked == ""


def test_step_meets_at_the_first_machine_with_all_gpus(tmp_path: Path) -> None:
    Job(tmp_path, tenths=1).end()
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").split()
    for option, value in {"--rdzv-endpoint": "n1:29500", "--nnodes": "2", "--nproc-per-node": "8"}.items():
        assert arguments[arguments.index(option) + 1] == value
    assert arguments[-5:] == ["train/pretrain.py", "--config", "a.yaml", "--data-root", "DATA"]
