"""``promptseg segment --text`` and ``--all``: one mask or a label map, the printed table, and the JSON beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from promptseg.cli.paths import table_path
from promptseg.cli.segment import print_table
from promptseg.models import PromptableModel, TextTerm
from promptseg.models.pretrained import save_pretrained
from promptseg.text import load_bank

from .conftest import CONFIG, Run

TERMS = (TextTerm("liver", 20.0, 4), TextTerm("left kidney", 12.0, 2))


@pytest.fixture(scope="module")
def named_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that understand text and find everything everywhere."""
    encoder = load_bank().encoder.weights_sha256
    torch.manual_seed(0)
    model = PromptableModel(
        replace(CONFIG, name="words", text_dim=384, num_levels=64, text_terms=TERMS, text_encoder=encoder)
    )
    with torch.no_grad():
        model.mask_decoder.mask_features.weight.normal_()  # else the masks of all names are alike
        model.mask_decoder.mask_weights[0].fc2.bias[-1] = 3.0  # type: ignore[union-attr]
        model.mask_decoder.presence_head.fc2.bias.fill_(3.0)  # type: ignore[union-attr]
    return save_pretrained(model, tmp_path_factory.mktemp("weights") / "words")


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    loaded = nib.load(path)
    return np.asanyarray(loaded.dataobj), loaded.affine  # type: ignore[attr-defined]


def test_one_text_is_a_mask_and_takes_clicks(run: Run, named_weights: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "liver.nii.gz"
    outcome = run("segment", image, "--text", "hepar", "-o", out, "--model", named_weights)
    assert outcome.code == 0, outcome.err
    mask, affine = read(out)
    assert np.array_equal(affine, read(image)[1])
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.any()
    assert outcome.out.startswith(f"{out}: liver, ")
    assert ", presence 0." in outcome.out
    assert not (tmp_path / "liver.json").exists()
    words = ["--text", "liver", "--negative", "2,2,1", "--point", "8,7,4", "-o", out, "--model", named_weights]
    assert run("segment", image, *words).code == 0
    clicked = read(out)[0]
    assert (clicked[8, 7, 4], clicked[2, 2, 1]) == (1, 0)


def test_several_texts_are_a_label_map_with_a_table(run: Run, named_weights: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    words = ["--text", "liver", "--text", "kidney_left", "-o", out, "--model", named_weights]
    outcome = run("segment", image, *words, "--overlay", tmp_path / "labels.png")
    assert outcome.code == 0, outcome.err
    labels, affine = read(out)
    assert np.array_equal(affine, read(image)[1])
    assert set(np.unique(labels)) <= {0, 1, 2}
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"{out}: 2 of 2 labels found, ")
    assert lines[0].endswith(f"table in {tmp_path / 'labels.json'}")
    assert lines[1].split() == ["value", "name", "ml", "est.", "IoU", "presence"]
    assert lines[2].split()[:2] == ["1", "liver"]
    assert lines[3].split()[:3] == ["2", "left", "kidney"]
    assert (tmp_path / "labels.png").is_file()
    content = json.loads((tmp_path / "labels.json").read_text())
    assert content["weights"] == "words"
    assert content["image"] == str(image)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    for row in content["labels"]:
        assert set(row) == {"value", "name", "volume_ml", "score", "presence", "found", "shown"}
        assert row["volume_ml"] == pytest.approx((labels == row["value"]).sum() * voxel_ml, rel=1e-3)


def test_the_table_has_what_is_in_the_map_and_names_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "value": 1,
            "name": "liver",
            "volume_ml": 1301.4,
            "score": 0.81,
            "presence": 0.99,
            "found": True,
            "shown": 0.9,
        },
        {"value": 2, "name": "left putamen", "volume_ml": 0, "score": 0.1, "presence": 0.9, "found": True, "shown": 0},
        {"value": 3, "name": "pons", "volume_ml": 0.1, "score": 0.1, "presence": 0.9, "found": True, "shown": 0.04},
        {"value": 4, "name": "spleen", "volume_ml": 0, "score": 0, "presence": 0.02, "found": False, "shown": 0},
    ]
    print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:2]] == [["1", "liver", "1301", "0.81", "0.99"]]
    assert lines[2:] == ["  covered by others: left putamen, pons", "  not found: spleen (presence 0.02)"]
    print_table(rows[3:])
    assert capsys.readouterr().out == "  not found: spleen (presence 0.02)\n"
    print_table(rows[3:] * 40)
    assert capsys.readouterr().out == "  not found: 40 names; the JSON table has them\n"


