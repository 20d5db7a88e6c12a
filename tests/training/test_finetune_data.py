"""What fine-tuning reads: pairs of files, names of labels, a split by case, and crops as inference would take them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptseg.data.crops import TrainingVolume
from promptseg.preprocessing import PreprocessingConfig
from promptseg.training.finetune_config import FinetuneConfig
from promptseg.training.finetune_data import (
    CasePaths,
    draw_view,
    find_cases,
    lattice_of,
    load_case,
    patients_of,
    split_cases,
)
from promptseg.training.finetune_labels import choose_names, label_names
from promptseg.training.finetune_loop import describe_labels
from promptseg.training.finetune_report import click_dice, deepest_point, dice_of

PREPROCESSING = PreprocessingConfig()


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)
    return path


def make_case(folder: Path, name: str = "a", shape: tuple[int, int, int] = (20, 22, 12)) -> CasePaths:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[4:10, 5:12, 3:7] = 1
    labels[12:16, 5:9, 3:7] = 2
    image = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32) + 10 * labels
    return CasePaths(
        name, save(folder / "images" / f"{name}.nii.gz", image), save(folder / "labels" / f"{name}.nii.gz", labels)
    )


@pytest.fixture
def case(tmp_path: Path) -> CasePaths:
    return make_case(tmp_path)


@pytest.fixture
def volume(case: CasePaths) -> TrainingVolume:
    return load_case(case, PREPROCESSING)


def test_files_are_paired_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b_0000.nii.gz", "a.nii", "alone.nii.gz", "notes.txt", ".a.nii"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).touch()
    for name in ("b.nii.gz", "a.nii.gz", "other.nii.gz"):
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / name).touch()
    with caplog.at_level(logging.WARNING):
        cases = find_cases(tmp_path / "images", tmp_path / "labels")
    assert [(c.name, c.image.name, c.label.name) for c in cases] == [
        ("a", "a.nii", "a.nii.gz"),
        ("b", "b_0000.nii.gz", "b.nii.gz"),
    ]
    assert "2 files without a partner are left out: alone, other" in caplog.text


def test_folders_without_pairs_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.nii").touch()
    with pytest.raises(ValueError, match=r"no image .* has a label map of its name.*there are a and nothing"):
        find_cases(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(ValueError, match="no such folder"):
        find_cases(tmp_path / "nowhere", tmp_path / "labels")


def test_folders_that_cannot_be_paired_say_why(tmp_path: Path) -> None:
    make_case(tmp_path)
    images, labels = tmp_path / "images", tmp_path / "labels"
    with pytest.raises(ValueError, match="are one folder; put the label maps apart"):
        find_cases(images, tmp_path / "labels" / ".." / "images")
    (images / "a_0000.nii").touch()
    with pytest.raises(ValueError, match=r"a\.nii\.gz and a_0000\.nii in .* have one name, 'a'; keep one of them"):
        find_cases(images, labels)
    (images / "a_0000.nii").unlink()
    (labels / "liver").mkdir()
    (labels / "a.nii.gz").rename(labels / "liver" / "a.nii.gz")
    with pytest.raises(ValueError, match=r"labels lie in folders of their own \(liver\): one label map for each image"):
        find_cases(images, labels)


@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"0": "background", "1": "head", "2": "tail"}},
        {"labels": {"background": 0, "head": 1, "tail": 2}},
    ],
    ids=["decathlon", "nnU-Net"],
)
@pytest.mark.parametrize("place", [".", "labels"])
def test_names_are_found_in_a_dataset_json(tmp_path: Path, content: dict[str, object], place: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / place / "dataset.json").write_text(json.dumps(content))
    found = label_names(tmp_path / "labels")
    assert {v: n for v, n in found.items() if v} == {1: "head", 2: "tail"}
    assert label_names(tmp_path / "labels", "2=fin") == {2: "fin"}


@pytest.mark.parametrize("stated", ["liver", "0=background", "1=", "=x", "1:x", "²=x"])
def test_names_of_another_form_are_refused(tmp_path: Path, stated: str) -> None:
    with pytest.raises(ValueError, match="expected such as 1=liver"):
        label_names(tmp_path, stated)


@pytest.mark.parametrize("stated", ["1=liver,1=tumour", "1=liver,2=liver"])
def test_names_are_given_once(tmp_path: Path, stated: str) -> None:
    with pytest.raises(ValueError, match=f"names='{stated}': a value or a name is there twice"):
        label_names(tmp_path, stated)


@pytest.mark.parametrize("content", ["{", "[]", '{"labels": ["liver"]}'])
def test_a_broken_dataset_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json has no readable names .*give names such as 1=liver"):
        label_names(tmp_path)


def test_what_is_no_structure_in_a_dataset_json_has_no_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert label_names(tmp_path) == {2: "core"}
    assert "whole stand for several values" in caplog.text


def stand_in(**voxels: int) -> TrainingVolume:
    """A case with labels v1, v2, ... of so many voxels."""
    counts = {int(name[1:]): count for name, count in voxels.items()}
    objects = {value: np.zeros((count, 3), dtype=int) for value, count in counts.items() if count >= 8}
    return TrainingVolume("a", "", "", (), np.zeros((4, 4, 4)), np.ones(3), objects, dict.fromkeys(counts, 9.0))


def test_labels_that_are_not_learned_or_measured_are_named(caplog: pytest.LogCaptureFixture) -> None:
    training, validation = [stand_in(v1=9, v2=9, v4=1)], [stand_in(v1=9, v3=9)]
    assert choose_names({}, training, validation, False) == {}
    assert "not learned: label 3, 4, of which no training case has 8 voxels" in caplog.text
    assert "label values 2 are in no held-out case: nothing is measured" in caplog.text
    caplog.clear()
    assert choose_names({1: "liver", 3: "eye"}, training, validation, True) == {1: "liver", 3: "eye"}
    assert "label values 2 have no name, and are taken as background" in caplog.text
    assert "not learned: label 3 (eye), 4, " in caplog.text
    caplog.clear()
    assert choose_names({7: "fin"}, training, validation, False) == {}
    assert "none of the named labels is in the training cases, which have 1, 2" in caplog.text
    with pytest.raises(ValueError, match=r"names=\{7: 'fin'\}: none .* which have 1, 2"):
        choose_names({7: "fin"}, training, validation, True)
    caplog.clear()
    assert choose_names({1: "liver"}, [stand_in(v1=9)], [stand_in(v1=9)], True) == {1: "liver"}
    assert not caplog.records


def test_small_labels_are_known_but_not_asked_for(case: CasePaths) -> None:
    labels = np.zeros((20, 22, 12), dtype=np.uint8)
    labels[:2, :2, :2], labels[9, 9, :7] = 1, 5
    save(case.label, labels)
    volume = load_case(case, PREPROCESSING)
    assert set(volume.objects) == {1} and set(volume.extents_mm) == {1, 5}
    assert [label.value for label in describe_labels([volume], {})] == [1]


def test_a_case_is_canonical_with_its_objects(volume: TrainingVolume) -> None:
    assert volume.shape == (20, 22, 12)
    assert np.allclose(volume.spacing_mm, [1, 1, 2])
    assert set(volume.objects) == {1, 2}
    assert volume.extents_mm[1] == pytest.approx(8)
    assert volume.labels is not None
    assert volume.labels[19 - 5, 6, 4] == 1  # the first axis was flipped


def test_labels_on_another_grid_are_refused(case: CasePaths, tmp_path: Path) -> None:
    moved = np.diag([-1.0, 1.0, 2.0, 1.0])
    moved[0, 3] = 5
    label = save(tmp_path / "moved.nii.gz", np.ones((20, 22, 12), dtype=np.uint8), moved)
    with pytest.raises(ValueError, match=r"does not lie on the grid of .*a corner lies 5 mm away"):
        load_case(CasePaths("a", case.image, label), PREPROCESSING)
    label = save(tmp_path / "small.nii.gz", np.ones((20, 22, 11), dtype=np.uint8))
    with pytest.raises(ValueError, match="resample it onto it"):
        load_case(CasePaths("a", case.image, label), PREPROCESSING)


@pytest.mark.parametrize(
    ("value", "named"),
    [(0.5, "label value 0.5 is not whole"), (-1, "from 0 to -1|from -1 to -1"), (70000, "expected 0 to 65535")],
)
def test_label_values_are_whole_numbers(case: CasePaths, tmp_path: Path, value: float, named: str) -> None:
    label = save(tmp_path / "soft.nii.gz", np.full((20, 22, 12), value, dtype=np.float32))
    with pytest.raises(ValueError, match=named):
        load_case(CasePaths("a", case.image, label), PREPROCESSING)


def test_labels_stored_as_scaled_integers_are_whole(case: CasePaths) -> None:
    before = load_case(case, PREPROCESSING).labels
    scaled = nib.Nifti1Image(nib.load(case.label).get_fdata(), np.diag([-1.0, 1.0, 2.0, 1.0]))  # type: ignore[attr-defined]
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, case.label)
    assert (nib.load(case.label).get_fdata() % 1).any()  # type: ignore[attr-defined]
    found = load_case(case, PREPROCESSING).labels
    assert found is not None and before is not None and np.array_equal(found, before)


def test_images_that_show_nothing_and_label_maps_of_several_axes_are_refused(case: CasePaths, tmp_path: Path) -> None:
    constant = save(tmp_path / "constant.nii.gz", np.full((20, 22, 12), 7, dtype=np.int16))
    with pytest.raises(ValueError, match=r"constant\.nii\.gz: every voxel is 7"):
        load_case(CasePaths("a", constant, case.label), PREPROCESSING)
    several = save(tmp_path / "several.nii.gz", np.zeros((20, 22, 12, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"several\.nii\.gz: 4 axes; give a label map of 3 axes"):
        load_case(CasePaths("a", case.image, several), PREPROCESSING)
    with pytest.raises(ValueError, match=r"several\.nii\.gz: 4 axes; give one channel"):
        load_case(CasePaths("a", several, case.label), PREPROCESSING)


@given(st.integers(1, 30), st.floats(0, 0.9), st.integers(0, 99))
def test_the_split_is_by_case_and_holds_one_out_at_least(count: int, share: float, seed: int) -> None:
    names = [f"case{n}" for n in range(count)]
    training, validation = split_cases(names, share, seed)
    assert sorted(training + validation) == sorted(names)
    assert training
    assert bool(validation) == (count > 1 and share > 0)
    assert split_cases(names[::-1], share, seed) == (training[::-1], validation[::-1])


@given(st.integers(2, 9), st.integers(1, 4), st.floats(0.1, 0.9), st.integers(0, 99))
def test_a_patient_is_on_one_side_of_the_split(count: int, visits: int, share: float, seed: int) -> None:
    patients = {f"sub-{n}_ses-{v}": f"sub-{n}" for n in range(count) for v in range(visits)}
    training, validation = split_cases(list(patients), share, seed, patients)
    assert training and validation and sorted(training + validation) == sorted(patients)
    assert not {patients[n] for n in training} & {patients[n] for n in validation}
    assert split_cases(["a", "b"], 0.5, seed, {"a": "x", "b": "x"}) == (["a", "b"], [])


@given(st.integers(0, 99))
def test_a_patient_of_many_cases_is_trained_on(seed: int) -> None:
    patients = {f"sub-1_ses-{n}": "sub-1" for n in range(19)} | {"sub-2_ses-0": "sub-2", "sub-3_ses-0": "sub-3"}
    training, validation = split_cases(list(patients), 0.2, seed, patients)
    assert len(training) == 19 and validation == ["sub-2_ses-0", "sub-3_ses-0"]


def test_patients_are_told_by_their_names_and_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volumes = {n: load_case(make_case(tmp_path, n), PREPROCESSING) for n in ("sub-1_ses-1", "copy")}
    other = {n: load_case(make_case(tmp_path, n, (20, 22, 14)), PREPROCESSING) for n in ("sub-1_ses-2", "subway_1")}
    assert patients_of({**volumes, **other}) == {
        "sub-1_ses-1": "sub-1", "copy": "sub-1", "sub-1_ses-2": "sub-1", "subway_1": "sub-1",
    }  # fmt: skip
    assert "sub-1_ses-1 and copy hold the same image" in caplog.text
    again = {n: make_case(tmp_path, n) for n in ("sub-2_ses-1", "sub-3_ses-1")}
    shown = {n: load_case(case, PREPROCESSING) for n, case in again.items()}
    later = load_case(make_case(tmp_path, "sub-3_ses-2", (20, 22, 14)), PREPROCESSING)
    assert set(patients_of({**shown, "sub-3_ses-2": later}).values()) == {"sub-2"}, "all cases of both"


def test_a_centred_crop_shows_all_of_its_label(volume: TrainingVolume) -> None:
    view = draw_view(volume, np.random.default_rng(0), 32, PREPROCESSING, value=2, centred=True)
    assert volume.labels is not None
    ratio = float(np.prod(volume.spacing_mm) / np.prod(view.spacing_mm.numpy()))
    assert int((view.labels == 2).sum()) == pytest.approx(ratio * (volume.labels == 2).sum(), rel=0.3)
    places = (view.labels == 2).nonzero().float().mean(dim=0)
    assert torch.allclose(places, torch.full((3,), 15.5), atol=1.5)
    assert view.image.shape == (1, 32, 32, 32)


def test_crops_have_the_spacings_of_inference(volume: TrainingVolume) -> None:
    lattice = lattice_of(volume, 16)
    assert lattice.num_levels == 2
    levels = [lattice.level_spacing_mm(level) for level in range(lattice.num_levels)]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        view = draw_view(volume, rng, 16, PREPROCESSING, value=1)
        spacing = float(view.spacing_mm[0])
        assert torch.allclose(view.spacing_mm, torch.full((3,), spacing))
        assert min(abs(spacing - s) for s in levels) < 1e-6
        seen.add(round(spacing, 3))
    assert len(seen) == 2


def test_crops_are_a_function_of_their_generator(volume: TrainingVolume) -> None:
    first, second = (
        draw_view(volume, np.random.default_rng(4), 32, PREPROCESSING, augmentation=1.0, value=1) for _ in range(2)
    )
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.labels, second.labels)
    other = draw_view(volume, np.random.default_rng(5), 32, PREPROCESSING, augmentation=1.0, value=1)
    assert not torch.equal(first.image, other.image)


def test_intensities_and_labels_of_a_crop_lie_together(volume: TrainingVolume) -> None:
    for seed in range(5):
        view = draw_view(volume, np.random.default_rng(seed), 32, PREPROCESSING, value=2)
        inside = view.image[0][view.labels == 2]
        if len(inside) > 50:
            assert float(inside.mean()) > float(view.image[0][view.labels == 0].mean()) + 0.3


def test_labels_are_described_by_name_and_extent(volume: TrainingVolume) -> None:
    labels = describe_labels([volume], {1: "head", 9: "absent"})
    assert [(label.value, label.name) for label in labels] == [(1, "head")]
    assert labels[0].extent_mm == pytest.approx(8)
    assert [label.name for label in describe_labels([volume], {})] == ["label 1", "label 2"]
    with pytest.raises(ValueError, match="nothing to learn"):
        describe_labels([], {})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"minutes": 0}, "minutes=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"augmentation": 2.0}, "augmentation=2.0"),
        ({"validation_share": 1.0}, "leaves nothing to train on"),
        ({"minutes": float("nan")}, "minutes=nan"),
        ({"method": "magic"}, "method='magic'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"rank": 0}, "rank=0"),
        ({"report_cases": -1}, "report_cases=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"method": "full", "scope": "decoder"}, "scope='decoder' and method='full'"),
    ],
)
def test_contradictions_are_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FinetuneConfig(**fields)  # type: ignore[arg-type]


def test_the_deepest_point_lies_deep() -> None:
    region = np.zeros((21, 20, 19), dtype=bool)
    region[3:12, 4:13, 5:14] = True
    region[18, 18, 18] = True
    point = deepest_point(region)
    assert region[point]
    assert np.abs(np.array(point) - [7, 8, 9]).max() <= 2


class Perfect:
    """Answers with the truth as soon as it is asked."""

    def __init__(self, truth: np.ndarray) -> None:
        self.truth, self.asked = truth, 0

    def predict(self, points: list[tuple[int, ...]], labels: list[int]) -> object:
        self.asked += 1
        assert all(bool(self.truth[p]) == bool(label) for p, label in zip(points, labels, strict=True))
        return type("Answer", (), {"mask": self.truth.astype(np.uint8)})()


def test_clicks_stop_when_nothing_is_wrong() -> None:
    truth = np.zeros((8, 8, 8), dtype=bool)
    truth[2:6, 2:6, 2:6] = True
    user = Perfect(truth)
    assert click_dice(user, truth, 3) == {1: 1.0, 2: 1.0, 3: 1.0}  # type: ignore[arg-type]
    assert user.asked == 1
    assert dice_of(truth, np.roll(truth, 4, axis=0)) == 0
