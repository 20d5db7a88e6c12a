"""``summary.json``: the challenge's scores by hand, and every number of it from rows that are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from promptseg.evaluation.config import EvaluationConfig
from promptseg.evaluation.episode import blank_record
from promptseg.evaluation.records import StepRecord
from promptseg.evaluation.summary import Curves, case_challenge_scores, summarise_model, without_nan

from .conftest import MemoryCase


def rows(
    dice: Sequence[float], case: str = "case", name: str = "thing", first_step: int = 0, **more: Any
) -> list[StepRecord]:
    """One object's rows; NSD is the Dice less 0.05 unless it is given."""
    blank = blank_record("m", MemoryCase(name=case, patient=f"set/{case}"), None)
    nsd = more.pop("nsd", [d - 0.05 for d in dice])
    return [
        replace(blank, name=name, label=len(name), step=first_step + n, dice=d, iou=d, nsd=s, hd95_mm=1.0, **more)
        for n, (d, s) in enumerate(zip(dice, nsd, strict=True))
    ]


def config(protocol: str, **options: Any) -> EvaluationConfig:
    return EvaluationConfig("catalog", "output", protocol=protocol, bootstrap=50, **options)  # type: ignore[arg-type]


def test_the_challenges_auc_is_the_trapezoid_over_the_five_clicks() -> None:
    integrate = pytest.importorskip("scipy.integrate")
    dice = [0.1, 0.3, 0.5, 0.6, 0.8, 0.9]
    found = case_challenge_scores(Curves(rows(dice)))["set/case"]
    assert found["dsc_auc"] == pytest.approx(0.15 + 0.5 + 0.6 + 0.8 + 0.45)
    assert found["dsc_auc"] == pytest.approx(integrate.cumulative_trapezoid(dice[-5:], np.arange(5))[-1])
    assert found["dsc_final"] == 0.9
    perfect = case_challenge_scores(Curves(rows([1.0] * 6, nsd=[1.0] * 6)))["set/case"]
    assert (perfect["dsc_auc"], perfect["nsd_auc"]) == (4.0, 4.0)


def test_a_cases_nsd_is_zero_where_its_mean_dice_is_not_above_a_fifth() -> None:
    low = rows([0.0, 0.0, 0.3, 0.3, 0.3, 0.3], name="a", nsd=[0.9] * 6)
    high = rows([0.5, 0.4, 0.1, 0.1001, 0.5, 0.5], name="bb", nsd=[0.7] * 6)  # means: .25 .2 .2 .20005 .4 .4
    found = case_challenge_scores(Curves([*low, *high]))["set/case"]
    assert found["nsd_auc"] == pytest.approx(0.0 + 0.4 + 0.8 + 0.8)
    assert found["nsd_final"] == pytest.approx(0.8)


def test_the_challenges_means_are_over_cases_whatever_their_number_of_objects() -> None:
    one = rows([1.0] * 6, case="one", nsd=[1.0] * 6)
    many = [r for name in ("a", "bb", "ccc") for r in rows([0.5] * 6, case="many", name=name)]
    challenge = summarise_model([*one, *many], config("cvpr25"))["challenge"]
    assert challenge["cases"] == 2
    assert challenge["dsc_auc"]["mean"] == pytest.approx((4 + 2) / 2)
    assert challenge["dsc_auc_normalised"]["mean"] == pytest.approx(0.75)
    assert challenge["dsc_auc_normalised"]["high"] == pytest.approx(challenge["dsc_auc"]["high"] / 4)
    assert challenge["dsc_final"]["mean"] == pytest.approx(0.75)


def test_clicks_to_reach_and_curves_of_the_clicks_protocol() -> None:
    records = [*rows([0.79, 0.86, 0.91], "p", first_step=1), *rows([0.2, 0.81, 0.7], "q", first_step=1)]
    found = summarise_model(records, config("clicks", clicks=3))
    assert {k: v["mean"]["mean"] for k, v in found["clicks_to_reach"].items()} == {
        "0.80": 2.0, "0.85": 2.5, "0.90": 3.0,
    }  # fmt: skip
    assert {k: v["share_reached"] for k, v in found["clicks_to_reach"].items()} == {
        "0.80": 1.0, "0.85": 0.5, "0.90": 0.5,
    }  # fmt: skip
    assert [point["step"] for point in found["curve"]] == [1, 2, 3]
    assert found["curve"][1]["dice"]["mean"] == pytest.approx((0.86 + 0.81) / 2)
    assert found["regression"]["corrections"] == 4
    assert found["regression"]["share_much_lower"] == pytest.approx(0.25)
    assert "challenge" not in found


def test_groups_are_sorted_by_the_worst_and_hold_the_curve() -> None:
    good, bad = rows([0.5, 0.9], "p", "good"), rows([0.4, 0.2], "p", "bad")
    found = summarise_model([*good, *bad], config("clicks", clicks=2))
    assert [g["group"] for g in found["by_label"]] == ["set: bad", "set: good"]
    assert found["by_label"][1]["dice"] == [0.5, 0.9]
    assert found["by_dataset"][0]["dice"] == pytest.approx([0.45, 0.55])


def test_seconds_of_the_first_answer_are_kept_apart_though_a_mask_was_handed_over_before() -> None:
    seconds = [math.nan, 2.0, 0.1, 0.3, math.nan, math.nan]
    records = [replace(r, seconds=s, encoder_calls=s) for r, s in zip(rows([0.7] * 6), seconds, strict=True)]
    found = summarise_model(records, config("mask"))
    assert found["seconds"]["first"] == {"median": 2.0, "p95": 2.0}
    assert found["seconds"]["later"]["median"] == pytest.approx(0.2)
    assert found["seconds"]["later"]["p95"] == pytest.approx(0.29)
    assert found["encoder_calls"] == {"first": 2.0, "later": pytest.approx(0.2)}


def test_jitter_is_measured_against_the_first_answer() -> None:
    main = rows([0.8, 0.9], first_step=1)
    shaken = [replace(main[0], repeat=1, dice=0.7), replace(main[0], repeat=2, dice=0.85)]
    found = summarise_model([*main, *shaken], config("clicks", clicks=2))
    assert found["objects"] == 1
    assert found["first"]["dice"]["mean"] == 0.8
    assert found["jitter"]["objects"] == 1
    assert found["jitter"]["mean_dice_difference"] == pytest.approx(0.075)
    assert found["jitter"]["largest_dice_difference"] == pytest.approx(0.1)


def test_failed_and_carried_rows_count_in_means_but_not_in_losses_or_calibration() -> None:
    good = [replace(r, predicted_iou=0.9) for r in rows([0.9, 0.9], "p")]
    good[1] = replace(good[1], is_carried=True)
    failed = [replace(r, is_failed=True) for r in rows([0.0, 0.0], "q")]
    found = summarise_model([*good, *failed], config("clicks", clicks=2))
    assert found["final"]["dice"]["mean"] == pytest.approx(0.45)
    assert found["regression"]["corrections"] == 0
    assert found["calibration"]["count"] == 1


def test_json_has_neither_nan_nor_infinity() -> None:
    content = without_nan({"a": [math.nan, 1.0], "b": {"NaN": math.inf}, "c": "NaN"})
    assert json.loads(json.dumps(content, allow_nan=False)) == {"a": [None, 1.0], "b": {"NaN": None}, "c": "NaN"}
