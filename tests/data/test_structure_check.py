"""What a catalog says and the files do not bear out is found without opening one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptseg.data import Catalog, load_catalog
from promptseg.data.layouts import scan
from promptseg.data.structure_check import check_structure

from .conftest import describe


def touched(root: Path, **fields: object) -> Catalog:
    for name in ("p0_a", "p1_a", "p1_b"):
        for kind in ("images", "labels"):
            (root / kind).mkdir(exist_ok=True)
            (root / kind / f"{name}.nii.gz").touch()
    return describe(root, **fields)


def findings(catalog: Catalog) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.case, finding.message) for finding in check_structure(catalog, scan(catalog))]


def test_rules_that_fit_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("id,fold\np0,test\nelsewhere,train\n")
    catalog = touched(
        tmp_path,
        patient="^(p.)_",
        folds={"validation": ["p1", "images/p0*"], "test": 0.1},
        exclude=["*_b"],
        overrides=[{"match": ["p0_a", "p1_b"], "modality": "MR"}],
        fold_table={"file": "folds.csv", "case": "id", "fold": "fold"},
    )
    assert findings(catalog) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": {"validation": ["p1*", "zzz*"]}}, "folds: validation: 'zzz*' fits no case"),
        ({"exclude": ["p0_a", "zz"]}, "exclude: 'zz' fits no case"),
        ({"overrides": [{"match": "p*", "modality": "MR"}, {"match": "q*", "modality": "CT"}]},
         "overrides: number 2: 'q*' fits no case"),
        ({"fold_table": {"file": "folds.csv", "case": "id", "fold": "fold"}}, "names no case or patient"),
    ],
)  # fmt: skip
def test_a_rule_that_fits_nothing_is_found(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    (tmp_path / "folds.csv").write_text("id,fold\np0_a.nii.gz,test\n")
    found = findings(touched(tmp_path, **fields))
    assert [code for code, _, _ in found] == ["rule-matches-nothing"]
    assert message in found[0][2]


def test_a_name_without_its_patient_is_found(tmp_path: Path) -> None:
    found = findings(touched(tmp_path, patient=r"^(p1)_"))
    assert [(code, case) for code, case, _ in found] == [("patient-not-found", "p0_a")]
    assert findings(touched(tmp_path, patient=r"^(zzz)?"))[0][0] == "patient-not-found"
    by_field = {"images": "images/{patient}_{part}.nii.gz", "labels": "labels/{patient}_{part}.nii.gz"}
    assert findings(touched(tmp_path, patient=r"^(p1)_", **by_field)) == []


def test_a_listing_without_its_patient_is_found(tmp_path: Path) -> None:
    cases = [{"case": "p0_a", "image": "a.nii"}, {"case": "b", "image": "b.nii"}, {"case": "c", "image": "c.nii"}]
    cases[2]["patient"] = "p7"
    content = {"name": "blobs", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {}, "cases": cases}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "patient": "^(p.)_"}))
    found = findings(load_catalog(tmp_path / "dataset.json"))
    assert [(code, case) for code, case, _ in found] == [("patient-not-found", "b")]


def test_a_label_that_got_lost_is_found(tmp_path: Path) -> None:
    catalog = touched(tmp_path)
    (tmp_path / "labels/p1_b.nii.gz").unlink()
    found = findings(catalog)
    assert [(code, case) for code, case, _ in found] == [("label-missing", "p1_b")]
    assert "2 cases of the data set have one" in found[0][2]
    assert findings(describe(tmp_path, labels="", terms={})) == []


def test_a_fold_table_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_bytes("id,fold\np0_a,vä\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"folds\.csv is not UTF-8"):
        scan(touched(tmp_path, fold_table={"file": "folds.csv", "case": "id", "fold": "fold"}))
