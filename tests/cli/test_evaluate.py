"""``promptseg evaluate`` and ``promptseg compare``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from .conftest import Run


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases of a bright block."""
    folder = tmp_path_factory.mktemp("catalog") / "blocks"
    cases = []
    for number in range(3):
        labels = np.zeros((14, 12, 10), np.uint8)
        labels[3 : 8 + number, 4:9, 2:7] = 1
        image = (100 * labels + np.random.default_rng(number).normal(0, 3, labels.shape)).astype(np.int16)
        entry = {"case": f"c{number}", "fold": "validation"}
        for kind, array in (("image", image), ("label", labels)):
            path = folder / f"{kind}s" / f"c{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
            entry[kind] = str(path.relative_to(folder))
        cases.append(entry)
    content = {
        "name": "blocks", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {"1": "block"},
        "cases": cases,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_evaluate_prints_the_table_and_writes_the_report(run: Run, catalog: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--catalog", catalog, "-o", tmp_path / "r", "--clicks", 2, "--jitter-repeats", 0]
    words += ["--model", "oracle", "--model", "lazy=empty", "--gallery", 0, "--bootstrap", 20]
    outcome = run(*words)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("| model | Dice, step 1 | Dice, step 2 |")
    assert lines[2].startswith("| oracle | 1.000 | 1.000 | 1.000 | 1.000 |")
    assert lines[3].startswith("| lazy | 0.000 | 0.000 | 0.000 | 2.000 |")
    assert lines[4] == f"{tmp_path / 'r' / 'report.html'}: 3 objects"
    assert outcome.err == ""
    assert {p.name for p in (tmp_path / "r").iterdir()} >= {"report.html", "results.csv", "summary.json", "run.json"}


def test_options_come_from_a_yaml_file_too(run: Run, catalog: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(f"catalog: {catalog}\noutput: {tmp_path / 'r'}\nmodel: [oracle]\nprotocol: box\nmax_cases: 2\n")
    outcome = run("evaluate", "--config", config, "--gallery", 0)
    assert outcome.code == 0, outcome.err
    assert ": 2 objects" in outcome.out
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["settings"]["protocol"] == "box"


def test_a_case_that_fails_is_said_and_the_exit_code_is_one(run: Run, catalog: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "blocks"
    shutil.copytree(catalog, broken)
    (broken / "images" / "c1.nii.gz").write_bytes(b"not an image")
    outcome = run("evaluate", "--catalog", broken, "-o", tmp_path / "r", "--model", "oracle", "--gallery", 0)
    assert outcome.code == 1
    assert "| oracle | 0.667 |" in outcome.out
    assert "1 failures count as zero" in outcome.out
    assert "blocks/c1" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "no-such-weights"], "no-such-weights"),
        (
            ["--model", "oracle", "--fold", "test"],
            "folds there: validation (3 cases); give --fold validation or --fold all",
        ),
        (["--model", "oracle", "--protocol", "dance"], "--protocol"),
        (["--model", "oracle", "--protocol", "cvpr25", "--clicks", "3"], "defined with 5"),
        (["--model", "oracle", "--model", "oracle"], "oracle is there twice"),
        (["--model", "oracle", "--device", "abacus"], "abacus"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_one_line(
    run: Run, catalog: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    outcome = run("evaluate", "--catalog", catalog, "-o", tmp_path / "r", *words)
    assert outcome.code == 2
    assert message in outcome.error
    assert not (tmp_path / "r").exists()


def test_compare_prints_paired_differences_and_writes_json(run: Run, catalog: Path, tmp_path: Path) -> None:
    for name, model in (("a", "m=clicked-voxels"), ("b", "m=oracle")):
        words = ["evaluate", "--catalog", catalog, "-o", tmp_path / name, "--model", model, "--clicks", 2]
        assert run(*words, "--gallery", 0, "--jitter-repeats", 0).code == 0
    outcome = run("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c.json")
    assert outcome.code == 0
    assert "A: m, B: m, 3 objects of 3 patients in both." in outcome.out
    assert "| Dice, step 2 |" in outcome.out
    assert "| better |" in outcome.out
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["differences"][0]["verdict"] == "better"


def test_a_decathlon_folder_has_no_validation_fold_and_the_error_says_what_to_give(
    run: Run, catalog: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Task01_Blocks"
    shutil.copytree(catalog / "images", folder / "imagesTr")
    shutil.copytree(catalog / "labels", folder / "labelsTr")
    names = [f"c{number}.nii.gz" for number in range(3)]
    content = {
        "name": "Blocks", "licence": "CC0", "reference": "none", "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "block"}, "numTraining": 3,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names], "test": [],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    words = ["evaluate", "--catalog", folder, "-o", tmp_path / "r", "--model", "oracle", "--gallery", 0]
    outcome = run(*words, "--protocol", "box")
    assert outcome.code == 2
    assert "folds there: train (3 cases); give --fold train or --fold all for every case" in outcome.error
    for fold in ("train", "all"):
        outcome = run(*words, "--protocol", "box", "--fold", fold, "-o", tmp_path / fold)
        assert outcome.code == 0, outcome.err
        assert ": 3 objects" in outcome.out


def test_compare_refuses_different_protocols_and_folders_without_a_report(
    run: Run, catalog: Path, tmp_path: Path
) -> None:
    for name, protocol in (("a", "clicks"), ("b", "box")):
        words = ["evaluate", "--catalog", catalog, "-o", tmp_path / name, "--model", "oracle", "--protocol", protocol]
        assert run(*words, "--gallery", 0).code == 0
    outcome = run("compare", tmp_path / "a", tmp_path / "b")
    assert outcome.code == 2
    assert "protocol='clicks'" in outcome.error
    assert "no summary.json" in run("compare", tmp_path / "a", tmp_path).error
