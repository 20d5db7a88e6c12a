"""The catalogs that come with the project load, speak the vocabulary's language, and find the files of their layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptseg.data import Catalog, load_catalog
from promptseg.data.structure_check import unknown_terms

CATALOGS = Path(__file__).resolve().parents[2] / "configs" / "catalogs"

SKELETONS: dict[str, tuple[list[str], dict[str, int]]] = {
    "msd_task01_brain_tumour": (["BRATS_001"], {f"BRATS_001_{n}": 1 for n in range(4)}),
    "msd_task02_heart": (["la_003"], {"la_003": 1}),
    "msd_task03_liver": (["liver_0"], {"liver_0": 1}),
    "msd_task04_hippocampus": (["hippocampus_001"], {"hippocampus_001": 1}),
    "msd_task05_prostate": (["prostate_00"], {"prostate_00_0": 1, "prostate_00_1": 1}),
    "msd_task06_lung": (["lung_001"], {"lung_001": 1}),
    "msd_task07_pancreas": (["pancreas_001"], {"pancreas_001": 1}),
    "msd_task08_hepatic_vessel": (["hepaticvessel_001"], {"hepaticvessel_001": 1}),
    "msd_task09_spleen": (["spleen_2"], {"spleen_2": 1}),
    "msd_task10_colon": (["colon_001"], {"colon_001": 1}),
    "totalsegmentator": (
        ["s0000/ct.nii.gz", "s0000/segmentations/spleen.nii.gz", "s0000/segmentations/kidney_left.nii.gz",
         "s0000/segmentations/rib_left_7.nii.gz"],
        {"s0000": 3},
    ),
    "amos22": (
        ["imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz", "imagesTr/amos_0507.nii.gz",
         "labelsTr/amos_0507.nii.gz", "imagesVa/amos_0008.nii.gz", "labelsVa/amos_0008.nii.gz",
         "imagesTs/amos_0002.nii.gz"],
        {"amos_0001": 1, "amos_0008": 1, "amos_0507": 1},
    ),
    "kits23": (
        ["case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz",
         "case_00000/instances/kidney_instance-1_annotation-1.nii.gz"],
        {"case_00000": 1},
    ),
    "btcv": (["img/img0001.nii.gz", "label/label0001.nii.gz"], {"0001": 1}),
    "flare22": (["images/FLARE22_Tr_0001_0000.nii.gz", "labels/FLARE22_Tr_0001.nii.gz"], {"FLARE22_Tr_0001": 1}),
    "spider_lumbar_spine": (
        ["images/1_t1.mha", "images/1_t2.mha", "images/1_t2_SPACE.mha", "masks/1_t1.mha", "masks/1_t2.mha",
         "masks/1_t2_SPACE.mha"],
        {"1_t1": 1, "1_t2": 1, "1_t2_SPACE": 1},
    ),
    "brats2021": (
        [f"BraTS2021_00000/BraTS2021_00000_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2", "seg")],
        {f"BraTS2021_00000_{name}": 1 for name in ("flair", "t1", "t1ce", "t2")},
    ),
    "brats2023_glioma": (
        [f"BraTS-GLI-00000-00{n}/BraTS-GLI-00000-00{n}-{name}.nii.gz" for n in (0, 1)
         for name in ("t2f", "t1n", "t1c", "t2w", "seg")],
        {f"BraTS-GLI-00000-00{n}_{name}": 1 for n in (0, 1) for name in ("t2f", "t1n", "t1c", "t2w")},
    ),
}  # fmt: skip
"""Template -> files that the published folder has, and the cases with their number of label files.

Source: the data sets' own descriptions; for the Decathlon the name of a case."""

LISTED = sorted(path.stem for path in CATALOGS.glob("*.yaml") if path.stem not in SKELETONS)


def skeleton(root: Path, name: str) -> Catalog:
    files = SKELETONS[name][0]
    if name.startswith("msd_"):
        folders = ("imagesTr/", "labelsTr/", "imagesTr/._", "labelsTr/._")
        files = [f"{folder}{case}.nii.gz" for case in files for folder in folders]
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    if name == "totalsegmentator":
        (root / "meta.csv").write_text("image_id;age;split\ns0000;60;val\n")
    return load_catalog(CATALOGS / f"{name}.yaml", root)


