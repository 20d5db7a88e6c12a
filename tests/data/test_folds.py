"""Folds are made of patients, by rules that adding patients does not disturb."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.data.catalog import Case, Catalog
from promptseg.data.folds import assign_folds, idle_globs, names_of, patient_fraction

from .conftest import describe

ROOT = Path("data")


def cases_of(*patients: str, series: int = 2) -> list[Case]:
    return [
        Case("blobs", f"{patient}_{n}", patient, "", "CT", ROOT / "images" / f"{patient}_{n}.nii.gz")
        for patient in patients
        for n in range(series)
    ]


def folds_of(catalog: Catalog, cases: list[Case]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for case in assign_folds(catalog, cases):
        found.setdefault(case.patient, set()).add(case.fold)
    return found


patients = st.lists(st.text("abc0123", min_size=1, max_size=6), min_size=1, max_size=30, unique=True)


@settings(max_examples=30)
@given(patients, st.floats(0, 1), st.data())
def test_no_rule_splits_a_patient(names: list[str], share: float, data) -> None:
    globs = data.draw(st.lists(st.sampled_from([f"{name}_{n}" for name in names for n in (0, 1)]), max_size=5))
    rules = {"test": globs, "validation": share}
    assert all(len(folds) == 1 for folds in folds_of(describe(ROOT, folds=rules), cases_of(*names)).values())


@settings(max_examples=30)
@given(patients, st.text("xyz", min_size=1, max_size=4))
def test_a_new_patient_moves_nobody(names: list[str], new: str) -> None:
    catalog = describe(ROOT, folds={"validation": 0.3, "test": 0.2})
    before = folds_of(catalog, cases_of(*names))
    after = folds_of(catalog, cases_of(*names, new))
    assert all(after[name] == before[name] for name in names)


def test_shares_are_kept() -> None:
    names = [f"patient{n}" for n in range(4000)]
    catalog = describe(ROOT, folds={"validation": 0.2, "test": 0.1})
    folds = [case.fold for case in assign_folds(catalog, cases_of(*names, series=1))]
    assert abs(folds.count("validation") / 4000 - 0.2) < 0.02
    assert abs(folds.count("test") / 4000 - 0.1) < 0.02


def test_the_fraction_depends_on_data_set_and_patient_alone() -> None:
    assert patient_fraction("a", "b") == patient_fraction("a", "b")
    assert len({patient_fraction(d, p) for d in "abcd" for p in "abcd"}) == 16


def test_globs_match_case_patient_or_path() -> None:
    for glob in ("p1_0", "p1", "images/p1_*"):
        folds = folds_of(describe(ROOT, folds={"validation": glob}), cases_of("p1", "p2"))
        assert folds == {"p1": {"validation"}, "p2": {"train"}}


def test_names_and_globs_mix_and_thousands_of_names_are_looked_up_and_not_tried_one_by_one() -> None:
    names = [f"p{n}" for n in range(4000)]
    rules = {"validation": [*names[::2], "q[12]", "*_x"]}
    started = time.process_time()
    folds = folds_of(describe(ROOT, folds=rules), cases_of(*names, "q2", "q3", "r_x"))
    assert time.process_time() - started < 4, "8 million pairs took 10 s"
    assert all(folds[name] == {"train" if n % 2 else "validation"} for n, name in enumerate(names))
    assert (folds["q2"], folds["q3"], folds["r_x"]) == ({"validation"}, {"train"}, {"validation"})


def test_globs_that_fit_nothing_are_found() -> None:
    names = [names_of(case, ROOT) for case in cases_of("p1", "p2")]
    assert idle_globs(["p1", "p3", "p*", "q*", "images/p2_*"], names) == ["p3", "q*"]
    bracketed = [names_of(case, ROOT) for case in cases_of("p[1]")]
    assert idle_globs(["p[1]", "p[[]1]"], bracketed) == ["p[1]"], "it stands for p1, in folds as well"
    many = [names_of(case, ROOT) for case in cases_of(*(f"p{n}" for n in range(2000)))]
    missing = [f"q{n}" for n in range(2000)]
    started = time.process_time()
    assert idle_globs(missing, many) == missing
    assert time.process_time() - started < 0.5, "20 million pairs took 4 s"


def test_a_table_names_the_folds_and_rules_come_first(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("id;split\np1;val\np2;test\np3;val\n")
    table = {"file": "meta.csv", "case": "id", "fold": "split", "delimiter": ";", "rename": {"val": "validation"}}
    catalog = describe(tmp_path, fold_table=table, folds={"held_out": ["p3"]})
    expected = {"p1": {"validation"}, "p2": {"test"}, "p3": {"held_out"}, "p4": {"train"}}
    assert folds_of(catalog, cases_of("p1", "p2", "p3", "p4")) == expected


def test_a_table_that_is_not_as_described_is_refused(tmp_path: Path) -> None:
    table = {"file": "meta.csv", "case": "id", "fold": "split"}
    with pytest.raises(ValueError, match="no fold table"):
        assign_folds(describe(tmp_path, fold_table=table), cases_of("p1"))
    (tmp_path / "meta.csv").write_text("name,split\np1,val\n")
    with pytest.raises(ValueError, match=r"no column \['id'\]"):
        assign_folds(describe(tmp_path, fold_table=table), cases_of("p1"))


def test_the_patient_is_found_in_the_name(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("STS_001_CT", "STS_001_PET", "STS_002_CT"):
        (tmp_path / "images" / f"{name}.nii.gz").touch()
    cases = describe(tmp_path, labels="", patient=r"^(STS_\d+)_", folds={"validation": ["*_001_CT"]}).cases()
    assert [(case.patient, case.fold) for case in cases] == [
        ("STS_001", "validation"),
        ("STS_001", "validation"),
        ("STS_002", "train"),
    ]
