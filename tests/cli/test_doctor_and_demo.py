"""``promptseg doctor`` and ``promptseg demo`` with weights that learnt nothing: all but the quality."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from promptseg import demo
from promptseg.models.registry import list_models

from .conftest import Run


def test_doctor(run: Run, weights: Path) -> None:
    outcome = run("doctor", "--model", weights)
    assert outcome.code == 0, outcome.out
    for part in ("torch ", "torchvision ", "device       cpu: computes in ", "weights ", "all is well"):
        assert part in outcome.out
    assert len(re.findall(r"click \d on the liver: \d+ ml in \d+\.\d\d s", outcome.out)) == 2


def test_doctor_without_weights_says_so(run: Run) -> None:
    outcome = run("doctor", "--model", "nowhere")
    assert outcome.code == 1
    assert "no weights 'nowhere' for the self-test" in outcome.out
    assert run("doctor", "--model", "nowhere", "--no-self-test").code == 0


def test_demo(run: Run, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    outcome = run("demo", "-o", folder, "--model", weights)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    for thing in demo.OBJECTS:
        overlaps = r"  ".join([r"\d\.\d\d"] * len(thing.rounds()))
        assert re.search(rf"{thing.name}(?: \(box\))? +{overlaps} +\d+ ml", outcome.out)
    assert "agreement" in outcome.out
    assert "accuracy" not in outcome.out
    assert re.search(r"first prompt of an organ \d+\.\d\d .*later \d+\.\d\d each", outcome.out)
    image, organs = nib.load(demo.IMAGE), nib.load(folder / "organs.nii.gz")
    assert organs.shape == image.shape  # type: ignore[attr-defined]
    assert np.array_equal(organs.affine, image.affine)  # type: ignore[attr-defined]
    with Image.open(folder / "overlay.png") as picture:
        assert picture.width > 800
    assert sorted(p.name for p in folder.iterdir()) == ["ct.nii.gz", "organs.nii.gz", "overlay.png"]


def test_demo_into_a_file_is_refused(run: Run, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x", encoding="utf-8")
    outcome = run("demo", "-o", path, "--model", weights)
    assert outcome.code == 2
    assert "file" in outcome.error


def test_demo_clicks_lie_where_they_say() -> None:
    labels = np.asanyarray(nib.load(demo.LABELS).dataobj)  # type: ignore[attr-defined]
    for thing in demo.OBJECTS:
        assert len(thing.points) == len(thing.labels)
        assert thing.box or thing.labels[0] == 1
        assert len(thing.rounds()) == len(thing.points) + bool(thing.box)
        if thing.box:
            inside = np.zeros(labels.shape, bool)
            inside[tuple(slice(a, b) for a, b in zip(*thing.box, strict=True))] = True
            assert inside[labels == thing.label_value].all()
        for point, label in zip(thing.points, thing.labels, strict=True):
            assert (labels[point] == thing.label_value) == bool(label)


def test_agreement() -> None:
    first, second = np.array([1, 1, 1, 0]), np.array([0, 1, 1, 1])
    assert demo.agreement(first, second) == pytest.approx(4 / 6)
    assert demo.agreement(first, first) == 1
    assert demo.agreement(first, 1 - first) == 0
    assert demo.agreement(np.zeros(3), np.zeros(3)) == 1


def test_shipped_weights_agree_on_the_demo_volume(run: Run, tmp_path: Path) -> None:
    if "promptseg-tiny" not in list_models():
        pytest.skip("the weights promptseg-tiny are not in this checkout")
    outcome = run("demo", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    mean = re.search(r"mean after the first prompt (\d\.\d\d), after the last (\d\.\d\d)", outcome.out)
    assert mean is not None
    assert float(mean[2]) >= 0.78  # 0.83 was measured: a guard against a worse checkpoint, not a goal
    assert float(mean[2]) > float(mean[1])
