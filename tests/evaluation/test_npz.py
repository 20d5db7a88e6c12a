"""The challenge's files: axis order, boxes, safety, and that its own rule finds the scores that we report."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from promptseg.evaluation import EvaluationConfig, run_evaluation
from promptseg.evaluation.cases import find_cases
from promptseg.evaluation.npz import ChallengeCase, read_npz, write_answer, write_case

from .conftest import smooth_mask

SHAPE = (7, 6, 5)


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:4] = 3
    labels[5, 1, 0] = 7
    return labels


def test_a_case_lies_in_the_challenges_axis_order_and_comes_back(tmp_path: Path, labels: np.ndarray) -> None:
    image = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    boxes = {3: (np.array([1, 2, 1]), np.array([4, 5, 4])), 7: (np.array([5, 1, 0]), np.array([6, 2, 1]))}
    path = write_case(tmp_path / "MR_Brain_1.npz", image, labels, (0.5, 1.0, 3.0), boxes)

    with np.load(path, allow_pickle=True) as content:  # as the challenge's scorer sees it
        assert content["gts"].shape == (5, 6, 7)
        assert content["gts"][2, 3, 1] == labels[1, 3, 2] == 3
        assert content["imgs"].dtype == np.uint8
        assert (content["imgs"].min(), content["imgs"].max()) == (0, 255)
        assert content["spacing"].tolist() == [3.0, 1.0, 0.5]
        assert content["boxes"][0] == {
            "z_min": 1, "z_max": 3, "z_mid": 2, "z_mid_x_min": 1, "z_mid_y_min": 2, "z_mid_x_max": 3, "z_mid_y_max": 4,
        }  # fmt: skip

    case = ChallengeCase(path)
    assert (case.dataset, case.name, case.modality) == ("MR_Brain", "MR_Brain_1", "MR")
    loaded = case.load()
    np.testing.assert_array_equal(loaded.labels, labels)
    np.testing.assert_allclose(loaded.image.spacing_mm, [0.5, 1.0, 3.0])
    assert loaded.objects == (((3,), "label 3"), ((7,), "label 7"))
    assert loaded.boxes is not None
    for value, box in boxes.items():
        np.testing.assert_array_equal(np.stack(loaded.boxes[value]), np.stack(box))
    order = np.argsort(image[labels == 0].ravel())
    assert (np.diff(loaded.image.array[labels == 0].ravel()[order].astype(int)) >= 0).all()


def test_the_middle_slice_is_that_of_the_median_voxel(tmp_path: Path) -> None:
    mask = smooth_mask((20, 18, 16), 3)
    box = {1: (np.array([0, 0, 0]), np.array([20, 18, 16]))}
    path = write_case(tmp_path / "a.npz", mask * 1.0, mask.astype(np.uint8), (1, 1, 1), box)
    z = np.nonzero(mask.transpose(2, 1, 0))[0]
    assert read_npz(path)["boxes"][0]["z_mid"] == z[len(z) // 2]


def test_an_answer_holds_every_step_and_the_last(tmp_path: Path, labels: np.ndarray) -> None:
    steps = [np.zeros_like(labels), labels]
    content = read_npz(write_answer(tmp_path / "answer.npz", steps))
    assert content["all_segs"].shape == (2, 5, 6, 7)
    np.testing.assert_array_equal(content["segs"], labels.T)
    np.testing.assert_array_equal(content["all_segs"][0], 0)


class Evil:
    """Unpickles to a call."""

    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_nothing_in_a_file_is_run(tmp_path: Path, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "x.npz", imgs=labels.T, gts=labels.T, spacing=np.ones(3), boxes=np.array([Evil()], object))
    with pytest.raises(ValueError, match="x.npz: not a readable .npz.*which is not data"):
        ChallengeCase(tmp_path / "x.npz").load()
    assert not (tmp_path / "evil").exists()
    assert pickle.loads(pickle.dumps(Evil())) is None
    assert (tmp_path / "evil").exists()  # so the test could have failed


def test_damaged_and_incomplete_files_are_named(tmp_path: Path, labels: np.ndarray) -> None:
    (tmp_path / "damaged.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="damaged.npz: not a readable"):
        read_npz(tmp_path / "damaged.npz")
    np.savez(tmp_path / "half.npz", imgs=labels.T)
    with pytest.raises(ValueError, match="half.npz: no gts and no spacing"):
        ChallengeCase(tmp_path / "half.npz").load()
    np.savez(tmp_path / "unequal.npz", imgs=labels, gts=labels.T, spacing=np.ones(3))
    with pytest.raises(ValueError, match=r"imgs \(7, 6, 5\) and gts \(5, 6, 7\)"):
        ChallengeCase(tmp_path / "unequal.npz").load()
    with zipfile.ZipFile(tmp_path / "junk.npz", "w") as archive:
        archive.writestr("imgs.npy", b"junk")
    with pytest.raises(ValueError, match="junk.npz"):
        read_npz(tmp_path / "junk.npz")


def challenge_means(gts: np.ndarray, steps: np.ndarray) -> list[float]:
    """Mean Dice over a case's labels after each step, as the challenge's scorer counts it."""
    means = []
    for segs in steps:
        dices = [
            2 * ((gts == v) & (segs == v)).sum() / ((gts == v).sum() + (segs == v).sum()) for v in np.unique(gts)[1:]
        ]
        means.append(float(np.mean(dices)))
    return means


def test_the_files_of_a_run_give_the_scores_of_its_summary_and_can_be_evaluated_again(
    pool: Path, tmp_path: Path
) -> None:
    options = {"model": ("clicked-voxels", "box-as-mask"), "protocol": "cvpr25", "jitter_repeats": 0, "bootstrap": 10}
    first = run_evaluation(EvaluationConfig(str(pool), str(tmp_path / "one"), npz=True, gallery=0, **options))  # type: ignore[arg-type]
    for model in ("clicked-voxels", "box-as-mask"):
        auc = []
        for path in sorted((tmp_path / "one" / "npz").glob("*.npz")):
            with np.load(path, allow_pickle=True) as case:
                gts = case["gts"]
            with np.load(tmp_path / "one" / "npz_answers" / model / path.name) as answer:
                means = challenge_means(gts, answer["all_segs"])
            auc.append(float(np.trapezoid(means[-5:]) if hasattr(np, "trapezoid") else np.trapz(means[-5:])))  # type: ignore[attr-defined]
        assert first.summary["models"][model]["challenge"]["dsc_auc"]["mean"] == pytest.approx(np.mean(auc), abs=1e-9)

    again = run_evaluation(
        EvaluationConfig(
            str(tmp_path / "one" / "npz"), str(tmp_path / "two"), gallery=0, **{**options, "model": ("clicked-voxels",)}
        )  # type: ignore[arg-type]
    )
    mine = [(r.label, r.step, r.prompt, r.dice, r.nsd) for r in first.records if r.model == "clicked-voxels"]
    assert sorted(mine) == sorted((r.label, r.step, r.prompt, r.dice, r.nsd) for r in again.records)


def test_a_folder_of_challenge_files_is_a_catalog(tmp_path: Path, labels: np.ndarray) -> None:
    for name in ("CT_b_2", "CT_a_1"):
        write_case(tmp_path / f"{name}.npz", labels, labels, (1, 1, 1))
    assert [case.name for case in find_cases(tmp_path, "validation")] == ["CT_a_1", "CT_b_2"]
    assert find_cases(tmp_path, "validation")[0].load().boxes == {}  # none of its objects gets one
