"""The scorer does not import the model, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
{code}
model = sorted(m for m in sys.modules if m.startswith("promptseg.models") or m in (
    "torch", "monai", "timm", "promptseg.predictor", "promptseg.engine", "promptseg.interaction"))
sys.exit(f"imported {{model}}" if model else 0)
"""

SCORING = """
import numpy as np
from promptseg.evaluation.click_policy import challenge_click, next_click
from promptseg.evaluation.metrics import TrueObject
from promptseg.evaluation.protocols import PROTOCOLS
mask = np.zeros((9, 9, 9), bool)
mask[2:6, 2:6, 2:6] = True
assert TrueObject(mask, (1, 1, 2)).score(np.roll(mask, 1)).dice < 1
assert next_click(mask, ~mask, (1, 1, 2)) and challenge_click(mask, ~mask)
"""

WHOLE_RUN = """
from promptseg.evaluation import EvaluationConfig, compare_reports, run_evaluation
models = ("random-walker", "oracle")
run_evaluation(EvaluationConfig({catalog!r}, {output!r}, models, max_cases=1, clicks=1, bootstrap=5, gallery=0))
assert compare_reports({output!r}, {output!r}).name_a == "random-walker"
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(code=code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code", ["import promptseg.evaluation", "import promptseg.cli.evaluate", SCORING], ids=["import", "cli", "scoring"]
)
def test_the_scorer_does_not_import_the_model(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_a_whole_run_of_baselines_and_its_report_need_no_model(pool: Path, tmp_path: Path) -> None:
    done = run(WHOLE_RUN.format(catalog=str(pool), output=str(tmp_path / "out")))
    assert done.returncode == 0, done.stderr


def test_the_check_can_fail() -> None:
    assert "promptseg.models" in run("import promptseg.models").stderr
