"""``promptseg data``: what is wrong is said in one line, and a store is made as asked."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from promptseg.data import Store
from promptseg.data.store_address import open_store
from promptseg.preprocessing import PreprocessingConfig

from .conftest import Run

CATALOG = """\
licence: CC0
citation: none
modality: CT
images: images/{case}.nii.gz
labels: labels/{case}.nii.gz
terms: {1: liver}
"""


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """A folder with three cases and a catalog."""
    root = tmp_path / "blobs"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        image = np.random.default_rng(number).normal(0, 20, (12, 10, 8)).astype(np.float32)
        labels = (image > 25).astype(np.uint8)
        nib.save(nib.Nifti1Image(image, np.eye(4)), root / f"images/c{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), root / f"labels/c{number}.nii.gz")
    (root / "catalog.yaml").write_text(CATALOG + "name: blobs\n")
    return root


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes: what they do is tested with the library."""
    from promptseg.data import parallel

    real = parallel.run_isolated
    for module in ("store", "catalog_check"):
        monkeypatch.setattr(f"promptseg.data.{module}.run_isolated", lambda f, items, workers: real(f, items, 0))


def test_check_prints_a_table_and_writes_a_report(run: Run, blobs: Path, tmp_path: Path) -> None:
    done = run("data", "check", blobs, "-o", tmp_path / "reports/report.json")
    assert (done.code, done.err) == (0, "")
    assert "| blobs | 3 | 3 | train 3 | CT 3 | RAS 3 | 1 to 1 |" in done.out
    assert len(json.loads((tmp_path / "reports/report.json").read_text())["cases"]) == 3


def test_a_report_that_cannot_be_written_is_refused_before_the_check(
    run: Run, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object, **__: object) -> None:
        raise AssertionError("checked")

    monkeypatch.setattr("promptseg.data.check_catalogs", check)
    for path in (blobs / "catalog.yaml/report.json", Path("/proc/report.json")):
        done = run("data", "check", blobs, "-o", path)
        assert (done.code, done.out) == (2, "")
        assert f"--output {path}: cannot be written" in done.error


