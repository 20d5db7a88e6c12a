"""``promptseg segment``: from files to files, and every way to get it wrong."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.cmdline import roi
from PIL import Image

from ..io.test_dicom import write_series
from .conftest import Run, save_image


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file."""
    loaded = nib.load(path)
    return np.asanyarray(loaded.dataobj), loaded.affine  # type: ignore[attr-defined]


def test_mask_on_the_image_grid_follows_the_clicks(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask.nii.gz"
    clicks = ["--point", "8,7,4", "--point", "9,8,5", "--negative", "2,2,1"]
    outcome = run("segment", image, *clicks, "-o", out, "--model", weights)
    assert outcome.code == 0, outcome.err
    mask, affine = read(out)
    voxels, wanted = read(image)
    assert mask.dtype == np.uint8
    assert mask.shape == voxels.shape
    assert np.array_equal(affine, wanted)
    assert mask[8, 7, 4] == mask[9, 8, 5] == 1
    assert mask[2, 2, 1] == 0
    assert set(np.unique(mask)) <= {0, 1}
    assert outcome.out.startswith(f"{out}: ")
    assert " ml, estimated IoU " in outcome.out
    assert outcome.err == ""


def test_a_dicom_series_gets_a_segmentation_that_is_gone_on_from(run: Run, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    array = np.random.default_rng(0).integers(-500, 500, (16, 15, 12), dtype=np.int16)
    series = write_series(tmp_path / "series", array, np.diag([-1.0, -1.0, 2.0, 1.0]))
    seg, both = tmp_path / "liver.dcm", tmp_path / "both.nii.gz"
    outcome = run("segment", series, "--point", "8,7,4", "-o", seg, "--model", weights)
    assert outcome.code == 0, outcome.err
    assert run("segment", series, "--mask", seg, "--point", "2,2,9", "-o", both, "--model", weights).code == 0
    mask, _ = read(both)
    assert mask[8, 7, 4] == mask[2, 2, 9] == 1  # the earlier click by the mask, as it lies far from the new one
    outcome = run("segment", series, "--point", "8,7,4", "-o", series / "liver.dcm", "--model", weights)
    assert outcome.code == 2
    assert "lies among the slices" in outcome.error


def test_world_coordinates_give_the_same_mask(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    _, affine = read(image)
    x, y, z = (affine @ [8, 7, 4, 1])[:3]
    points = {"voxel": "8,7,4", "ras": f"{x},{y},{z}", "lps": f"{-x},{-y},{z}"}
    masks = []
    for space, point in points.items():
        out = tmp_path / f"{space}.nii"
        words = ["segment", image, "--point", point, "--space", space, "-o", out, "--model", weights]
        assert run(*words, "--overlay", tmp_path / f"{space}.png").code == 0
        masks.append(read(out)[0])
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])
    pictures = [(tmp_path / f"{space}.png").read_bytes() for space in points]
    assert pictures[0] == pictures[1] == pictures[2]
    with Image.open(tmp_path / "voxel.png") as picture:
        assert picture.format == "PNG"


def test_all_prompts_together(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"
    assert run("segment", image, "--box", "6,5,3,12,10,6", "-o", first, "--model", weights).code == 0
    words = [
        "--box",
        "6,5,3,12,10,6",
        "--box",
        "5,5,4,10,9,5",
        "--point",
        "8,7,4",
        "--negative",
        "1,1,1",
        "--mask",
        first,
    ]
    words += [
        "--scribble",
        "7,6,4;9,8,4",
        "--negative-scribble",
        "20,15,9; 20,18,9",
        "--lasso",
        "6,5,5;11,5,5;11,9,5;6,9,5",
    ]
    outcome = run("segment", image, *words, "-o", second, "--model", weights)
    assert outcome.code == 0, outcome.err
    mask, _ = read(second)
    assert mask[8, 7, 4] == 1
    assert mask[1, 1, 1] == 0


def test_a_value_of_a_label_map_is_the_mask_of_one_object(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    voxels, affine = read(image)
    labels = np.zeros(voxels.shape, np.int16)
    labels[6:12, 5:10, 3:6], labels[14:20] = 7, 300
    made = {"labels": labels, "one": labels == 7, "high": (labels == 7) * 255}
    results = []
    for name, array in made.items():
        nib.save(nib.Nifti1Image(array.astype(np.int16), affine), tmp_path / f"{name}.nii")
        words = ["--mask", tmp_path / f"{name}.nii", *(["--mask-value", "7"] if name == "labels" else [])]
        out = tmp_path / f"{name}_mask.nii"
        outcome = run("segment", image, *words, "--point", "8,7,4", "-o", out, "--model", weights)
        assert outcome.code == 0, outcome.err
        results.append(read(out)[0])
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_cache_on_disk_is_used_when_asked(
    run: Run, weights: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PROMPTSEG_CACHE", str(folder))
    words = ["segment", image, "--point", "8,7,4", "-o", tmp_path / "mask.nii", "--model", weights]
    assert run(*words).code == 0
    assert not folder.exists()
    assert run(*words, "--cache").code == 0
    assert list(folder.glob("*.safetensors"))


def write_other_grids(folder: Path, image: Path) -> dict[str, Path]:
    """Masks that do not lie on the image's grid, and files that are not images."""
    voxels, affine = read(image)
    shifted = affine.copy()
    shifted[0, 3] += 7
    names = ("other_shape", "shifted", "organs", "four", "flat", "constant", "cut", "text", "not_square")
    paths = {name: folder / f"{name}.nii.gz" for name in names}
    nib.save(nib.Nifti1Image(np.ones((5, 6, 7), np.uint8), affine), paths["other_shape"])
    nib.save(nib.Nifti1Image(np.ones(voxels.shape, np.uint8), shifted), paths["shifted"])
    nib.save(nib.Nifti1Image((np.indices(voxels.shape)[0] // 8).astype(np.uint8), affine), paths["organs"])
    nib.save(nib.Nifti1Image(np.stack([voxels, voxels], axis=-1), affine), paths["four"])
    nib.save(nib.Nifti1Image(voxels[:, :, 0], affine), paths["flat"])
    nib.save(nib.Nifti1Image(np.full(voxels.shape, 7, np.int16), affine), paths["constant"])
    for suffix in (".nii", ".png"):
        (folder / f"folder{suffix}").mkdir()
    paths["cut"].write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    paths["text"].write_text("not an image", encoding="utf-8")
    return paths


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("IMAGE -o OUT", ["no prompt", "--point"]),
        ("IMAGE --point 8,7 -o OUT", ["--point 8,7", "expected 3 numbers", "I,J,K"]),
        ("IMAGE --negative 8,7,4 -o OUT", ["no prompt says where the object is", "label 1"]),
        ("IMAGE --negative-scribble 8,7,4;9,7,4 -o OUT", ["no prompt says where the object is"]),
        ("IMAGE --point 8,7,400 -o OUT", ["400", "(24, 20, 12)"]),
        ("IMAGE --point -5000,7,4 --space ras -o OUT", ["-5000", "ras"]),
        ("IMAGE --point 8,7,4 --negative 8,7,4 -o OUT", ["8"]),
        ("IMAGE --box 6,5,3,12,10 -o OUT", ["--box", "expected 6 numbers"]),
        ("IMAGE --box 12,5,3,6,10,6 -o OUT", ["12", "6"]),
        ("IMAGE --box 6,5,3,6,10,6 -o OUT", ["6"]),
        ("IMAGE --box 60,50,30,70,60,40 -o OUT", ["60"]),
        ("IMAGE --point 8,7,4 --space mm -o OUT", ["--space", "voxel", "ras", "lps"]),
        ("IMAGE --mask other_shape -o OUT", ["other_shape", "(5, 6, 7)", "(24, 20, 12)", "resample"]),
        ("IMAGE --mask shifted -o OUT", ["shifted", "7 mm", "resample"]),
        ("IMAGE --mask organs --point 8,7,4 -o OUT", ["organs", "several values, 1, 2,", "--mask-value"]),
        ("IMAGE --mask organs --mask-value 3 --point 8,7,4 -o OUT", ["--mask-value 3", "holds 1, 2;"]),
        ("IMAGE --mask organs --mask-value 0 --point 8,7,4 -o OUT", ["--mask-value 0", "holds 1, 2;"]),
        ("IMAGE --mask-value 1 --point 8,7,4 -o OUT", ["--mask-value 1 without --mask"]),
        ("IMAGE --text liver -o OUT", ["text", "liver"]),
        ("IMAGE --point 8,7,4 -o FOLDER/mask.png", ["mask.png", ".nii.gz"]),
        ("IMAGE --point 8,7,4 -o FOLDER/nowhere/mask.nii", ["nowhere", "does not exist"]),
        ("IMAGE --point 8,7,4 -o IMAGE", ["also an input"]),
        ("IMAGE --point 8,7,4 -o FOLDER/folder.nii", ["folder.nii: is a folder", "such as"]),
        ("IMAGE --point 8,7,4 -o OUT --overlay FOLDER/folder.png", ["is a folder", "folder.png/folder.png"]),
        ("IMAGE --point 8,7,4 -o OUT --overlay FOLDER/mask.gif", ["mask.gif", ".png"]),
        ("IMAGE --point 8,7,4 -o OUT --overlay FOLDER/nowhere/mask.png", ["nowhere", "does not exist"]),
        ("IMAGE --point 8,7,4 -o OUT --device gpu", ["--device gpu", "cpu"]),
        ("IMAGE --point 8,7,4 -o OUT --device cuda:99", ["cuda:99", "cpu"]),
        ("FOLDER/nowhere.nii.gz --point 8,7,4 -o OUT", ["nowhere.nii.gz"]),
        ("FOLDER --point 8,7,4 -o OUT", ["FOLDER"]),
        ("four --point 8,7,4 -o OUT", ["four", "nib-roi -t 0:1 ", "[..., 0]"]),
        ("flat --point 8,7,4 -o OUT", ["3"]),
        ("constant --point 8,7,4 -o OUT", ["7"]),
        ("cut --point 8,7,4 -o OUT", ["cut.nii.gz"]),
        ("text --point 8,7,4 -o OUT", ["text.nii.gz"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(
    run: Run, weights: Path, image: Path, tmp_path: Path, words: str, expected: list[str]
) -> None:
    places = {"IMAGE": image, "OUT": tmp_path / "out.nii.gz", **write_other_grids(tmp_path, image)}
    before = sorted(tmp_path.iterdir())
    filled = [str(places.get(w, w.replace("FOLDER", str(tmp_path)))) for w in words.split()]
    content = image.read_bytes()
    outcome = run("segment", *filled, "--model", weights)
    assert outcome.code == 2
    for part in expected:
        assert part.replace("FOLDER", str(tmp_path)) in outcome.error
    assert sorted(tmp_path.iterdir()) == before
    assert image.read_bytes() == content


def test_unknown_weights_list_the_nearest(run: Run, image: Path, tmp_path: Path) -> None:
    outcome = run("segment", image, "--point", "8,7,4", "-o", tmp_path / "out.nii", "--model", "promptseg-tyni")
    assert outcome.code == 2
    assert "promptseg-tyni" in outcome.error
    assert not (tmp_path / "out.nii").exists()


def test_weights_of_another_architecture_are_refused(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(weights, other)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["model"]["architecture"] = "unet-7"
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    outcome = run("segment", image, "--point", "8,7,4", "-o", tmp_path / "out.nii", "--model", other)
    assert outcome.code == 2
    assert "unet-7" in outcome.error
    assert not (tmp_path / "out.nii").exists()


def test_folder_without_permission(weights: Path, image: Path, tmp_path: Path) -> None:
    """As a user who is not root, whom permissions do not stop."""
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        words = ["segment", str(image), "--point", "8,7,4", "-o", str(locked / "out.nii"), "--model", str(weights)]
        done = subprocess.run([sys.executable, "-m", "promptseg", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "no permission" in done.stderr
    else:
        from promptseg.cli.paths import check_folder

        original = os.access
        try:
            os.access = lambda path, mode: False
            with pytest.raises(ValueError, match="no permission to write in"):
                check_folder(tmp_path, str(tmp_path / "out.nii"))
        finally:
            os.access = original


def test_full_disk_leaves_no_file(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk with no room: the write fails halfway."""
    resource = pytest.importorskip("resource")
    before = sorted(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        outcome = run("segment", image, "--point", "8,7,4", "-o", tmp_path / "out.nii", "--model", weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.code == 2
    assert "out.nii" in outcome.error
    assert sorted(tmp_path.iterdir()) == before


def test_one_slice_and_other_orientations(run: Run, weights: Path, tmp_path: Path) -> None:
    for number, axes in enumerate([(-1, 0, 1), (2, -1, 0)]):
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, world in enumerate(axes):
            affine[abs(world), axis] = -2.0 if world < 0 else 1.5
        if number == 0:
            affine = np.diag([-1.0, 1.0, 5.0, 1.0])
        path = save_image(tmp_path / f"{number}.nii", affine, (20, 16, 1) if number == 0 else (20, 16, 6))
        out = tmp_path / f"{number}_mask.nii"
        outcome = run("segment", path, "--point", "6,5,0", "-o", out, "--model", weights)
        assert outcome.code == 0, outcome.err
        mask, placed = read(out)
        assert mask[6, 5, 0] == 1
        assert np.array_equal(placed, affine)


def test_the_command_that_the_error_advises_takes_one_frame(
    run: Run, weights: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels, affine = read(image)
    several = tmp_path / "two frames.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([voxels, voxels[::-1]], axis=-1), affine), several)
    out = tmp_path / "mask.nii.gz"
    outcome = run("segment", several, "--point", "8,7,4", "-o", out, "--model", weights)
    advised = shlex.split(outcome.error.split("`")[1])
    monkeypatch.chdir(tmp_path)
    assert advised[0] == "nib-roi"
    assert roi.main(advised[1:]) == 0
    assert run("segment", advised[-1], "--point", "8,7,4", "-o", out, "--model", weights).code == 0
    assert np.array_equal(read(out)[1], affine)
    assert np.array_equal(read(tmp_path / advised[-1])[0].reshape(voxels.shape), voxels)
