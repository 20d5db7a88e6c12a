"""A label of a BIDS derivative belongs to the image that its name says, and to no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptseg.data import check_catalogs
from promptseg.data.bids import BidsName, agreement
from promptseg.data.layouts import scan

from .conftest import describe, phantom, save_nifti

CHANNELS = {"T1w": "MR T1", "FLAIR": "MR FLAIR"}


def labels_found(root: Path, *labels: str, images: tuple[str, ...], terms: object = None) -> dict[str, list[object]]:
    """Case -> its label files' names, or values where a file is one class's."""
    for name in (
        *(f"sub-01/anat/sub-01_{n}" for n in images),
        *(f"derivatives/m/sub-01/anat/sub-01_{n}" for n in labels),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.nii.gz").touch()
    catalog = describe(
        root, layout="bids", images="", labels="", channels=CHANNELS, terms=terms or {1: "lesion", 2: "edema"}
    )
    return {
        case.name.removeprefix("01_"): [
            label.path.name.removeprefix("sub-01_").partition(".")[0] if label.value is None else label.value
            for label in case.labels
        ]
        for case in scan(catalog).cases
    }


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (("run-1_T1w", "run-2_T1w"), ("run-1_dseg", "run-02_dseg"),
         {"run-1_T1w": ["run-1_dseg"], "run-2_T1w": ["run-02_dseg"]}),
        (("run-1_T1w", "run-2_T1w"), ("run-1_space-orig_desc-x_dseg",),
         {"run-1_T1w": ["run-1_space-orig_desc-x_dseg"], "run-2_T1w": []}),
        (("acq-a_T1w", "acq-b_T1w"), ("acq-b_dseg",), {"acq-a_T1w": [], "acq-b_T1w": ["acq-b_dseg"]}),
        (("T1w", "FLAIR"), ("space-T1w_dseg", "space-FLAIR_dseg"),
         {"T1w": ["space-T1w_dseg"], "FLAIR": ["space-FLAIR_dseg"]}),
        (("T1w", "FLAIR"), ("FLAIR_label-lesion_seg",), {"T1w": [], "FLAIR": ["FLAIR_label-lesion_seg"]}),
        (("T1w", "FLAIR"), ("dseg",), {"T1w": ["dseg"], "FLAIR": ["dseg"]}),
        (("T1w",), ("dseg", "space-MNI152NLin6Asym_dseg"), {"T1w": ["dseg"]}),
        (("T1w",), ("space-MNI152NLin6Asym_dseg",), {"T1w": []}),
        (("T1w",), ("label-lesion_mask", "desc-brain_mask"), {"T1w": [1]}),
        (("T1w",), ("label-lesion_mask", "label-edema_mask"), {"T1w": [2, 1]}),
        (("T1w",), ("desc-drawn_mask", "desc-brain_mask"), {"T1w": ["desc-drawn_mask"]}),
        (("T1w",), ("desc-brain_mask",), {"T1w": []}),
        (("T1w",), ("dseg", "desc-brain_mask"), {"T1w": ["dseg"]}),
        (("run-1_T1w",), ("dseg", "run-1_dseg"), {"run-1_T1w": ["run-1_dseg"]}),
    ],
)  # fmt: skip
def test_labels_belong_to_the_image_of_their_name(
    tmp_path: Path, images: tuple[str, ...], labels: tuple[str, ...], expected: dict[str, list[object]]
) -> None:
    assert labels_found(tmp_path, *labels, images=images) == expected


def test_a_mask_of_the_brain_is_a_label_where_a_term_is(tmp_path: Path) -> None:
    terms = {3: {"name": "brain parenchyma", "file": "brain"}}
    assert labels_found(tmp_path, "desc-brain_mask", images=("T1w",), terms=terms) == {"T1w": [3]}


def test_agreement_counts_what_both_names_say() -> None:
    image = BidsName.of(Path("sub-01_ses-2_acq-a_run-01_T1w.nii.gz"))
    scores = {"dseg": 0, "run-1_dseg": 1, "acq-a_run-1_space-T1w_dseg": 3, "run-2_dseg": None, "space-FLAIR_dseg": None}
    assert {name: agreement(BidsName.of(Path(f"sub-01_ses-2_{name}.nii.gz")), image) for name in scores} == scores


def test_every_case_of_a_mixed_data_set_can_be_used(tmp_path: Path) -> None:
    derived = tmp_path / "derivatives/manual"
    for number, (subject, image, label) in enumerate([
        ("01", "run-1_T1w", "run-1_dseg"), ("01", "run-2_T1w", "run-2_dseg"), ("02", "T1w", "space-T1w_dseg"),
        ("02", "FLAIR", "space-FLAIR_dseg"), ("03", "T1w", "label-lesion_mask"),
    ]):  # fmt: skip
        array, labels = phantom(number, shape=(20, 18, 14 + number), values=(1,))
        save_nifti(tmp_path / f"sub-{subject}/anat/sub-{subject}_{image}.nii.gz", array)
        save_nifti(derived / f"sub-{subject}/anat/sub-{subject}_{label}.nii.gz", labels)
    save_nifti(derived / "sub-03/anat/sub-03_desc-brain_mask.nii.gz", labels)
    save_nifti(derived / "sub-03/anat/sub-03_space-MNI152Lin_label-lesion_mask.nii.gz", labels)
    catalog = describe(tmp_path, layout="bids", images="", labels="", channels=CHANNELS, terms={1: "lesion"})
    report = check_catalogs([catalog])
    assert report.errors == ()
    assert [fact.labelled for fact in report.facts] == [True] * 5
    assert [(f.code, f.case) for f in report.findings if f.code.startswith("label-")] == [
        ("label-without-image", ""),
        ("label-passed-over", "03_T1w"),
    ]
