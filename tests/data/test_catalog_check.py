"""The check finds what is wrong with a data set, and only that."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from promptseg.data import Catalog, CheckReport, Finding, check_catalogs, load_catalog
from promptseg.data.catalog_check import (
    _terms_never_seen,
    content_hash,
    count_values,
    find_duplicates,
    find_split_patients,
)
from promptseg.data.structure_check import unknown_terms

from ..conftest import make_affine
from .conftest import MakeCatalog, describe, phantom, save_nifti


def codes(report: CheckReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def test_a_sound_data_set_has_no_findings(make_catalog: MakeCatalog) -> None:
    report = check_catalogs([make_catalog()])
    assert report.findings == ()
    fact = report.facts[0]
    assert (fact.shape, fact.spacing_mm, fact.orientation) == ((20, 18, 14), (1.0, 1.5, 2.0), "RAS")
    assert fact.labelled
    assert set(fact.voxels) == {1, 2}
    assert not report.errors


def test_the_table_of_terms_is_not_made_again_for_each_label_of_each_case(
    make_catalog: MakeCatalog, monkeypatch
) -> None:
    catalog = make_catalog(1)
    fact = check_catalogs([catalog]).facts[0]
    facts = [dataclasses.replace(fact, voxels={1: 9, 2 + n: 9}) for n in range(50)]
    made: list[int] = []
    names = catalog.names
    monkeypatch.setattr(Catalog, "names", property(lambda _: made.append(1) or names))
    assert list(_terms_never_seen(catalog, facts)) == [] and len(made) <= 2
    (missing,) = _terms_never_seen(catalog, [dataclasses.replace(fact, voxels={2: 9})])
    assert "liver" in missing.message and "spleen" not in missing.message


SHAPE = (20, 18, 14)
IMAGE, LABEL = "images/p00.nii.gz", "labels/p00.nii.gz"
MOVED = np.diag([1, 1.5, 2.2, 1])
VOID = np.where(phantom(0)[1] > 0, 1, np.nan).astype(np.float32)
HOLES = np.where(phantom(0)[0] == 5, np.nan, phantom(0)[0]).astype(np.float32)


@pytest.mark.parametrize(
    ("spoil", "code", "severity"),
    [
        (lambda root: save_nifti(root / LABEL, np.zeros(SHAPE, np.uint8)), "empty-mask", "warning"),
        (lambda root: save_nifti(root / LABEL, np.ones((20, 18, 13), np.uint8)), "grids-differ", "error"),
        (lambda root: save_nifti(root / LABEL, phantom(0)[1], MOVED), "grids-differ", "error"),
        (lambda root: save_nifti(root / LABEL, phantom(0, values=(1, 9))[1]), "value-without-term", "warning"),
        (lambda root: save_nifti(root / LABEL, -phantom(0)[1].astype(np.int16)), "negative-value", "error"),
        (lambda root: save_nifti(root / IMAGE, np.full(SHAPE, 7, np.int16)), "constant", "error"),
        (lambda root: (root / IMAGE).write_bytes(b"no volume"), "unreadable", "error"),
        (lambda root: (root / IMAGE).unlink(), "label-without-image", "warning"),
        (lambda root: save_nifti(root / IMAGE, np.zeros((20, 18, 14, 2), np.int16)), "channels", "error"),
        (lambda root: save_nifti(root / IMAGE, HOLES), "non-finite", "warning"),
        (lambda root: save_nifti(root / LABEL, VOID), "non-finite", "warning"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_case_is_found(make_catalog: MakeCatalog, spoil, code: str, severity: str) -> None:
    catalog = make_catalog()
    spoil(catalog.root)
    report = check_catalogs([catalog])
    assert codes(report).get(code) == severity, report.findings
    names = {finding.case for finding in report.findings if finding.code == code}
    assert names == ({""} if code == "label-without-image" else {"p00"})
    assert {fact.case for fact in report.facts} >= {"p01", "p02"}


def test_a_spacing_that_is_no_millimetres_is_found(make_catalog: MakeCatalog) -> None:
    report = check_catalogs([make_catalog(affine=np.diag([0.001, 0.001, 0.005, 1.0]))])
    assert codes(report) == {"spacing": "warning"}


def test_findings_that_need_no_file(make_catalog: MakeCatalog) -> None:
    catalog = make_catalog(terms={1: "liver", 2: "spleen", 3: "kidney of the left"}, licence="unknown")
    report = check_catalogs([catalog])
    assert codes(report) == {"licence": "warning", "term-never-seen": "info"}
    report = check_catalogs([make_catalog(name="words", terms={1: "livre", 2: "left spleen"}, seed=50)])
    assert codes(report) == {"unknown-term": "warning"}
    assert len(report.findings) == 2


def test_a_data_set_that_is_not_there_is_an_error(tmp_path: Path, make_catalog: MakeCatalog) -> None:
    (tmp_path / "empty").mkdir()
    assert codes(check_catalogs([describe(tmp_path / "empty")])) == {"no-case": "error"}
    catalog = make_catalog(labels="segmentations/{case}.nii.gz")
    assert codes(check_catalogs([catalog]))["no-label"] == "error"


def test_a_class_without_a_file_is_found(tmp_path: Path) -> None:
    for number in range(2):
        image, labels = phantom(number)
        save_nifti(tmp_path / f"s{number}/ct.nii.gz", image)
        for value, name in ((1, "liver"), (2, "spleen"))[: number + 1]:
            save_nifti(tmp_path / f"s{number}/seg/{name}.nii.gz", (labels == value).astype(np.uint8))
    patterns = {"images": "{case}/ct.nii.gz", "labels": "{case}/seg/{term}.nii.gz", "label_format": "classes"}
    report = check_catalogs([describe(tmp_path, **patterns)])
    assert [(f.code, f.case) for f in report.findings if f.severity == "warning"] == [("class-file-missing", "s0")]


def test_tissue_that_is_only_painted_and_instances_need_no_term(make_catalog: MakeCatalog) -> None:
    for name, fields in (("a", {"unnamed_values": "expected"}), ("b", {"instances": True}), ("c", {"ignore": [2]})):
        catalog = make_catalog(name=name, terms={1: "liver"}, **fields)
        assert "value-without-term" not in codes(check_catalogs([catalog])), name


def test_the_same_image_in_two_folds_is_found_across_data_sets_orientations_and_dtypes(tmp_path: Path) -> None:
    image, labels = phantom(0)
    save_nifti(tmp_path / "a/images/x.nii.gz", image, make_affine("RAS", (1, 1.5, 2)))
    save_nifti(tmp_path / "a/labels/x.nii.gz", labels, make_affine("RAS", (1, 1.5, 2)))
    turned = np.ascontiguousarray(image.transpose(2, 0, 1)[::-1]).astype(np.float64)
    save_nifti(tmp_path / "b/images/y.nii.gz", turned, make_affine("IRA", (2, 1, 1.5)))
    train = describe(tmp_path / "a", name="a")
    validation = describe(tmp_path / "b", name="b", labels="", terms={}, folds={"validation": 1.0})
    findings = [f for f in check_catalogs([train, validation]).findings if f.code == "leakage"]
    assert len(findings) == 1
    assert "a/x (train), b/y (validation)" in findings[0].message
    assert findings[0].severity == "error"


def test_duplicates_within_a_fold_are_a_warning_and_of_one_patient_a_note() -> None:
    entries = [("a", "x", "p", "train", "1"), ("a", "y", "p", "train", "1"), ("b", "z", "q", "train", "2")]
    assert [f.severity for f in find_duplicates(entries)] == ["info"]
    assert [f.severity for f in find_duplicates([*entries, ("b", "w", "r", "train", "2")])] == ["info", "warning"]
    assert [f.code for f in find_duplicates([*entries, ("b", "w", "q", "test", "2")])] == ["duplicate", "leakage"]


def test_a_patient_in_two_folds_is_found(tmp_path: Path) -> None:
    cases = []
    for number, fold in enumerate(("train", "validation")):
        save_nifti(tmp_path / f"images/{number}.nii.gz", phantom(number)[0])
        cases.append({"case": f"c{number}", "patient": "p", "fold": fold, "image": f"images/{number}.nii.gz"})
    content = {"name": "split", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {}, "cases": cases}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    report = check_catalogs([load_catalog(tmp_path / "dataset.json")])
    assert [(f.code, "'p'" in f.message) for f in report.errors] == [("leakage", True)]


def test_folds_that_an_earlier_store_holds_as_numbers_are_compared() -> None:
    entries: list[tuple] = [("a", 7, 0), ("a", "7", "train"), ("a", 8, 0), ("a", "8", "0")]
    assert ["'7' is in the folds ['0', 'train']" in f.message for f in find_split_patients(entries)] == [True]


def test_workers_change_nothing(make_catalog: MakeCatalog) -> None:
    catalog = make_catalog(count=4)
    (catalog.root / "images/p02.nii.gz").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    assert check_catalogs([catalog], workers=2) == check_catalogs([catalog], progress=lambda *n: seen.append(n))
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]


def test_two_data_sets_of_one_name_are_refused(make_catalog: MakeCatalog) -> None:
    catalog = make_catalog()
    with pytest.raises(ValueError, match=r"several catalogs are named \['blobs'\]"):
        check_catalogs([catalog, catalog])


def test_the_report_is_complete_and_says_the_same_thing_once(make_catalog: MakeCatalog) -> None:
    report = check_catalogs([make_catalog(terms={1: "liver"})])
    text = report.to_markdown()
    assert "| blobs | 3 | 3 | train 3 | CT 3 | RAS 3 | 1 to 2 |" in text
    assert "0 errors, 3 warnings, 0 notes" in text
    assert text.count("value-without-term") == 1
    assert "blobs/p00 and 2 more cases" in text
    content = json.loads(report.to_json())
    assert len(content["findings"]) == 3
    assert content["cases"][0]["content_hash"] == report.facts[0].content_hash
    many = CheckReport(tuple(Finding("info", "x", "a", "", str(n)) for n in range(9)), ())
    assert many.to_markdown(max_findings=4).count("\n- ") == 5


def test_the_content_hash_is_of_values_and_shape() -> None:
    array = np.random.default_rng(0).integers(-5, 5, (4, 5, 6)).astype(np.int16)
    same = [array.astype(np.float64), np.asfortranarray(array), np.where(array == 0, -0.0, array)]
    assert {content_hash(a) for a in same} == {content_hash(array)}
    changed = array.copy()
    changed[1, 2, 3] += 1
    others = [changed, array[::-1], array.reshape(5, 4, 6), array.transpose(0, 2, 1)]
    assert content_hash(array) not in {content_hash(a) for a in others}


def test_values_are_counted_without_the_background() -> None:
    labels = np.array([0, 0, 2, 2, 2, -1, 7, 0], dtype=np.int16).reshape(2, 2, 2)
    assert count_values(labels) == {-1: 1, 2: 3, 7: 1}


def test_terms_that_the_vocabulary_does_not_have_are_named_with_near_ones() -> None:
    found = unknown_terms(["left kidney", "kidney_right", "gal bladder", "left kidny", "frobnicator"])
    assert set(found) >= {"left kidny", "frobnicator"}
    assert "left kidney" in found["left kidny"]
    assert "left kidney" not in found
    assert "kidney_right" not in found