@pytest.mark.parametrize("name", SKELETONS)
def test_a_template_finds_the_files_of_its_layout(tmp_path: Path, name: str) -> None:
    catalog = skeleton(tmp_path, name)
    assert catalog.name == name
    assert {case.name: len(case.labels) for case in catalog.cases()} == SKELETONS[name][1]


@pytest.mark.parametrize("name", SKELETONS)
def test_a_template_speaks_the_language_of_the_vocabulary(tmp_path: Path, name: str) -> None:
    catalog = skeleton(tmp_path, name)
    names = [*catalog.names.values(), *(union for union, _ in catalog.unions)]
    assert unknown_terms(names) == {}


@pytest.mark.parametrize("name", SKELETONS)
def test_a_template_says_licence_source_and_folds(tmp_path: Path, name: str) -> None:
    catalog = skeleton(tmp_path, name)
    assert catalog.url
    assert catalog.title
    assert catalog.ground_truth
    assert catalog.folds or catalog.fold_table
    assert catalog.licence.startswith("CC BY") or not catalog.ship_weights
    assert "NC" not in catalog.licence or not catalog.ship_weights


def test_values_of_the_templates() -> None:
    """Spot checks against the data sets' published tables."""
    names = {name: load_catalog(CATALOGS / f"{name}.yaml").names for name in SKELETONS}
    assert (names["totalsegmentator"][1], names["totalsegmentator"][117]) == ("spleen", "costal cartilages")
    assert len(names["totalsegmentator"]) == 117
    assert (names["btcv"][9], names["amos22"][9], names["flare22"][6]) == ("inferior vena cava",) * 3
    assert (names["btcv"][3], names["amos22"][3], names["flare22"][13]) == ("left kidney",) * 3
    assert names["brats2021"][4] == names["brats2023_glioma"][3] == names["msd_task01_brain_tumour"][3]
    assert names["spider_lumbar_spine"][100] == "spinal canal"


def test_modalities_and_folds_of_the_templates(tmp_path: Path) -> None:
    amos = {case.name: case for case in skeleton(tmp_path / "amos", "amos22").cases()}
    assert [amos[name].modality for name in ("amos_0001", "amos_0507")] == ["CT", "MR"]
    assert [amos[name].fold for name in ("amos_0001", "amos_0008")] == ["train", "validation"]
    assert amos["amos_0001"].annotated == tuple(range(1, 15))
    assert skeleton(tmp_path / "total", "totalsegmentator").cases()[0].fold == "validation"
    spider = skeleton(tmp_path / "spider", "spider_lumbar_spine").cases()
    assert [(case.patient, case.modality) for case in spider] == [("1", "MR T1"), ("1", "MR T2"), ("1", "MR T2")]
    brats = skeleton(tmp_path / "brats", "brats2023_glioma").cases()
    assert {case.patient for case in brats} == {"BraTS-GLI-00000"}
    assert len({case.fold for case in brats}) == 1


@pytest.mark.parametrize("name", LISTED)
def test_the_real_data_sets_are_found_as_they_are(data_root: Path, name: str) -> None:
    catalog = load_catalog(CATALOGS / f"{name}.yaml", data_root / name)
    plain = load_catalog(data_root / name / "dataset.json")
    assert [(c.name, c.fold, c.files) for c in catalog.cases()] == [(c.name, c.fold, c.files) for c in plain.cases()]
    assert all(path.is_file() for case in catalog.cases() for path in case.files)
    assert unknown_terms([*catalog.names.values(), *(union for union, _ in catalog.unions)]) == {}
    assert (catalog.licence, catalog.ship_weights) == (plain.licence, plain.ship_weights)


def test_every_real_data_set_has_a_catalog(data_root: Path) -> None:
    assert {path.parent.name for path in data_root.glob("*/dataset.json")} == set(LISTED)
