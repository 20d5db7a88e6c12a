"""Whole runs: workers, resumes, failures and refusals, on a small pool of cases."""

from __future__ import annotations

import json
import logging
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from promptseg.evaluation import EvaluationConfig, EvaluationResult, run_evaluation
from promptseg.evaluation.cases import find_cases
from promptseg.evaluation.records import read_csv
from promptseg.evaluation.registry import parse_specs
from promptseg.evaluation.runner import choose_cases, without_timing, write_results
from promptseg.evaluation.work import CaseTask, failed_case, run_case, write_case_file

from .conftest import write_pool

MODELS = ("clicked-voxels", "box-as-mask", "oracle", "empty")


def evaluate(catalog: Path, output: Path, **options: Any) -> EvaluationResult:
    options = {"model": MODELS, "clicks": 3, "jitter_repeats": 1, "gallery": 0, "bootstrap": 20, **options}
    return run_evaluation(EvaluationConfig(str(catalog), str(output), **options))


def rows(result: EvaluationResult) -> str:
    return repr([without_timing(r) for r in result.records])


@pytest.fixture(scope="module")
def reference(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    """A run in this process."""
    return evaluate(pool, tmp_path_factory.mktemp("reports") / "reference")


def factory(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str) -> str:
    """A segmenter of the test's own, as ``--model`` takes it."""
    code = f"""
import os
import numpy as np
from promptseg.evaluation.segmenters import ClickedVoxelsSegmenter

class Made(ClickedVoxelsSegmenter):
{textwrap.indent(textwrap.dedent(body), "    ")}
"""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return f"{name}:Made"


def test_a_run_scores_the_oracle_one_with_one_click_and_the_empty_model_zero(reference: EvaluationResult) -> None:
    oracle, empty = (reference.summary["models"][name] for name in ("oracle", "empty"))
    assert (oracle["objects"], oracle["cases"], oracle["patients"], oracle["datasets"]) == (10, 5, 4, 2)
    assert oracle["first"]["dice"]["mean"] == oracle["final"]["nsd"]["mean"] == 1.0
    assert {entry["mean"]["mean"] for entry in oracle["clicks_to_reach"].values()} == {1.0}
    assert oracle["clicks_respected"] == {"newest": 1.0, "all": 1.0}
    assert empty["final"]["dice"]["mean"] == empty["final"]["lesion_f1"]["mean"] == 0.0
    assert empty["clicks_to_reach"]["0.80"] == {"mean": {"mean": 3.0, "low": 3.0, "high": 3.0}, "share_reached": 0.0}
    assert empty["clicks_respected"]["newest"] == 0.0


def test_the_table_has_a_row_for_each_case_object_and_step_and_reads_back(reference: EvaluationResult) -> None:
    back = read_csv(reference.output / "results.csv")
    assert repr(back) == repr(list(reference.records))
    main = [(r.model, r.dataset, r.case, r.name, r.step) for r in back if r.repeat == 0]
    assert len(main) == len(set(main)) == 4 * 10 * 3
    assert {r.name for r in back} == {"ball", "hole"}
    assert json.loads((reference.output / "summary.json").read_text()) == reference.summary
    assert reference.summary["environment"]["git_revision"] is not None
    assert not list(reference.output.rglob("*.partial"))


def test_places_are_in_world_millimetres_of_the_file(reference: EvaluationResult, pool: Path) -> None:
    import nibabel as nib
    import numpy as np

    volume = nib.load(pool / "alpha" / "labels" / "a1.nii.gz")  # type: ignore[attr-defined]
    labels, back = np.asarray(volume.dataobj), np.linalg.inv(volume.affine)  # type: ignore[attr-defined]
    first = [r for r in reference.records if (r.case, r.model, r.step, r.repeat) == ("a1", "clicked-voxels", 1, 0)]
    for r in first:
        voxel = back[:3, :3] @ [r.ras_x, r.ras_y, r.ras_z] + back[:3, 3]
        assert labels[tuple(np.rint(voxel).astype(int))] == r.label


def test_results_do_not_depend_on_the_number_of_workers(
    reference: EvaluationResult, pool: Path, tmp_path: Path
) -> None:
    by_two = evaluate(pool, tmp_path / "two", workers=2, threads=1)
    assert rows(by_two) == rows(reference)
    for name in MODELS:
        one, two = (r.summary["models"][name] for r in (reference, by_two))
        timed = ("seconds", "peak_memory_mb")
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}


