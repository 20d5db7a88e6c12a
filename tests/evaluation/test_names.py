"""What is measured of names: presence, left and right, what a name adds to a click, and everything found at once."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from promptseg.cli import main
from promptseg.evaluation import run_evaluation
from promptseg.evaluation.compare import compare_reports
from promptseg.evaluation.config import EvaluationConfig
from promptseg.evaluation.names import absent_names, meaning_of, mirrored_names
from promptseg.evaluation.naming import area_under_roc
from promptseg.evaluation.predictor_adapter import PredictorSegmenter
from promptseg.evaluation.prompts import ObjectPrompts
from promptseg.evaluation.records import read_csv
from promptseg.evaluation.segmenters import SegmenterImage

from .conftest import ball

SHAPE = (24, 20, 12)


@pytest.fixture(scope="module")
def abdomens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases with two kidneys, of which the second has no liver, and one structure nobody can name."""
    folder = tmp_path_factory.mktemp("abdomens")
    cases = []
    for number in range(3):
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[ball(SHAPE, (5, 12, 6), 3.0)] = 1
        labels[ball(SHAPE, (18, 12, 6), 3.0)] = 2
        if number != 1:
            labels[ball(SHAPE, (8, 4, 5), 3.0)] = 3
        labels[0, 0, 0] = 4
        image = np.random.default_rng(number).normal(100, 5, SHAPE) + 50 * labels
        for kind, array in (("image", image.astype(np.float32)), ("label", labels)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{kind}{number}.nii.gz")
        files = {"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz"}
        cases.append({"case": f"c{number}", "patient": f"p{number}", "fold": "validation", **files})
    names = {"1": "kidney right", "2": "kidney left", "3": "liver", "4": "thingamajig"}
    content = {"name": "abdomens", "licence": "CC0", "citation": "none", "modality": "CT", "complete": True}
    content |= {"labels": names, "cases": cases}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def evaluate(catalog: Path, output: Path, *models: str, **options: Any) -> Any:
    """A small run."""
    fast: dict[str, Any] = {"bootstrap": 20, "gallery": 1, "jitter_repeats": 0}
    config = EvaluationConfig(str(catalog), str(output), model=models, **{**fast, **options})
    return run_evaluation(config)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A segmenter that is told the truth and answers as it likes."""
    code = f"from promptseg.evaluation.segmenters import *\nclass Made(OracleSegmenter):\n{body}\n"
    module = f"made_in_{folder.name}"
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return f"mirror={module}:Made"


def test_what_is_absent_is_asked_for_and_does_not_count_as_an_object(
    abdomens: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = evaluate(abdomens, tmp_path / "r", "oracle", "empty", protocol="text", absent=("hippocampus", "spleen"))
    oracle, empty = (result.summary["models"][name] for name in ("oracle", "empty"))
    assert oracle["objects"] == 8  # two kidneys in each, two livers; what cannot be named is left out
    assert oracle["first"]["dice"]["mean"] == 1.0
    assert oracle["failures"] == []
    names = oracle["names"]
    # the liver that is not there, and the hippocampus everywhere; a spleen may be in an abdomen
    assert (names["present"], names["absent"], names["absent_asked"]) == (8, 4, 4)
    assert names["presence_auc"] == 1.0
    assert names["absent_answered"] == 0.0
    assert (names["sided"], names["sides_confused"], names["other_side_share"]) == (6, 0.0, 0.0)
    assert empty["names"]["presence_auc"] is None  # it estimates no presence
    asked = [r for r in result.records if r.is_absent and r.model == "oracle"]
    assert sorted((r.case, r.name) for r in asked) == [
        ("c0", "hippocampus"),
        ("c1", "hippocampus"),
        ("c1", "liver"),
        ("c2", "hippocampus"),
    ]
    page = result.report.read_text(encoding="utf-8")
    assert "presence: AUROC" in page
    assert result.summary["unnamed_objects"] == {"thingamajig": 3}
    assert "does not have their names: thingamajig (3)" in page
    assert any("left out, as the vocabulary" in message and "thingamajig (3)" in message for message in caplog.messages)
    again = evaluate(abdomens, tmp_path / "r", "oracle", "empty", protocol="text", absent=("hippocampus", "spleen"))
    assert again.summary["models"]["oracle"]["names"] == names
    with pytest.raises(ValueError, match=r"made with absent=\['hippocampus', 'spleen'\], and now it is None"):
        evaluate(abdomens, tmp_path / "r", "oracle", protocol="text")


def test_a_model_that_swaps_left_and_right_is_found_out(
    abdomens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = (
        "    def predict(self, prompts):\n"
        "        return SegmenterAnswer(self._truth[::-1], presence=0.5 if self._truth.any() else 0.7)\n"
    )
    model = made(tmp_path, monkeypatch, body)
    words = ["--catalog", abdomens, "-o", tmp_path / "r", "--model", model, "--protocol", "text", "--gallery", 0]
    assert main(["evaluate", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert "mirror: presence AUROC 0.000 (8 present, 1 absent); left and right confused in 100.0% of 6" in printed


def test_a_name_with_a_click_is_compared_with_the_click_alone(
    abdomens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "    def predict(self, prompts):\n"
        "        assert len(prompts.points)\n"
        "        return SegmenterAnswer(self._truth if prompts.text else self._truth & False)\n"
    )
    model = made(tmp_path, monkeypatch, body)
    alone = evaluate(abdomens, tmp_path / "clicks", model, protocol="clicks", clicks=2)
    beside = evaluate(abdomens, tmp_path / "named", model, protocol="named", clicks=2)
    assert {r.prompt for r in beside.records if r.step == 1} == {"click+"}
    assert not any(r.is_absent for r in beside.records)
    clicks, also = (
        {(r.case, r.name): (r.ras_x, r.ras_y, r.ras_z) for r in result.records if r.step == 1 and r.label < 4}
        for result in (alone, beside)
    )
    assert clicks == also
    comparison = compare_reports(tmp_path / "clicks", tmp_path / "named")
    assert comparison.pairs == 8
    assert comparison.differences[0].mean == 1.0
    evaluate(abdomens, tmp_path / "text", "oracle", protocol="text")
    with pytest.raises(ValueError, match="protocol='clicks' and"):
        compare_reports(tmp_path / "clicks", tmp_path / "text")


def test_everything_is_found_once_for_an_image_and_what_is_unknown_is_empty() -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:5] = 1
    calls: list[object] = []

    def segment_all() -> Any:
        calls.append(None)
        return SimpleNamespace(
            names={1: "left kidney"}, labels=labels, scores={1: 0.7}, presence={1: 0.9}, encoder_calls=4
        )

    predictor = SimpleNamespace(
        understands_text=True, segment_all=segment_all, clear=lambda: None, set_image=lambda *_, **__: None
    )
    segmenter = PredictorSegmenter(predictor)
    assert {"text", "automatic"} <= segmenter.accepts
    segmenter.set_image(SegmenterImage(labels, np.eye(4)))
    answer = segmenter.predict(ObjectPrompts(text="kidney_left", is_automatic=True))
    assert np.array_equal(answer.mask, labels == 1)
    assert (answer.score, answer.presence, answer.encoder_calls) == (0.7, 0.9, 4)
    assert not answer.is_looked_up
    other = segmenter.predict(ObjectPrompts(text="liver", is_automatic=True))
    assert not np.any(other.mask)
    assert (other.presence, other.encoder_calls) == (0.0, 0)
    assert other.is_looked_up
    assert len(calls) == 1
    segmenter.set_image(SegmenterImage(labels, np.eye(4)))
    segmenter.predict(ObjectPrompts(text="liver", is_automatic=True))
    assert len(calls) == 2


def test_the_automatic_protocol_scores_each_structure(abdomens: Path, tmp_path: Path) -> None:
    result = evaluate(abdomens, tmp_path / "r", "oracle", protocol="auto")
    assert result.summary["models"]["oracle"]["first"]["dice"]["mean"] == 1.0
    assert {r.prompt for r in result.records} == {"automatic"}
    groups = {g["group"] for g in result.summary["models"]["oracle"]["by_label"]}
    assert groups == {"abdomens: kidney right", "abdomens: kidney left", "abdomens: liver"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"absent": ("liver",)}, "--absent 'liver': only with the protocols text and auto"),
        ({"absent": ("dragon",), "protocol": "text"}, "--absent 'dragon': not in the vocabulary"),
        ({"protocol": "auto", "clicks": 2}, "protocol auto has none"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig("data", "out", **options)


def test_reports_of_earlier_releases_are_still_read(abdomens: Path, tmp_path: Path) -> None:
    result = evaluate(abdomens, tmp_path / "r", "oracle", clicks=1)
    path = tmp_path / "r" / "results.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    kept = [name for name in rows[0] if name not in ("presence", "other_side", "is_absent")]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    before = [replace(r, presence=np.nan, other_side=np.nan) for r in result.records]
    assert repr(read_csv(path)) == repr(before).replace("np.float64(nan)", "nan")


def test_absent_names_leave_out_what_may_be_there() -> None:
    head = ("left hippocampus", "cerebellum")
    assert absent_names(["liver", "brainstem", "right hippocampus", "left lung", "tibia"], head) == [
        "liver",
        "left lung",
        "tibia",
    ]
    assert absent_names(["liver", "hippocampus"], ["label 3"]) == ["liver", "hippocampus"]
    assert meaning_of("thingamajig") is None


def test_other_sides_are_found_whatever_the_words() -> None:
    names = ["kidney left", "Ren dexter", "liver", "left lung"]
    assert mirrored_names(names) == {"kidney left": "Ren dexter", "Ren dexter": "kidney left"}


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = rng.integers(0, 9, 40) / 8, rng.integers(0, 7, 30) / 8
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert area_under_roc(positives, negatives) == pytest.approx(np.mean(pairs))
    assert np.isnan(area_under_roc(positives, np.array([np.nan])))
