"""A catalog is what its file says, and a contradiction in it is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptseg.data import check_catalogs, load_catalog
from promptseg.data.catalog_loader import find_catalogs

from .conftest import describe, phantom, save_nifti

MINIMAL = """\
licence: CC0
citation: none
modality: CT
images: images/{case}.nii.gz
labels: labels/{case}.nii.gz
terms:
  1: liver
  3: {name: left kidney, file: kidney_left}
"""


def write(tmp_path: Path, text: str, name: str = "organs.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_minimal_catalog(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, MINIMAL))
    assert (catalog.name, catalog.root, catalog.names) == ("organs", tmp_path, {1: "liver", 3: "left kidney"})
    assert [term.file_stem for term in catalog.terms] == ["liver", "kidney_left"]
    assert catalog.annotated_values() == (1, 3)
    assert load_catalog(write(tmp_path, MINIMAL + "root: volumes\n")).root == tmp_path / "volumes"
    assert load_catalog(write(tmp_path, MINIMAL + "root: volumes\n"), tmp_path / "other").root == tmp_path / "other"


def test_terms_that_are_not_annotated_are_not_in_the_cases(tmp_path: Path) -> None:
    image, labels = phantom(0)
    save_nifti(tmp_path / "images/a.nii.gz", image)
    save_nifti(tmp_path / "labels/a.nii.gz", labels)
    case = load_catalog(write(tmp_path, MINIMAL + "annotated: [liver]\n")).cases()[0]
    assert case.annotated == (1,)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("licence: ''", "no licence"),
        ("colour: red", r"unknown keys \['colour'\]"),
        ("layout: dicom", "layout='dicom'"),
        ("annotated: [heart]", r"annotated terms \['heart'\]"),
        ("ignore: [1]", r"\[1\] are in 'ignore' and in 'terms'"),
        ("unions: {both: [1, 2]}", r"without a term: \[2\]"),
        ("folds: {validation: 0.8, test: 0.4}", "add up to"),
        ("threshold: 2", "threshold=2"),
        ("label_format: classes", "needs '{term}'"),
        ("raters: fight", "raters='fight'"),
        ("name: a/b", "name 'a/b'"),
        ("terms: {liver: 1}", "expected a label value and its term"),
        ("terms: {0: liver}", "value 0"),
        ("folds: {validation: {a: b}}", "expected a share"),
        ("overrides: [{modality: MR}]", "match"),
        ("licence: [", "not valid YAML"),
        ("licence: {a: b}", r"licence: \{'a': 'b'\}: expected a text"),
        ("images: [a, b]", r"images: \['a', 'b'\]: expected a text"),
        ("patient: '(('", r"patient='\(\(' is not a regular expression"),
        ("channels: {flair: MR}", r"channels \['flair'\].*put \{channel\} into 'images'"),
        ("channels: [MR]", r"channels: \['MR'\]: expected keys"),
        ("complete: 'no'", "complete: 'no': expected true or false"),
        ("threshold: '0.5'", "threshold: '0.5': expected a number"),
        ("ignore: [a]", r"ignore: \['a'\]: expected label values"),
        ("unions: {both: a}", "unions: both: 'a': expected label values"),
        ("terms: [liver]", r"terms: \['liver'\]: expected keys"),
        ("terms: {1: null}", "terms: 1: None: expected a text"),
        ("terms: {1: {name: liver, fill: x}}", r"terms: 1: unknown keys \['fill'\]"),
        ("terms: {1: liver, 1: spleen}", "line 6: the key '1' is there twice"),
        ("name: 1\nname: 2", "line 10: the key 'name' is there twice"),
        ("folds: [a]", r"folds: \['a'\]: expected keys"),
        ("overrides: {match: a}", r"overrides: \{'match': 'a'\}: expected a list"),
        ("overrides: [{match: a, moda: MR}]", r"overrides: number 1: unknown keys \['moda'\]"),
        ("overrides: [{match: a, complete: 'no'}]", "overrides: number 1: complete: 'no': expected true or false"),
        ("fold_table: {file: a, case: b}", "fold_table: .* has no fold"),
    ],
)
def test_a_contradiction_is_refused_by_name(tmp_path: Path, lines: str, message: str) -> None:
    key = lines.partition(":")[0]
    kept = MINIMAL.split("terms:")[0] if key == "terms" else MINIMAL
    kept = "".join(line for line in kept.splitlines(keepends=True) if not line.startswith(f"{key}:"))
    with pytest.raises(ValueError, match=message) as caught:
        catalog = load_catalog(write(tmp_path, kept + lines + "\n"))
        catalog.cases()
    assert "organs" in str(caught.value)


def test_numbers_that_are_names_become_texts(tmp_path: Path) -> None:
    text = MINIMAL.replace("modality: CT", "modality: 7") + "name: 5\nfolds: {0: 0.3, 1: ['c*', 7]}\nignore: 255\n"
    catalog = load_catalog(write(tmp_path, text))
    assert (catalog.name, catalog.modality, catalog.ignore) == ("5", "7", (255,))
    assert [(rule.fold, rule.match) for rule in catalog.folds] == [("0", ()), ("1", ("c*", "7"))]


def test_a_field_that_is_left_empty_is_not_given(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, MINIMAL + "title:\ncomplete:\nfolds:\noverrides:\nabsent:\n"))
    assert (catalog.title, catalog.complete, catalog.folds, catalog.overrides, catalog.absent) == ("", True, (), (), ())


def test_anchors_and_merged_keys_are_no_repetition(tmp_path: Path) -> None:
    text = MINIMAL + "overrides:\n  - &a {match: a, modality: MR}\n  - {<<: *a, match: b}\n"
    overrides = load_catalog(write(tmp_path, text)).overrides
    assert [(override.match, override.modality) for override in overrides] == [(("a",), "MR"), (("b",), "MR")]


def test_missing_files_and_other_contents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no catalog at"):
        load_catalog(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="holds a list"):
        load_catalog(write(tmp_path, "- a\n- b\n"))
    with pytest.raises(ValueError, match="not valid JSON"):
        load_catalog(write(tmp_path, "{", "dataset.json"))
    with pytest.raises(ValueError, match="neither 'cases' nor 'labels'"):
        load_catalog(write(tmp_path, "{}", "dataset.json"))


def test_a_decathlon_dataset_json_is_a_catalog(tmp_path: Path) -> None:
    image, labels = phantom(0)
    save_nifti(tmp_path / "imagesTr/spleen_1.nii.gz", image)
    save_nifti(tmp_path / "labelsTr/spleen_1.nii.gz", labels)
    content = {"name": "Spleen", "licence": "CC-BY-SA 4.0", "reference": "MSK", "modality": {"0": "CT"},
               "labels": {"0": "background", "1": "spleen"}}  # fmt: skip
    catalog = load_catalog(write(tmp_path, json.dumps(content), "dataset.json"))
    assert (catalog.names, catalog.licence, catalog.modality) == ({1: "spleen"}, "CC-BY-SA 4.0", "CT")
    assert [(case.name, len(case.labels)) for case in catalog.cases()] == [("spleen_1", 1)]


def test_an_nnunet_dataset_json_is_a_catalog(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "T2", "1": "ADC"}, "file_ending": ".mha",
               "labels": {"background": 0, "whole": [1, 2], "PZ": 1, "TZ": 2, "ignore": 3}}  # fmt: skip
    for name in ("imagesTr/a_0000.mha", "imagesTr/a_0001.mha", "labelsTr/a.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    catalog = load_catalog(write(tmp_path, json.dumps(content), "dataset.json"))
    assert (catalog.names, catalog.ignore) == ({1: "PZ", 2: "TZ"}, (3,))
    assert catalog.unions == (("whole", (1, 2)),)
    assert [(case.modality, len(case.labels)) for case in catalog.cases()] == [("T2", 1), ("ADC", 1)]


def test_regions_of_an_nnunet_dataset_json_are_terms_and_unions(tmp_path: Path) -> None:
    labels = {"background": 0, "tumor": [1, 2, 3], "core": [2, 3], "rim": [3]}
    content = {"channel_names": {"0": "T1"}, "labels": labels,
               "regions_class_order": [1, 2, 3], "file_ending": ".nii.gz"}  # fmt: skip
    image, labels = phantom(0, values=(1, 2, 3))
    save_nifti(tmp_path / "imagesTr/a_0000.nii.gz", image)
    save_nifti(tmp_path / "labelsTr/a.nii.gz", labels)
    plain = load_catalog(write(tmp_path, json.dumps(content), "dataset.json"))
    text = "licence: CC0\ncitation: none\nmodality: MR\nlayout: nnunet\n"
    for catalog in (plain, load_catalog(write(tmp_path, text))):
        assert catalog.names == {1: "label 1", 2: "label 2", 3: "rim"}
        assert catalog.unions == (("tumor", (1, 2, 3)), ("core", (2, 3)))
        assert catalog.cases()[0].annotated == (1, 2, 3)
    codes = [finding.code for finding in check_catalogs([plain]).findings]
    assert "value-without-term" not in codes


@pytest.mark.parametrize("has_labels", [True, False])
def test_a_folder_of_the_first_nnunet_is_told_from_a_decathlons(tmp_path: Path, has_labels: bool) -> None:
    content = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "prostate"}}
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        save_nifti(tmp_path / f"one/imagesTr/{name}.nii.gz", phantom(0)[0])
        save_nifti(tmp_path / f"ten/imagesTr/case_{name[-1]}00{name[2]}.nii.gz", phantom(0)[0])
    if has_labels:
        for name in ("one/labelsTr/a", "one/labelsTr/b", "ten/labelsTr/case_0000", "ten/labelsTr/case_1000"):
            save_nifti(tmp_path / f"{name}.nii.gz", phantom(0)[1])
    one = load_catalog(write(tmp_path / "one", json.dumps(content), "dataset.json"))
    assert one.layout == "nnunet"
    assert [(c.name, c.patient, c.modality, bool(c.labels)) for c in one.cases()] == [
        (f"{name}_{channel}", name, modality, has_labels)
        for name in "ab"
        for channel, modality in (("0000", "T2"), ("0001", "ADC"))
    ]
    ten = load_catalog(write(tmp_path / "ten", json.dumps(content), "dataset.json"))
    assert ten.layout == "medical_decathlon"


@pytest.mark.parametrize(
    ("field", "value"),
    [("labels", ["liver"]), ("labels", {"liver": "x"}), ("channel_names", {"CT": 0}), ("modality", {"0": ["CT"]})],
)
def test_a_dataset_json_of_another_form_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    content = {"labels": {"background": 0, "liver": 1}, field: value}
    with pytest.raises(ValueError, match=rf"dataset\.json: {field}: .*expected"):
        load_catalog(write(tmp_path, json.dumps(content), "dataset.json"))


def test_a_listing_is_found_from_its_folder_and_the_one_above(tmp_path: Path) -> None:
    image, labels = phantom(0)
    save_nifti(tmp_path / "blobs/images/a.nii.gz", image)
    save_nifti(tmp_path / "blobs/labels/a.nii.gz", labels)
    for prefix in ("", "blobs/"):
        cases = [
            {"case": "a", "image": f"{prefix}images/a.nii.gz", "label": f"{prefix}labels/a.nii.gz", "fold": "test"}
        ]
        content = {"name": "blobs", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {"1": "liver"},
                   "cases": cases}  # fmt: skip
        write(tmp_path / "blobs", json.dumps(content), "dataset.json")
        yaml = write(tmp_path, "layout: dataset_json\nmodality: CT\nunnamed_values: expected\n", "blobs.yaml")
        for catalog in (load_catalog(tmp_path / "blobs/dataset.json"), load_catalog(yaml, tmp_path / "blobs")):
            case = catalog.cases()[0]
            assert case.image is not None
            assert case.image.is_file()
            assert case.fold == "test"


def test_numbered_folds_and_patients_of_a_listing_are_texts_and_fold_0_is_one(tmp_path: Path) -> None:
    cases = [
        {"case": n, "image": f"images/{n}.nii.gz", "patient": 7 * n, "fold": n, "modality": n + 1, "complete": False}
        for n in range(2)
    ]
    content = {"name": "blobs", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {}, "cases": cases}
    save_nifti(tmp_path / "images/0.nii.gz", phantom(0)[0])
    write(tmp_path, json.dumps(content), "dataset.json")
    found = load_catalog(write(tmp_path, "layout: dataset_json\nfolds: {validation: 1.0}\n")).cases()
    assert [(c.name, c.patient, c.fold, c.modality) for c in found] == [("0", "0", "0", "1"), ("1", "7", "1", "2")]
    assert not any(case.complete for case in found)


def test_a_truth_value_of_a_listing_is_no_text(tmp_path: Path) -> None:
    cases = [{"case": "a", "image": "a.nii.gz", "complete": "no"}]
    content = {"name": "blobs", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {}, "cases": cases}
    with pytest.raises(ValueError, match=r"dataset\.json: case 'a': complete: 'no': expected true or false"):
        load_catalog(write(tmp_path, json.dumps(content), "dataset.json"))


@pytest.mark.parametrize("cases", [[{"image": "a.nii"}], [{"case": "a"}], {"a": 1}, ["a"]])
def test_a_listing_that_is_not_one_is_refused(tmp_path: Path, cases: object) -> None:
    content = {"name": "blobs", "licence": "CC0", "citation": "none", "modality": "CT", "labels": {}, "cases": cases}
    with pytest.raises(ValueError, match=r"dataset\.json.*'image'"):
        load_catalog(write(tmp_path, json.dumps(content), "dataset.json"))


def test_a_folder_means_its_catalog_or_those_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = write(tmp_path / "a", "", "dataset.json"), write(tmp_path / "b", "", "dataset.json")
    assert find_catalogs(tmp_path) == [first, second]
    yaml = write(tmp_path / "b", "", "catalog.yaml")
    assert find_catalogs(tmp_path) == [first, yaml]
    assert find_catalogs(tmp_path / "b") == [yaml]
    other = write(tmp_path, "", "organs.yaml")
    assert find_catalogs(tmp_path) == [other, first, yaml]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no catalog"):
        find_catalogs(tmp_path / "empty")


def test_a_catalog_is_needed_to_say_the_modality() -> None:
    with pytest.raises(ValueError, match="no modality"):
        describe(Path("data"), modality="")
