"""Cases are found where the layouts put them, with their labels, channels and raters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptseg.data.layouts import FilePattern, scan

from .conftest import describe


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


words = st.text("abcXYZ019-.", min_size=1, max_size=8).filter(lambda word: not word.startswith("."))


@given(words, words)
def test_a_pattern_finds_again_what_it_was_filled_with(case: str, patient: str) -> None:
    pattern = FilePattern("{patient}/sub-{patient}_{case}.nii[.gz]")
    for ending in (".nii", ".nii.gz"):
        found = pattern.match(f"{patient}/sub-{patient}_{case}{ending}")
        assert found is not None
        assert found["patient"] == patient


def test_the_same_field_is_the_same_text() -> None:
    pattern = FilePattern("{case}/{case}_seg.nii.gz")
    assert pattern.match("a/a_seg.nii.gz") == {"case": "a"}
    assert pattern.match("a/b_seg.nii.gz") is None


def test_optional_parts_stars_and_regular_expressions() -> None:
    pattern = FilePattern(r"**/{case:\d+}[_run-{run}].nii*")
    assert pattern.match("12.nii") == {"case": "12", "run": ""}
    assert pattern.match("x/y/12_run-2.nii.gz") == {"case": "12", "run": "2"}
    assert pattern.match("x/y/a.nii.gz") is None
    assert FilePattern("a.b").match("aXb") is None


@pytest.mark.parametrize("pattern", ["{case", "a[b", "a]b", "{case:[}.nii", "{}.nii"])
def test_a_pattern_that_is_not_one_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        FilePattern(pattern)


def test_medical_decathlon(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/liver_1.nii.gz", "imagesTr/._liver_1.nii.gz", "imagesTr/liver_2.nii.gz",
          "labelsTr/liver_1.nii.gz", "imagesTs/liver_9.nii.gz")  # fmt: skip
    cases = scan(describe(tmp_path, layout="medical_decathlon", images="", labels="")).cases
    assert [case.name for case in cases] == ["liver_1", "liver_2"]
    assert [len(case.labels) for case in cases] == [1, 0]
    assert [case.annotated for case in cases] == [(1, 2), ()]


def test_medical_decathlon_with_channels_on_the_fourth_axis(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/brain_1.nii.gz", "labelsTr/brain_1.nii.gz")
    channels = {"0": "MR FLAIR", "3": "MR T2"}
    cases = scan(describe(tmp_path, layout="medical_decathlon", images="", labels="", channels=channels)).cases
    assert [(c.name, c.frame, c.modality, c.patient) for c in cases] == [
        ("brain_1_0", 0, "MR FLAIR", "brain_1"),
        ("brain_1_3", 3, "MR T2", "brain_1"),
    ]
    assert all(case.labels for case in cases)


def test_nnunet_channels_are_cases_of_one_patient(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    found = scan(describe(tmp_path, layout="nnunet", images="", labels="", channels={"0000": "CT", "1": "PET"}))
    assert [(c.name, c.modality, c.patient) for c in found.cases] == [("a_0000", "CT", "a"), ("a_0001", "PET", "a")]
    assert {case.labels for case in found.cases} == {found.cases[0].labels}
    assert [path.name for path in found.orphans] == ["b.nii.gz"]


def test_bids(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "sub-01/ses-b/anat/sub-01_ses-b_acq-tse_T2w.nii.gz",
          "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T1w.json", "sub-02/func/sub-02_bold.nii.gz",
          "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_desc-x_dseg.nii.gz",
          "derivatives/manual/sub-02/anat/sub-02_dseg.nii.gz")  # fmt: skip
    channels = {"T1w": "MR T1", "T2w": "MR T2"}
    cases = scan(describe(tmp_path, layout="bids", images="", labels="", channels=channels)).cases
    assert [(c.name, c.patient, c.modality, len(c.labels)) for c in cases] == [
        ("01_a_T1w", "01", "MR T1", 1),
        ("01_b_acq-tse_T2w", "01", "MR T2", 0),
        ("02_T1w", "02", "MR T1", 1),
    ]


def test_one_file_per_class(tmp_path: Path) -> None:
    touch(tmp_path, "s1/ct.nii.gz", "s1/seg/liver.nii.gz", "s1/seg/kidney_left.nii.gz", "s1/seg/unheard_of.nii.gz")
    terms = {5: "liver", 7: {"name": "left kidney", "file": "kidney_left"}}
    found = scan(describe(tmp_path, images="{case}/ct.nii.gz", labels="{case}/seg/{term}.nii.gz",
                          label_format="classes", terms=terms))  # fmt: skip
    assert sorted(label.value or 0 for label in found.cases[0].labels) == [5, 7]
    assert [path.name for path in found.unknown_classes] == ["unheard_of.nii.gz"]


@pytest.mark.parametrize("label_format", ["classes", "probabilities"])
def test_a_class_without_a_file_is_unknown_in_that_case(tmp_path: Path, label_format: str) -> None:
    touch(tmp_path, "s1/ct.nii.gz", "s1/liver.nii.gz", "s1/spleen.nii.gz", "s2/ct.nii.gz", "s2/liver.nii.gz",
          "s3/ct.nii.gz", "s3/spleen.nii.gz")  # fmt: skip
    overrides = [{"match": "s3", "annotated": ["spleen"]}]
    found = scan(describe(tmp_path, images="{case}/ct.nii.gz", labels="{case}/{term:liver|spleen}.nii.gz",
                          label_format=label_format, overrides=overrides))  # fmt: skip
    assert [case.annotated for case in found.cases] == [(1, 2), (1,), (2,)]
    assert [(f.severity, f.code, f.case) for f in found.findings] == [("warning", "class-file-missing", "s2")]
    assert "no file for spleen" in found.findings[0].message


def test_a_class_is_annotated_where_every_rater_has_its_file(tmp_path: Path) -> None:
    touch(tmp_path, "s1/ct.nii.gz", "s1/a_liver.nii.gz", "s1/a_spleen.nii.gz", "s1/b_liver.nii.gz")
    patterns = {"images": "{case}/ct.nii.gz", "labels": "{case}/{rater}_{term}.nii.gz", "label_format": "classes"}
    assert [case.annotated for case in scan(describe(tmp_path, **patterns)).cases] == [(1,)]
    each = scan(describe(tmp_path, **patterns, raters="each")).cases
    assert [(case.name, case.annotated) for case in each] == [("s1_a", (1, 2)), ("s1_b", (1,))]


def test_raters_are_merged_or_cases_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a_r1.nii.gz", "labels/a_r2.nii.gz")
    patterns = {"labels": "labels/{case}_{rater}.nii.gz"}
    merged = scan(describe(tmp_path, **patterns)).cases
    assert [(case.name, [label.rater for label in case.labels]) for case in merged] == [("a", ["r1", "r2"])]
    each = scan(describe(tmp_path, **patterns, raters="each")).cases
    assert [(case.name, case.patient, len(case.labels)) for case in each] == [("a_r1", "a", 1), ("a_r2", "a", 1)]


def test_label_maps_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.nii.gz")
    case = scan(describe(tmp_path, images="")).cases[0]
    assert case.image is None
    assert case.labels


def test_cases_of_one_name_cost_themselves_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "images/a.nii.gz", "images/a.nii", "images/b.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz")
    catalog = describe(tmp_path, images="images/{case}.nii[.gz]")
    found = scan(catalog)
    assert [case.name for case in found.cases] == ["b"]
    assert [case.name for case, _ in found.rejected] == ["a"]
    assert "a.nii and " in found.rejected[0][1]
    assert catalog.cases() == found.cases
    assert "blobs/a is left out" in caplog.text


def test_overrides_and_exclusions(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{name}.nii.gz" for kind in ("images", "labels") for name in ("ct1", "mr1", "bad")))
    overrides = [
        {"match": "mr*", "modality": "MR T1", "annotated": ["spleen"], "complete": False, "absent": []},
        {"match": "nothing", "absent": "liver"},
    ]
    cases = scan(describe(tmp_path, overrides=overrides, exclude=["bad"], absent="brain")).cases
    assert [(c.name, c.modality, c.annotated, c.complete, c.absent) for c in cases] == [
        ("ct1", "CT", (1, 2), True, ("brain",)),
        ("mr1", "MR T1", (2,), False, ()),
    ]


def test_order_on_disk_does_not_matter(tmp_path: Path) -> None:
    names = [f"images/{n}.nii.gz" for n in np.random.default_rng(0).permutation(20)]
    touch(tmp_path, *names)
    found = [case.name for case in scan(describe(tmp_path, labels="", terms={})).cases]
    assert found == sorted(found)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is not a folder"):
        scan(describe(tmp_path / "nowhere"))