def test_the_report_is_printed_even_where_the_disk_is_full(run: Run, blobs: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    done = run("data", "check", blobs, "-o", full)
    assert done.code == 2
    assert "| blobs | 3 |" in done.out
    assert "No space left" in done.error


def test_a_probe_leaves_an_earlier_report_as_it_is(tmp_path: Path) -> None:
    from promptseg.cli.data import probe_report

    (tmp_path / "old.json").write_text("{}")
    for name in ("old.json", "new/new.json"):
        probe_report(tmp_path / name)
    assert (tmp_path / "old.json").read_text() == "{}"
    assert not (tmp_path / "new/new.json").exists()


def test_check_fails_where_something_must_be_put_right(run: Run, blobs: Path) -> None:
    (blobs / "images/c1.nii.gz").write_bytes(b"")
    done = run("data", "check", blobs / "catalog.yaml")
    assert done.code == 1
    assert "error [unreadable] blobs/c1" in done.out


def test_prepare_makes_a_store_to_train_from(run: Run, blobs: Path, tmp_path: Path) -> None:
    done = run("data", "prepare", blobs, "-o", tmp_path / "store")
    assert (done.code, done.err) == (0, "")
    assert "3 cases prepared, 0 kept, 0 left out" in done.out
    assert Store(tmp_path / "store")["blobs/c0"].record["pyramid"]["preprocessing"]["equalization"] == 0.6
    again = run("data", "prepare", blobs, "-o", tmp_path / "store", "--verify")
    assert "0 cases prepared, 3 kept" in again.out


def test_prepare_leaves_out_a_bad_case_and_says_so(run: Run, blobs: Path, tmp_path: Path) -> None:
    (blobs / "labels/c2.nii.gz").write_bytes(b"junk")
    done = run("data", "prepare", blobs, "-o", tmp_path / "store")
    assert done.code == 0
    assert "2 cases prepared, 0 kept, 1 left out" in done.out
    assert "rejected.jsonl" in done.out
    assert "blobs/c2 is left out" in done.err
    for number in (0, 1):
        (blobs / f"labels/c{number}.nii.gz").write_bytes(b"junk")
    assert run("data", "prepare", blobs, "-o", tmp_path / "other").code == 1, "not one case could be used"


def test_export_writes_a_store_as_zarr_and_refuses_what_it_would_destroy(run: Run, blobs: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    run("data", "prepare", blobs, "-o", tmp_path / "store")
    for _ in range(2):  # an earlier export is replaced
        done = run("data", "export", tmp_path / "store", "-o", tmp_path / "zarr")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"{tmp_path / 'zarr'}: 3 cases exported")
    store = open_store(tmp_path / "zarr")
    np.testing.assert_array_equal(store["blobs/c1"].read(), Store(tmp_path / "store")["blobs/c1"].read())
    for place, message in ((blobs, "would be lost"), (tmp_path / "store", "lie in each other")):
        done = run("data", "export", tmp_path / "store", "-o", place)
        assert (done.code, done.out) == (2, "")
        assert message in done.error
    assert (blobs / "catalog.yaml").is_file()
    assert Store(tmp_path / "store").verify() == {}
    done = run("data", "export", tmp_path / "store", "-o", "nothing://bucket")
    assert (done.code, done.out) == (2, "")
    assert "nothing://bucket cannot be opened" in done.error


def test_the_preprocessing_of_a_model_is_taken(run: Run, blobs: Path, tmp_path: Path) -> None:
    for name, content in (
        ("config.json", json.dumps({"model": {"preprocessing": {"equalization": 0.25}}})),
        ("recipe.yaml", "preprocessing: {equalization: 0.25}\n"),
        ("plain.yaml", "equalization: 0.25\n"),
    ):
        (tmp_path / name).write_text(content)
        done = run(
            "data", "prepare", blobs, "-o", tmp_path / name.replace(".", "-"), "--preprocessing", tmp_path / name
        )
        assert done.code == 0
        record = Store(tmp_path / name.replace(".", "-"))["blobs/c0"].record
        assert PreprocessingConfig(**record["pyramid"]["preprocessing"]) == PreprocessingConfig(equalization=0.25)
    run("data", "prepare", blobs, "-o", tmp_path / "plain", "--preprocessing", "none")
    assert "pyramid" not in Store(tmp_path / "plain")["blobs/c0"].record


def test_a_root_is_given_for_each_catalog(run: Run, blobs: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text(CATALOG)
    done = run("data", "check", tmp_path / "elsewhere.yaml", "--root", blobs)
    assert (done.code, "| elsewhere | 3 |" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "no catalog at nowhere"),
        (["prepare", "{blobs}"], "expected -o STORE"),
        (["prepare", "{blobs}", "-o", "{blobs}"], "neither empty nor a store"),
        (["prepare", "{blobs}", "-o", "{blobs}/catalog.yaml"], "catalog.yaml"),
        (["check", "{blobs}", "-o", "{blobs}"], "a folder"),
        (["check", "{blobs}", "--workers", "0"], "--workers 0"),
        (["check", "{blobs}", "--findings", "0"], "--findings 0"),
        (["check", "{blobs}", "--root", "a", "--root", "b"], "--root given 2 times for 1 catalogs"),
        (["check", "{blobs}", "--root", "/nowhere"], "/nowhere is not a folder"),
        (["check", "{blobs}", "{blobs}"], "several catalogs are named"),
        (["prepare", "{blobs}", "-o", "s", "--compression", "11"], "compression_level=11"),
        (["prepare", "{blobs}", "-o", "s", "--preprocessing", "nothing.json"], "no such file"),
        (["prepare", "{blobs}", "-o", "s", "--preprocessing", "{blobs}/catalog.yaml"], "not the fields"),
        (["burn", "{blobs}"], "expected one of 'check', 'prepare', 'export'"),
        (["export", "{blobs}"], "expected -o ZARR"),
        (["export", "{blobs}", "-o", "z"], "is not a store: make one with promptseg data prepare"),
        (["export", "nowhere", "-o", "z"], "nowhere is not a store"),
        (
            ["export", "{blobs}", "{blobs}", "-o", "z"],
            "expected one STORE, which prepare wrote, and no --root",
        ),
        (["export", "{blobs}", "--root", "{blobs}", "-o", "z"], "no --root; given --root"),
        (["export", "nothing://bucket", "-o", "z"], "nothing://bucket cannot be opened: Protocol not known"),
        (["check"], "catalog"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("data", *(word.format(blobs=blobs) for word in words))
    assert done.code == 2
    assert message in done.error
    assert done.out == ""


def test_a_batch_job_sees_progress(run: Run, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptseg.cli import data

    monkeypatch.setattr(data, "LOG_SECONDS", 0.0)
    assert "checking: 3 of 3 cases" in run("data", "check", blobs).err
