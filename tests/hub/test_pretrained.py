"""Checkpoints on this machine: what is written is read back, also by later releases, and what does not fit is named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from promptseg import ModelConfig, Predictor
from promptseg.models import PromptableModel
from promptseg.models import pretrained as module
from promptseg.models.pretrained import load_pretrained, save_pretrained
from promptseg.models.registry import resolve
from promptseg.safe_loading import KeyMigration
from promptseg.shipped import trained_names

from .conftest import CONFIG

ROOT = Path(__file__).resolve().parents[2]
FROZEN = sorted((Path(__file__).resolve().parent / "frozen").iterdir())


def freezer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("freeze_checkpoint", ROOT / "tools" / "freeze_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("folder", FROZEN, ids=lambda path: path.name)
def test_a_checkpoint_of_each_release_still_gives_its_outputs(folder: Path) -> None:
    model = PromptableModel.from_pretrained(folder)
    wanted = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
    found = freezer().outputs(model)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, abs=2e-3), name


def test_weights_and_settings_survive_a_folder(model: PromptableModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "weights", extra={"step": 7})
    back, digest = load_pretrained(folder)
    assert back.config == model.config
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
    assert json.loads((folder / "config.json").read_text())["step"] == 7
    assert "Nothing was measured." in (folder / "README.md").read_text()
    again = save_pretrained(back, tmp_path / "again", extra={"step": 7})
    assert load_pretrained(again)[1] == digest
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1  # as readable as any other file


def test_a_card_that_is_there_is_kept(model: PromptableModel, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"depth": 2.5}, "depth=2.5: expected an integer"),
        ({"width": 3}, "unknown field.* width in ModelConfig; correct or remove them, or update promptseg"),
        ({"name": 7}, "name=7: expected a string"),
        ({"text_terms": [{"surprise": 1}]}, "text_terms"),
        ({"atlases": 5}, "atlases=5"),
        ({"preprocessing": [1]}, "preprocessing"),
        ({"mlp_ratio": None}, "mlp_ratio=None"),
        ({"embed_dim": 0}, "embed_dim=0: expected 1 or more"),
        ({"num_heads": 0}, "num_heads=0: expected 1 or more"),
        ({"num_levels": -3}, "num_levels=-3: expected 1 or more"),
    ],
)
def test_a_configuration_of_other_types_is_named(
    model: PromptableModel, tmp_path: Path, values: dict[str, object], named: str
) -> None:
    folder = save_pretrained(model, tmp_path / "weights")
    content = json.loads((folder / "config.json").read_text())
    content["model"].update(values)
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"config\.json: .*{named}"):
        load_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"model": 3}', '{"text_terms": [1]}', '{"text_terms": 5}'])
def test_words_of_a_broken_configuration_are_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not a configuration of weights"):
        trained_names(str(tmp_path))


def test_renamed_keys_are_migrated(model: PromptableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_pretrained(model, tmp_path / "old")
    old = {k.replace("mask_decoder.", "decoder."): v for k, v in load_file(folder / "model.safetensors").items()}
    old["decoder.gone"] = torch.zeros(1)
    save_file(old, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": model.config.to_dict()}))
    with pytest.raises(ValueError, match=r"missing .*mask_decoder.*\n.*unexpected .*decoder"):
        PromptableModel.from_pretrained(folder)
    migration = KeyMigration("9.9.9", renames=((r"^decoder\.", "mask_decoder."),), removed=(r"^decoder\.gone$",))
    monkeypatch.setattr(module, "MODEL_MIGRATIONS", (migration,))
    back = PromptableModel.from_pretrained(folder)
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())


def test_shapes_that_do_not_fit_are_listed_by_key(model: PromptableModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "weights")
    values = json.loads((folder / "config.json").read_text())
    values["model"]["decoder_channels"] = [16, 8, 8]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"shape \(\d+\): .*mask_decoder.ups.0.weight is \(8, 8, 2, 2, 2\), expected"):
        PromptableModel.from_pretrained(folder)


def test_weights_of_another_configuration_are_refused(model: PromptableModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "weights")
    tensors = load_file(folder / "model.safetensors")
    tensors["mask_decoder.prompt_prior"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"checksum .* is not the one in config.json.*fetch or save both again"):
        PromptableModel.from_pretrained(folder)


@pytest.mark.parametrize("text", ["[1]", '{"model": 3}', "{", '{"model": {"unknown_field": 1}}'])
def test_a_broken_configuration_is_one_error(model: PromptableModel, tmp_path: Path, text: str) -> None:
    folder = save_pretrained(model, tmp_path / "weights")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json"):
        PromptableModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="config.json"):
        Predictor.from_pretrained(folder)


def test_an_incomplete_folder_names_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model.safetensors"):
        resolve(tmp_path)
    with pytest.raises(ValueError, match=r"unknown checkpoint 'promptseg-tinny'.*no Hub id"):
        resolve("promptseg-tinny")


def test_a_folder_has_no_revisions(model: PromptableModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"revision='v1'.*is a folder"):
        Predictor.from_pretrained(folder, revision="v1")


def test_another_architecture_is_refused_with_the_cure(model: PromptableModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "weights")
    values = json.loads((folder / "config.json").read_text())
    values["model"]["architecture"] = "promptseg-9"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"promptseg-9.*install the release"):
        Predictor.from_pretrained(folder)
    assert ModelConfig.from_dict(CONFIG.to_dict()) == CONFIG