def test_a_table_replaces_no_file_but_a_table(run: Run, named_weights: Path, image: Path, tmp_path: Path) -> None:
    words = ["segment", image, "--all", "-o", tmp_path / "scan.nii", "--model", named_weights]
    sidecar = tmp_path / "scan.json"
    for content in ('{"Modality": "MR"}', "[1, 2]", "no JSON"):
        sidecar.write_text(content, encoding="utf-8")
        outcome = run(*words)
        assert outcome.code == 2
        assert "scan.json', which promptseg did not write; choose another name" in outcome.error
        assert sidecar.read_text(encoding="utf-8") == content
        assert not (tmp_path / "scan.nii").exists()
    sidecar.unlink()
    assert run(*words).code == run(*words).code == 0  # its own is replaced


def test_all_finds_what_the_weights_know(run: Run, named_weights: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.nii"
    outcome = run("segment", image, "--all", "-o", out, "--model", named_weights)
    assert outcome.code == 0, outcome.err
    content = json.loads((tmp_path / "all.json").read_text())
    assert [row["name"] for row in content["labels"]] == ["liver", "left kidney"]


def test_weights_without_text_say_so(run: Run, weights: Path, image: Path, tmp_path: Path) -> None:
    for words in (["--text", "liver"], ["--all"], ["--text", "liver", "--text", "spleen"]):
        outcome = run("segment", image, *words, "-o", tmp_path / "x.nii.gz", "--model", weights)
        assert outcome.code == 2
        assert "weights 'random' were not trained with text" in outcome.error
    assert not (tmp_path / "x.nii.gz").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--text", "dragon"], "names no known structure"),
        (["--text", "liver", "--text", "dragon"], "names no known structure"),
        (["--text", "liver", "--text", "spleen", "--point", "1,1,1"], "2 times --text with other prompts"),
        (["--all", "--text", "liver"], "--all takes no prompts"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, named_weights: Path, image: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    outcome = run("segment", image, *words, "-o", tmp_path / "x.nii.gz", "--model", named_weights)
    assert outcome.code == 2
    assert expected in outcome.error


def test_untrained_names_are_warned_of(run: Run, named_weights: Path, image: Path, tmp_path: Path) -> None:
    outcome = run("segment", image, "--text", "spleen", "-o", tmp_path / "x.nii.gz", "--model", named_weights)
    assert outcome.code == 0
    assert "were not trained to find 'spleen'" in outcome.err


def test_sides_of_an_unknown_orientation_are_warned_of(
    run: Run, named_weights: Path, image: Path, tmp_path: Path
) -> None:
    loaded = nib.load(image)
    loaded.set_sform(None, code=0)  # type: ignore[attr-defined]
    loaded.set_qform(None, code=0)  # type: ignore[attr-defined]
    nib.save(loaded, tmp_path / "unplaced.nii.gz")
    words = ["-o", tmp_path / "x.nii.gz", "--model", named_weights]
    for file, is_known in ((image, True), (tmp_path / "unplaced.nii.gz", False)):
        for texts in (["--text", "left kidney"], ["--text", "liver", "--text", "Ren sinister"], ["--all"]):
            outcome = run("segment", file, *texts, *words)
            assert outcome.code == 0, outcome.err
            assert outcome.err.count("left kidney: the orientation of the image is unknown") == (not is_known)
        assert "left kidney:" not in run("segment", file, "--text", "liver", *words).err


@pytest.mark.parametrize(
    ("output", "table"), [("a/l.nii.gz", "a/l.json"), ("l.NII", "l.json"), ("l.1.mha", "l.1.json")]
)
def test_the_table_lies_beside_the_map(output: str, table: str) -> None:
    assert str(table_path(output)) == table


def test_the_vocabulary_marks_what_weights_were_trained_on(run: Run, named_weights: Path, weights: Path) -> None:
    lines = run("vocabulary", "search", "kidn", "--model", named_weights).out.splitlines()
    assert lines[0].startswith("*kidney ")
    assert not any(line.startswith("*") for line in lines[1:-1])
    assert lines[-1] == f"* {named_weights} was trained to find it by name"
    facts = json.loads(run("vocabulary", "show", "kidney", "--json", "--model", named_weights).out)
    assert facts["trained"] == ["left kidney"]
    assert "trained           left kidney" in run("vocabulary", "show", "kidney", "--model", named_weights).out
    listed = json.loads(run("vocabulary", "list", "--trained", "--json", "--model", named_weights).out)
    assert {term["term"] for term in listed} == {"kidney", "liver"}
    assert "*" not in run("vocabulary", "search", "kidn", "--model", weights).out
    outcome = run("vocabulary", "list", "--trained", "--model", weights)
    assert (outcome.code, "trained to find none of these" in outcome.error) == (2, True)
    assert run("vocabulary", "list", "--model", "nothing-here").code == 2
