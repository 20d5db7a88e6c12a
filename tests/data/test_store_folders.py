"""Every case has a folder of its own, and a name costs nobody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptseg.data import Store, StoreConfig, check_catalogs, prepare
from promptseg.data.catalog import Case
from promptseg.data.store_folders import case_folder, plain_folder, shared_folders

from .conftest import MakeCatalog, describe, phantom, save_nifti

SMALL = StoreConfig(chunk_size=8, block_size=4)


def named(name: str) -> Case:
    return Case("blobs", name, name, "train", "CT", None)


@pytest.mark.parametrize("name", ["../../etc", ".hidden", "a b", "x:y", "..", "患者", "a/b", "a\nb"])
def test_names_that_file_systems_dislike_are_safe(tmp_path: Path, name: str) -> None:
    folder = case_folder(tmp_path, named(name))
    assert folder.resolve().parent == (tmp_path / "cases/blobs").resolve()
    assert folder.name.isascii()


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=2, unique=True))
def test_two_names_never_share_a_folder(names: list[str]) -> None:
    first, second = (case_folder(Path(), named(name)) for name in names)
    assert first != second


@given(st.from_regex(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*", fullmatch=True))
def test_a_name_that_needs_no_change_is_the_folder(name: str) -> None:
    assert case_folder(Path(), named(name)) == plain_folder(Path(), named(name)) == Path("cases/blobs", name)


def test_upper_and_lower_case_cost_the_later_case_alone(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog()
    for folder in ("images", "labels"):
        shutil.copy(catalog.root / folder / "p01.nii.gz", catalog.root / folder / "P00.nii.gz")
    assert set(shared_folders(catalog.cases())) == {"blobs/p00"}
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert report.prepared == ("blobs/P00", "blobs/p01", "blobs/p02")
    assert [key for key, _ in report.rejected] == ["blobs/p00"]


def test_names_in_any_script_lie_side_by_side(tmp_path: Path) -> None:
    for number, name in enumerate(("患者一", "患者二", "a b", "a:b", "plain")):
        image, labels = phantom(number)
        save_nifti(tmp_path / f"data/images/{name}.nii.gz", image)
        save_nifti(tmp_path / f"data/labels/{name}.nii.gz", labels)
    catalog = describe(tmp_path / "data")
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (len(report.prepared), report.rejected) == (5, ())
    assert sorted(case.name for case in Store(tmp_path / "store")) == ["a b", "a:b", "plain", "患者一", "患者二"]
    assert Store(tmp_path / "store").verify() == {}
    assert len(prepare([catalog], tmp_path / "store", config=SMALL).kept) == 5


def test_a_store_whose_folders_have_no_hash_is_gone_on_with(tmp_path: Path) -> None:
    for number, name in enumerate(("a b", "plain")):
        save_nifti(tmp_path / f"data/images/{name}.nii.gz", phantom(number)[0])
    catalog = describe(tmp_path / "data", labels="", terms={})
    prepare([catalog], tmp_path / "store", config=SMALL)
    case = next(case for case in catalog.cases() if case.name == "a b")
    case_folder(tmp_path / "store", case).rename(tmp_path / "store/cases/blobs/a_b")
    save_nifti(tmp_path / "data/images/a:b.nii.gz", phantom(7)[0])
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (report.prepared, report.kept) == (("blobs/a:b",), ("blobs/a b", "blobs/plain"))
    folders = {case.name: case.record["folder"] for case in Store(tmp_path / "store")}
    assert folders["a b"] == "cases/blobs/a_b"
    assert len(folders) == 3
    (tmp_path / "store/cases/blobs/a_b/image.b2nd").write_bytes(b"")
    assert prepare([catalog], tmp_path / "store", config=SMALL).prepared == ("blobs/a b",)
    assert [case.name for case in Store(tmp_path / "store")].count("a b") == 1


def test_a_folder_without_a_hash_is_left_to_the_case_of_its_name(tmp_path: Path) -> None:
    save_nifti(tmp_path / "data/images/a b.nii.gz", phantom(0)[0])
    catalog = describe(tmp_path / "data", labels="", terms={})
    prepare([catalog], tmp_path / "store", config=SMALL)
    case_folder(tmp_path / "store", named("a b")).rename(tmp_path / "store/cases/blobs/a_b")
    save_nifti(tmp_path / "data/images/a_b.nii.gz", phantom(1)[0])
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (report.prepared, report.kept) == (("blobs/a_b",), ("blobs/a b",))
    store = Store(tmp_path / "store")
    for number, name in enumerate(("a b", "a_b")):
        np.testing.assert_array_equal(store[f"blobs/{name}"].read(), phantom(number)[0])


def test_one_case_as_two_files_is_found_and_costs_itself_alone(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    catalog = make_catalog(images="images/{case}.nii[.gz]")
    prepare([catalog], tmp_path / "store", config=SMALL)
    save_nifti(catalog.root / "images/p01.nii", phantom(8)[0])
    findings = [finding for finding in check_catalogs([catalog]).findings if finding.code == "ambiguous-case"]
    assert [(finding.severity, finding.case) for finding in findings] == [("error", "p01")]
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (report.kept, report.retired) == (("blobs/p00", "blobs/p02"), ())
    assert [key for key, _ in report.rejected] == ["blobs/p01"]
    rows = [json.loads(line) for line in (tmp_path / "store/rejected.jsonl").read_text().splitlines()]
    assert "p01.nii.gz" in rows[0]["reason"]