def test_results_do_not_depend_on_a_resume_and_what_is_there_is_not_computed_again(
    reference: EvaluationResult, pool: Path, tmp_path: Path
) -> None:
    output = tmp_path / "resumed"
    shutil.copytree(reference.output, output)
    kept = output / "cases" / "oracle" / "alpha__a2.json"
    (output / "cases" / "oracle" / "alpha__a1.json").unlink()
    (output / "cases" / "box-as-mask" / "beta__b0.json").write_text('{"records": [', encoding="utf-8")
    shutil.rmtree(output / "cases" / "empty")
    (output / "results.csv").unlink()
    before = kept.stat().st_mtime_ns
    assert rows(evaluate(pool, output)) == rows(reference)
    assert kept.stat().st_mtime_ns == before


def test_one_more_model_is_added_to_a_report_and_no_resume_starts_afresh(
    reference: EvaluationResult, pool: Path, tmp_path: Path
) -> None:
    output = tmp_path / "more"
    first = evaluate(pool, output, model=("oracle",), max_cases=1)
    assert first.summary["models"]["oracle"]["cases"] == 2
    before = {p: p.stat().st_mtime_ns for p in (output / "cases").rglob("*.json")}
    second = evaluate(pool, output, model=("oracle", "empty"))
    assert list(second.summary["models"]) == ["oracle", "empty"]
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())
    evaluate(pool, output, model=("oracle",), max_cases=1, resume=False)
    assert all(p.stat().st_mtime_ns != time for p, time in before.items())
    assert len(list((output / "cases").rglob("*.json"))) == 2


