"""A store is the data sets' voxels exactly, however its making was interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from promptseg.data import Store, StoreConfig, check_catalogs, prepare
from promptseg.data import store as store_module
from promptseg.data.catalog import FoldRule, Override
from promptseg.data.catalog_check import content_hash
from promptseg.data.label_maps import read_labels
from promptseg.data.reading import read_grid
from promptseg.preprocessing import PreprocessingConfig

from ..conftest import make_affine
from .conftest import MakeCatalog, phantom, save_nifti

SMALL = StoreConfig(chunk_size=8, block_size=4)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the cases, and the index."""
    files = [path for path in (store / "cases").rglob("*") if path.is_file()] + [store / "index.jsonl"]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", ">i2"])
def test_a_store_is_its_source_exactly(make_catalog: MakeCatalog, tmp_path: Path, orientation: str, dtype: str) -> None:
    affine = make_affine(orientation, (0.7, 1.3, 4.0), (12, -30, 400), (0.1, 0, 0.2))
    catalog = make_catalog(count=1, affine=affine)
    image, _ = phantom(0)
    image = (image * 0.7 if "float" in dtype else image % 200).astype(dtype)
    save_nifti(catalog.root / "images/p00.nii.gz", image, affine)
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert report.prepared == ("blobs/p00",), report.rejected
    case = Store(tmp_path / "store")["blobs/p00"]
    source = read_grid(catalog.root / "images/p00.nii.gz")
    assert case.read("image").dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(case.read("image"), source.array)
    np.testing.assert_array_equal(case.affine, source.affine)
    np.testing.assert_allclose(case.spacing_mm, source.spacing_mm)
    label = read_labels(catalog, catalog.cases()[0])
    assert label is not None
    np.testing.assert_array_equal(case.read("label"), label.grid.array)
    assert case.record["content_hash"] == content_hash(source.array)
    assert case.record["orientation"] == orientation


