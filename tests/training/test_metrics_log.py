"""The record of a run is JSON, whatever a step gave."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from promptseg.training.loop import setup
from promptseg.training.metrics_log import MetricsLog, StepMeans


def _strict(line: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_means_are_of_the_finite_steps_and_the_others_are_counted():
    means = StepMeans()
    for loss, norm in ((1.0, 2.0), (math.nan, 3.0), (5.0, math.inf), (3.0, 4.0)):
        means.add({"loss": loss, "norm": norm, "dice": math.nan})
    row = means.row()
    assert (row["loss"], row["norm"], row["skipped_steps"], means.steps) == (2.0, 3.0, 2, 4)
    assert math.isnan(row["dice"])


def test_what_is_not_finite_is_null(tmp_path):
    MetricsLog(tmp_path).write(3, {"loss": math.nan, "norm": math.inf, "lr": 0.12345678, "skipped_steps": 2})
    assert _strict((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 3, "loss": None, "norm": None, "lr": 0.123457, "skipped_steps": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("bad_steps", "skipped"), [({1}, 1), ({0, 1}, 2)])
def test_a_step_that_is_not_finite_does_not_spoil_its_row(make_config, bad_steps, skipped):
    config = make_config(max_steps=2)
    trainer = setup(config)
    honest = trainer.train_step

    def train_step(batches, *arguments):
        if trainer.step in bad_steps:
            batches = [{**b, "image": torch.full_like(b["image"], float("nan"))} for b in batches]
        return honest(batches, *arguments)

    trainer.train_step = train_step  # type: ignore[method-assign]
    trainer.fit()
    row = _strict((Path(config.out_dir) / "metrics.jsonl").read_text())
    assert row["skipped_steps"] == row["nonfinite_steps"] == skipped
    assert (row["loss"] is None) == (skipped == 2)