def test_a_changed_label_file_makes_its_case_stale(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    output = tmp_path / "out"
    evaluate(pool, output, model=("oracle",), max_cases=1)
    case = next((output / "cases" / "oracle").glob("beta*"))
    before = case.stat().st_mtime_ns
    evaluate(pool, output, model=("oracle",), max_cases=1)
    assert case.stat().st_mtime_ns == before
    (pool / "beta" / "labels" / "b0.nii.gz").touch()
    evaluate(pool, output, model=("oracle",), max_cases=1)
    assert case.stat().st_mtime_ns != before


def test_a_changed_catalog_makes_its_cases_stale(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    listing = pool / "beta" / "dataset.json"
    evaluate(pool, tmp_path / "out", model=("oracle",), max_cases=1)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cases" / "oracle").glob("alpha*")}
    content = json.loads(listing.read_text())
    content["labels"]["1"], content["cases"][0]["patient"] = "sphere", "p9"
    listing.write_text(json.dumps(content))
    result = evaluate(pool, tmp_path / "out", model=("oracle",), max_cases=1)
    found = {(r.name, r.patient) for r in result.records if r.dataset == "beta"}
    assert found == {("sphere", "beta/p9"), ("hole", "beta/p9")}
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    pool = pool.rename(tmp_path / "elsewhere")
    evaluate(pool, tmp_path / "out", model=("oracle",), max_cases=1)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_a_data_set_that_is_described_twice_counts_once_or_is_refused(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    text = "name: {}\nlicence: CC0\ncitation: none\nmodality: CT\nlayout: dataset_json\n"
    own = pool / "alpha" / "catalog.yaml"
    own.write_text(text.format("mine"))
    found = [(case.dataset, case.name) for case in find_cases(pool, "validation")]
    assert found == [("beta", "b0"), *(("mine", f"a{n}") for n in range(1, 5))]
    own.rename(pool / "alpha" / "other.yaml").write_text(text.format("alpha"))
    with pytest.raises(ValueError, match="alpha/a1 is there twice, in two catalogs of one name"):
        find_cases(pool, "validation")


def test_a_resume_with_other_settings_weights_or_code_is_refused_or_said(
    reference: EvaluationResult, pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "other"
    shutil.copytree(reference.output, output)
    for options in (
        {"seed": 1},
        {"clicks": 4},
        {"tolerance_mm": 1.0},
        {"click_depth": 0.4},
        {"protocol": "box", "clicks": None},
    ):
        with pytest.raises(ValueError, match=r"made with .*choose another folder with -o"):
            evaluate(pool, output, **options)
    run = json.loads((output / "run.json").read_text())
    run["revisions"]["box-as-mask"] = "0123"
    (output / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="box-as-mask had other weights or parameters"):
        evaluate(pool, output)
    run["revisions"], run["code"] = {}, "0.0.1 abcdef"
    (output / "run.json").write_text(json.dumps(run))
    with caplog.at_level(logging.WARNING, "promptseg"):
        evaluate(pool, output)
    assert any("were made with promptseg 0.0.1 abcdef" in message for message in caplog.messages)


def test_a_folder_that_is_no_report_is_not_touched(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not empty and not a report"):
        evaluate(pool, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        evaluate(pool, tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_case_that_cannot_be_read_counts_as_zero_and_is_listed(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    path = pool / "alpha" / "images" / "a2.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    result = evaluate(pool, tmp_path / "out", model=("oracle",))
    found = result.summary["models"]["oracle"]
    assert [f["case"] for f in found["failures"]] == ["alpha/a2"]
    assert found["objects"] == 9
    assert found["final"]["dice"]["mean"] == pytest.approx(8 / 9)
    assert "alpha/a2" in result.report.read_text()
    failed = [r for r in result.records if r.is_failed]
    assert {r.step for r in failed} == {1, 2, 3}


def test_an_object_on_which_the_model_raises_counts_as_zero_and_is_tried_again_by_a_resume(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = factory(tmp_path, monkeypatch, "raising", """
        def predict(self, prompts):
            if len(prompts.points) == 2 and os.environ.get("RAISES") and self._shape[0] == 22:
                raise MemoryError("no room")
            return super().predict(prompts)
    """)  # fmt: skip
    monkeypatch.setenv("RAISES", "1")
    broken = evaluate(pool, tmp_path / "out", model=(model,), max_cases=1)
    found = broken.summary["models"][model]
    assert len(found["failures"]) == found["objects"] == 4
    assert found["final"]["dice"]["mean"] == 0.0
    assert "MemoryError: no room" in found["failures"][0]["error"]
    monkeypatch.delenv("RAISES")
    mended = evaluate(pool, tmp_path / "out", model=(model,), max_cases=1)
    assert mended.summary["models"][model]["failures"] == []
    assert mended.summary["models"][model]["final"]["dice"]["mean"] > 0


def test_a_process_that_dies_takes_down_nothing_but_its_case(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = factory(tmp_path, monkeypatch, "dying", """
        def set_image(self, image):
            super().set_image(image)
            self.kills = abs(float(image.array.mean()) - KILL) < 1e-6
        def predict(self, prompts):
            if self.kills:
                os._exit(9)
            return super().predict(prompts)
    """)  # fmt: skip
    loaded = next(c for c in find_cases(pool, "validation") if c.name == "a3").load()
    path = tmp_path / "dying.py"
    path.write_text(f"KILL = {float(loaded.image.array.mean())!r}\n" + path.read_text())
    result = evaluate(pool, tmp_path / "out", model=(model,), workers=2, threads=1)
    found = result.summary["models"][model]
    assert [f["case"] for f in found["failures"]] == ["alpha/a3"]
    assert "process died" in found["failures"][0]["error"]
    assert found["cases"] == 5
    assert sum(r.is_failed for r in result.records) == 3


def test_a_case_that_one_model_cannot_compute_is_a_zero_for_each_of_its_objects(pool: Path, tmp_path: Path) -> None:
    config = EvaluationConfig(str(pool), str(tmp_path), model=("oracle", "empty"), max_cases=1, clicks=2)
    cases = choose_cases(find_cases(pool, "validation"), config)
    tasks = [
        CaseTask(spec, "", c, config.settings(), str(tmp_path)) for spec in parse_specs(config.model) for c in cases
    ]
    for task in tasks:
        is_dead = task.spec.name == "empty" and task.case.dataset == "alpha"
        if is_dead:
            write_case_file(task, failed_case(task, "the process died"))
        else:
            run_case(task, task.spec.build())
    result = write_results(config, parse_specs(config.model), tasks)
    oracle, empty = (result.summary["models"][name] for name in ("oracle", "empty"))
    assert (empty["objects"], empty["final"]["dice"]["mean"]) == (oracle["objects"], 0.0) == (4, 0.0)
    assert [f["error"] for f in empty["failures"]] == ["the process died"]
    failed = {(r.name, r.step) for r in result.records if r.is_failed}
    assert failed == {(name, step) for name in ("ball", "hole") for step in (1, 2)}


def test_models_that_do_not_understand_the_protocol_are_left_out(
    pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"protocol": "text", "clicks": None, "max_cases": 1}
    with caplog.at_level(logging.WARNING, "promptseg"):
        result = evaluate(pool, tmp_path / "out", model=("oracle", "region-growing"), **options)
    assert list(result.summary["models"]) == ["oracle"]
    assert any("region-growing is left out" in message for message in caplog.messages)
    with pytest.raises(ValueError, match="none of region-growing understands text"):
        evaluate(pool, tmp_path / "none", model=("region-growing",), **options)


def test_cases_and_objects_are_drawn_with_the_seed(pool: Path, tmp_path: Path) -> None:
    cases = find_cases(pool, "all")
    drawn = {
        seed: [c.name for c in choose_cases(cases, EvaluationConfig("c", "o", max_cases=2, seed=seed))]
        for seed in range(5)
    }
    assert all(len(names) == 3 and "b0" in names for names in drawn.values())
    assert len({tuple(names) for names in drawn.values()}) > 1
    result = evaluate(pool, tmp_path / "out", model=("oracle",), max_objects=1, min_voxels=200)
    assert result.summary["models"]["oracle"]["objects"] == 5
    assert result.summary["skipped_objects"] == 5
    assert {r.name for r in result.records} == {"ball"}


def test_folds_and_missing_catalogs_are_named(pool: Path, tmp_path: Path) -> None:
    assert {c.fold for c in find_cases(pool, "validation")} == {"validation"}
    assert [c.name for c in find_cases(pool, "train")] == ["a0"]
    with pytest.raises(ValueError, match=r"--fold test: .*train \(1 cases\), validation \(5 cases\)"):
        find_cases(pool, "test")
    with pytest.raises(ValueError, match="no such file or folder"):
        find_cases(pool / "nowhere", "validation")
    with pytest.raises(ValueError, match="no dataset.json"):
        find_cases(tmp_path, "validation")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "cvpr25", "clicks": 4}, "defined with 5"),
        ({"clicks": 0}, "expected 1 or more"),
        ({"protocol": "dance"}, "expected one of clicks"),
        ({"npz": True}, "use --protocol cvpr25"),
        ({"click_depth": 0.0}, "--click-depth 0.0: expected a share"),
        ({"click_depth": 0.4, "protocol": "cvpr25"}, "--click-depth 0.4: protocol cvpr25 has exact clicks"),
        ({"click_depth": 0.4, "protocol": "box"}, "where --clicks is given"),
        ({"jitter": 1.5}, "--jitter 1.5"),
        ({"workers": 0}, "--workers 0"),
        ({"max_cases": 0}, "--max-cases 0"),
        ({"tolerance_mm": -1.0}, "--tolerance-mm"),
    ],
    ids=str,
)
def test_contradicting_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EvaluationConfig("catalog", "output", **options)


def test_the_pools_folds_share_no_patient(data_root: Path) -> None:
    train, validation = ({c.patient for c in find_cases(data_root, fold)} for fold in ("train", "validation"))
    assert validation
    assert not train & validation