def test_workers_and_order_change_nothing(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog(count=4)
    seen: list[tuple[int, int]] = []
    prepare([catalog], tmp_path / "one", config=SMALL, progress=lambda *n: seen.append(n))
    prepare([catalog], tmp_path / "two", config=SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]


def test_a_second_run_does_nothing(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store/cases").rglob("*")}
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (len(report.prepared), len(report.kept)) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store/cases").rglob("*")} == before


def test_only_what_changed_is_made_again(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    image, _ = phantom(99)
    save_nifti(catalog.root / "images/p01.nii.gz", image)
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (report.prepared, len(report.kept)) == (("blobs/p01",), 2)
    np.testing.assert_array_equal(Store(tmp_path / "store")["blobs/p01"].read(), image)
    report = prepare([catalog], tmp_path / "store", config=StoreConfig(chunk_size=4, block_size=2))
    assert len(report.prepared) == 3


def test_a_bad_case_costs_itself_alone(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog(count=4)
    (catalog.root / "images/p00.nii.gz").write_bytes(b"no image")
    save_nifti(catalog.root / "labels/p02.nii.gz", np.ones((3, 3, 3), np.uint8))
    report = prepare([catalog], tmp_path / "store", config=SMALL, workers=2)
    assert report.prepared == ("blobs/p01", "blobs/p03")
    assert [key for key, _ in report.rejected] == ["blobs/p00", "blobs/p02"]
    assert "p00.nii.gz" in report.rejected[0][1]
    assert "grid is not the image's" in report.rejected[1][1]
    lines = [json.loads(line) for line in (tmp_path / "store/rejected.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == list(report.rejected)
    assert [case.key for case in Store(tmp_path / "store")] == ["blobs/p01", "blobs/p03"]
    image, _ = phantom(0)
    save_nifti(catalog.root / "images/p00.nii.gz", image)
    assert prepare([catalog], tmp_path / "store", config=SMALL).prepared == ("blobs/p00",)


@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "foreground.npy", "case.json"])
def test_a_truncated_file_is_refused_and_made_again(make_catalog: MakeCatalog, tmp_path: Path, name: str) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    whole = contents(tmp_path / "store")
    path = tmp_path / "store/cases/blobs/p01" / name
    path.write_bytes(path.read_bytes()[:-7])
    if name.endswith(".b2nd"):
        with pytest.raises(ValueError, match="missing or damaged"):
            Store(tmp_path / "store")["blobs/p01"].read("image" if "image" in name else "label")
    assert prepare([catalog], tmp_path / "store", config=SMALL).prepared == ("blobs/p01",)
    assert contents(tmp_path / "store") == whole


def test_a_flipped_bit_is_found_by_its_checksum_and_made_again(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    whole = contents(tmp_path / "store")
    path = tmp_path / "store/cases/blobs/p01/image.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store = Store(tmp_path / "store")
    assert store.verify() == {"blobs/p01": ["image.b2nd"]}
    with pytest.raises(ValueError, match="damaged"):
        Store(tmp_path / "store", verify="checksum")["blobs/p01"].read()
    assert prepare([catalog], tmp_path / "store", config=SMALL).prepared == ()
    assert prepare([catalog], tmp_path / "store", config=SMALL, verify=True).prepared == ("blobs/p01",)
    assert contents(tmp_path / "store") == whole
    assert Store(tmp_path / "store").verify() == {}


SCRIPT = """
import sys
from pathlib import Path
from promptseg.data import StoreConfig, load_catalog, prepare
if __name__ == "__main__":
    prepare([load_catalog(sys.argv[1])], sys.argv[2], workers=2, config=StoreConfig(chunk_size=8, block_size=4))
"""


def test_a_killed_run_leaves_whole_cases_and_the_next_does_the_rest(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog(count=40)
    text = "licence: CC0\ncitation: none\nmodality: CT\nimages: images/{case}.nii.gz\nlabels: labels/{case}.nii.gz\n"
    (catalog.root / "blobs.yaml").write_text(text + "terms: {1: liver, 2: spleen}\n")
    (tmp_path / "run.py").write_text(SCRIPT)
    store = tmp_path / "store"
    command = [sys.executable, str(tmp_path / "run.py"), str(catalog.root / "blobs.yaml"), str(store)]
    run = subprocess.Popen(command)
    limit = time.monotonic() + 300
    while len(list(store.glob("cases/blobs/*/case.json"))) < 3 and run.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    done = {path.parent.name for path in store.glob("cases/blobs/*/case.json")}
    assert 3 <= len(done) < 40, "the run was not killed midway"
    report = prepare([catalog], store, config=SMALL)
    assert {key.removeprefix("blobs/") for key in report.kept} >= done
    assert len(report.prepared) + len(report.kept) == 40
    assert report.prepared
    assert not list(store.glob(".drafts"))
    prepare([catalog], tmp_path / "whole", config=SMALL)
    assert contents(store) == contents(tmp_path / "whole")


def test_an_error_in_the_middle_leaves_an_index_of_what_is_there(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([make_catalog(count=4)], tmp_path / "store", config=SMALL, progress=stop)
    assert len(Store(tmp_path / "store")) == 2


def test_two_runs_do_not_write_at_once(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()

    def second(*_: int) -> None:
        with pytest.raises(ValueError, match="another run is writing"):
            prepare([catalog], tmp_path / "store")
        seen.append(1)

    seen: list[int] = []
    prepare([catalog], tmp_path / "store", config=SMALL, progress=second)
    assert seen


def test_a_folder_that_is_no_store_is_left_alone(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("x")
    with pytest.raises(ValueError, match="neither empty nor a store"):
        prepare([make_catalog()], tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    with pytest.raises(ValueError, match="is not a store"):
        Store(tmp_path / "thesis")


def test_what_is_not_annotated_survives_into_the_store(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog(
        annotated=["liver"], ignore=[9], overrides=[{"match": "p01", "annotated": ["spleen"], "complete": False}]
    )
    save_nifti(catalog.root / "labels/p02.nii.gz", phantom(2, values=(1, 9))[1])
    prepare([catalog], tmp_path / "store", config=SMALL)
    store = Store(tmp_path / "store")
    assert [case.annotated for case in store] == [(1,), (2,), (1,)]
    assert [case.complete for case in store] == [True, False, True]
    assert store["blobs/p00"].labels[2].term == "spleen", "labelled here and there, but its absence says nothing"
    assert store["blobs/p02"].ignore == (9,)
    assert 9 not in store["blobs/p02"].labels
    assert 9 in store["blobs/p02"].read("label")
    again = make_catalog(annotated=["liver", "spleen"], ignore=[9])
    report = prepare([again], tmp_path / "store", config=SMALL)
    changed = Store(tmp_path / "store")
    assert [case.annotated for case in changed] == [(1, 2)] * 3
    assert report.kept == () or report.prepared == (), "the same files: all kept, or all made again"


def test_what_is_absent_reaches_the_store_without_new_arrays(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    overrides = (Override(match=("p01",), absent=("brain",)),)
    catalog = dataclasses.replace(catalog, absent=("brain", "lung"), overrides=overrides)
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (report.prepared, len(report.kept)) == ((), 3)
    found = {case.name: case.absent for case in Store(tmp_path / "store")}
    assert found == {"p00": ("brain", "lung"), "p01": ("brain",), "p02": ("brain", "lung")}


def test_a_store_that_names_what_is_absent_for_a_whole_data_set_is_read(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    prepare([make_catalog()], tmp_path / "store", config=SMALL)
    index, top = tmp_path / "store" / "index.jsonl", tmp_path / "store" / "store.json"
    records = [json.loads(line) for line in index.read_text().splitlines()]
    without = [{key: value for key, value in record.items() if key != "absent"} for record in records]
    index.write_text("".join(json.dumps(record) + "\n" for record in without))
    content = json.loads(top.read_text())
    content["datasets"]["blobs"]["absent"] = ["brain"]
    top.write_text(json.dumps(content))
    assert [case.absent for case in Store(tmp_path / "store")] == [("brain",)] * 3


def test_new_folds_reach_the_store_without_new_arrays(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    moved = dataclasses.replace(catalog, folds=(FoldRule("validation", match=("p01", "p02")),))
    (catalog.root / "images/p02.nii.gz").write_bytes(b"away for a moment")
    report = prepare([moved], tmp_path / "store", config=SMALL)
    assert (report.prepared, len(report.kept), len(report.rejected)) == ((), 2, 1)
    folds = {case.name: case.fold for case in Store(tmp_path / "store")}
    assert folds == {"p00": "train", "p01": "validation", "p02": "validation"}, "an unreadable case leaves its fold too"


def test_a_case_that_is_excluded_leaves_the_index(make_catalog: MakeCatalog, tmp_path: Path) -> None:

    first, other = make_catalog(), make_catalog(name="others", seed=50)
    prepare([first, other], tmp_path / "store", config=SMALL)
    report = prepare([dataclasses.replace(first, exclude=("p01",))], tmp_path / "store", config=SMALL)
    assert report.retired == ("blobs/p01",)
    keys = [case.key for case in Store(tmp_path / "store")]
    assert keys == ["blobs/p00", "blobs/p02", "others/p00", "others/p01", "others/p02"]
    report = prepare([first], tmp_path / "store", config=SMALL)
    assert (report.prepared, len(report.kept), report.retired) == ((), 3, ())
    assert len(Store(tmp_path / "store")) == 6


def test_leakage_across_data_sets_and_runs_is_reported(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    prepare([make_catalog()], tmp_path / "store", config=SMALL)
    copy = make_catalog(count=1, name="copy", folds={"validation": 1.0})
    report = prepare([copy], tmp_path / "store", config=SMALL)
    assert [finding.code for finding in report.findings] == ["leakage"]
    assert "blobs/p00 (train), copy/p00 (validation)" in report.findings[0].message
    assert [finding.code for finding in check_catalogs([make_catalog(), copy]).errors] == ["leakage"]


def test_the_preprocessing_is_part_of_what_makes_a_case(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog(count=1)
    for config in (None, PreprocessingConfig(), PreprocessingConfig(equalization=0.1)):
        settings = StoreConfig(chunk_size=8, block_size=4, preprocessing=config)
        assert prepare([catalog], tmp_path / "store", config=settings).prepared
        assert prepare([catalog], tmp_path / "store", config=settings).kept


@pytest.mark.parametrize(
    "fields", [{"chunk_size": 4, "block_size": 8}, {"compression_level": 10}, {"foreground_samples": 0}]
)
def test_settings_out_of_range_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(reversed(fields))):
        StoreConfig(**fields)


def test_the_records_of_a_store_are_never_all_in_memory(make_catalog, tmp_path: Path, monkeypatch) -> None:
    class Record(dict):
        """One that can be counted."""

        __hash__ = object.__hash__  # type: ignore[assignment]

    alive: weakref.WeakSet[Record] = weakref.WeakSet()
    honest = store_module.read_records

    def counted(root: Path) -> Iterator[Record]:
        for record in map(Record, honest(root)):
            alive.add(record)
            assert len(alive) <= 2
            yield record

    monkeypatch.setattr(store_module, "read_records", counted)
    report = prepare([make_catalog(6)], tmp_path / "store", config=SMALL)
    assert len(report.prepared) == len(Store(tmp_path / "store")) == 6
