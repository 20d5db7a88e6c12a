"""Comparisons: paired differences, their intervals, and reports that cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptseg.evaluation.compare import CompareConfig, compare_reports, write_comparison
from promptseg.evaluation.episode import blank_record, failed_case_records
from promptseg.evaluation.protocols import choose_protocol
from promptseg.evaluation.records import StepRecord, write_csv

from .conftest import MemoryCase

MakeReport = Callable[..., Path]


def record(case: int, step: int, dice: float, model: str = "new", voxels: int = 100) -> StepRecord:
    blank = blank_record(model, MemoryCase(name=f"c{case}", patient=f"set/p{case // 2}"), None)
    return replace(
        blank, name="thing", step=step, voxels=voxels, dice=dice, nsd=dice, hd95_mm=5 * (1 - dice), seconds=0.1
    )


@pytest.fixture
def make_report(tmp_path: Path) -> MakeReport:
    """Writes a report's folder from (cases, steps) Dice."""

    def make(name: str, dice: np.ndarray, models: tuple[str, ...] = ("new",), **settings: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        records = [
            record(case, step + 1, float(dice[case, step]), model, settings.get("voxels", 100))
            for model in models
            for case in range(dice.shape[0])
            for step in range(dice.shape[1])
        ]
        write_csv(records, folder / "results.csv")
        described = {m: {"objects": len(dice), "is_baseline": m == "random-walker"} for m in models}
        common = {"protocol": "clicks", "corrections": 2, "tolerance_mm": 2.0, "seed": 0}
        content = {"settings": {**common, **settings}, "models": described}
        (folder / "summary.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def scores() -> np.ndarray:
    """(cases, steps) that differ much from case to case."""
    return np.random.default_rng(0).uniform(0.2, 0.8, (40, 2))


def test_a_small_gain_on_every_object_is_found_though_objects_differ_much(
    make_report: MakeReport, scores: np.ndarray
) -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, scores.shape)
    found = compare_reports(make_report("a", scores), make_report("b", scores + 0.02 + noise))
    final = found.differences[0]
    assert final.quantity == "Dice, step 2"
    assert final.mean == pytest.approx(0.02, abs=0.005)
    assert 0.01 < final.low < final.mean < final.high < 0.03
    assert final.b - final.a == pytest.approx(final.mean)
    assert found.verdict == "better"
    assert (found.pairs, found.patients, found.only_a, found.only_b) == (40, 20, 0, 0)
    hd95 = next(d for d in found.differences if d.quantity.startswith("HD95"))
    assert hd95.mean < 0
    assert hd95.verdict == "better"


def test_the_order_of_the_reports_turns_the_verdict_round(make_report: MakeReport, scores: np.ndarray) -> None:
    a, b = make_report("a", scores), make_report("b", scores + 0.05)
    there, back = compare_reports(a, b), compare_reports(b, a)
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.differences[0].mean == pytest.approx(-back.differences[0].mean)


def test_noise_is_undecided_and_equal_reports_differ_by_nothing(make_report: MakeReport, scores: np.ndarray) -> None:
    a = make_report("a", scores)
    noise = np.random.default_rng(2).normal(0, 0.1, scores.shape)
    assert compare_reports(a, make_report("b", scores + noise - noise.mean(axis=0))).verdict == "undecided"
    same = compare_reports(a, make_report("same", scores))
    assert all(d.mean == d.low == d.high == 0 and d.verdict == "undecided" for d in same.differences)


def test_only_objects_in_both_are_compared_and_the_others_are_counted(
    make_report: MakeReport, scores: np.ndarray
) -> None:
    found = compare_reports(make_report("a", scores), make_report("b", scores[:30] + 0.1))
    assert (found.pairs, found.only_a, found.only_b) == (30, 10, 0)
    assert found.differences[0].a == pytest.approx(scores[:30, 1].mean())
    assert "Left out: 10 objects only in A" in found.to_markdown()


@pytest.mark.parametrize(
    "other",
    [{"protocol": "box"}, {"corrections": 5}, {"tolerance_mm": 1.0}, {"seed": 7}, {"click_depth": 0.4}],
    ids=lambda o: next(iter(o)),
)
def test_reports_of_another_protocol_are_refused(
    make_report: MakeReport, scores: np.ndarray, other: dict[str, Any]
) -> None:
    name = next(iter(other))
    with pytest.raises(ValueError, match=rf"made with {name}=.*evaluate both in the same way"):
        compare_reports(make_report("a", scores), make_report("b", scores, **other))


def test_objects_whose_true_size_differs_are_refused(make_report: MakeReport, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="has 100 voxels in one and 90 in the other"):
        compare_reports(make_report("a", scores), make_report("b", scores, voxels=90))


def test_a_case_that_one_model_could_not_compute_counts_as_zero_for_each_of_its_objects(tmp_path: Path) -> None:
    """Left out, the crash on a hard case would have made that model the better one."""
    protocol = choose_protocol("clicks", 2)
    easy = [record(0, step, 0.7) for step in (1, 2)]
    hard = [replace(record(2, step, 0.3), name=name) for name in ("thing", "other") for step in (1, 2)]
    failed = failed_case_records("new", MemoryCase(name="c2", patient="set/p1"), protocol)
    for name, records in (("a", [*easy, *hard]), ("b", [*easy, *failed])):
        (tmp_path / name).mkdir()
        write_csv(records, tmp_path / name / "results.csv")
        settings = {"protocol": "clicks", "corrections": 2, "tolerance_mm": 2.0, "seed": 0}
        models = {"new": {"objects": 3, "is_baseline": False}}
        (tmp_path / name / "summary.json").write_text(json.dumps({"settings": settings, "models": models}))
    for a, b, sign in (("a", "b", -1), ("b", "a", 1)):
        found = compare_reports(tmp_path / a, tmp_path / b)
        assert (found.pairs, found.patients, found.only_a, found.only_b) == (3, 2, 0, 0)
        assert found.differences[0].mean == pytest.approx(sign * (0 + 0.3 + 0.3) / 3)


def test_the_challenges_scores_are_compared_over_the_objects_that_both_have(tmp_path: Path) -> None:
    """Of one report the small objects were left out; where both looked, they are equal."""
    for name, objects in (("a", {"large": 0.8, "small": 0.4}), ("b", {"large": 0.8})):
        (tmp_path / name).mkdir()
        records = [replace(record(0, step, dice), name=what) for what, dice in objects.items() for step in range(6)]
        write_csv(records, tmp_path / name / "results.csv")
        settings = {"protocol": "cvpr25", "corrections": 5, "tolerance_mm": 2.0, "seed": 0}
        models = {"new": {"objects": len(objects), "is_baseline": False}}
        (tmp_path / name / "summary.json").write_text(json.dumps({"settings": settings, "models": models}))
    found = compare_reports(tmp_path / "a", tmp_path / "b")
    scores = {d.quantity: (d.a, d.b) for d in found.differences if d.quantity.startswith("challenge")}
    assert len(scores) == 4
    assert scores["challenge's DSC AUC"] == (pytest.approx(3.2), pytest.approx(3.2))


def test_two_models_of_one_report_are_compared(make_report: MakeReport, scores: np.ndarray) -> None:
    folder = make_report("a", scores, ("random-walker", "new", "old"))
    found = compare_reports(folder, folder)
    assert (found.name_a, found.name_b) == ("new", "old")
    config = CompareConfig(str(folder), str(folder), model_a="random-walker", model_b="new")
    assert compare_reports(folder, folder, config).name_a == "random-walker"
    with pytest.raises(ValueError, match="no model 'none' in it; it has random-walker, new, old"):
        compare_reports(folder, folder, CompareConfig("", "", model_a="none"))
    alone = make_report("alone", scores)
    with pytest.raises(ValueError, match="one model only"):
        compare_reports(alone, alone)


def test_what_is_no_report_is_said(make_report: MakeReport, scores: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no summary.json"):
        compare_reports(tmp_path, make_report("a", scores))


def test_a_comparison_is_written_as_json_whatever_the_models_are_called(
    make_report: MakeReport, scores: np.ndarray, tmp_path: Path
) -> None:
    a, b = make_report("a", scores[:1], ("NaN-net",)), make_report("b", scores[:1], ("NaN-net",))
    path = write_comparison(compare_reports(a, b), tmp_path / "out.json")
    content = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert content["name_a"] == "NaN-net"
    assert content["differences"][0]["low"] is None  # one patient has no interval
    assert content["differences"][0]["verdict"] == "undecided"
