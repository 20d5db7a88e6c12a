"""Weights travel to the Hub and back unchanged, or an error says what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from promptseg import Predictor
from promptseg.cards import CardFacts, Measurement, TrainingData
from promptseg.hub import damage, is_repo_id
from promptseg.models import PromptableModel

from .conftest import FakeHub

REPO = "someone/promptseg-test"


def same_weights(first: PromptableModel, second: PromptableModel) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_pushed_weights_come_back_bit_equal_with_their_card(
    hub: FakeHub, model: PromptableModel, tmp_path: Path
) -> None:
    facts = CardFacts(
        "For tests.",
        "CC-BY-4.0",
        (TrainingData("noise", "CC0", 3),),
        (Measurement("Dice, 2 cases", "0.5", "`pytest`"),),
    )
    commit = model.push_to_hub(REPO, card=facts, vocabulary=("liver",))
    files = hub.repositories[REPO].commits[commit]
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    card = files["README.md"].decode()
    for wanted in ("license: cc-by-4.0", "| noise | 3 | CC0 |  |", "| Dice, 2 cases | 0.5 | `pytest` |", "random"):
        assert wanted in card
    assert b'"vocabulary"' in files["config.json"]
    assert b'"equalization"' in files["config.json"]
    back = PromptableModel.from_pretrained(REPO, cache_dir=tmp_path / "cache")
    assert same_weights(model, back)
    assert not back.training
    predictor = Predictor.from_pretrained(REPO, weights_cache_dir=tmp_path / "cache", dtype=torch.float32)
    assert same_weights(model, predictor.model)


def test_a_revision_pins_the_weights(hub: FakeHub, model: PromptableModel) -> None:
    first = model.push_to_hub(REPO)
    hub.repositories[REPO].refs["v1"] = first
    original = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model.mask_decoder.prompt_prior.add_(1)
    second = model.push_to_hub(REPO)
    assert first != second
    for name in (first, "v1"):
        old = PromptableModel.from_pretrained(REPO, revision=name)
        assert torch.equal(old.mask_decoder.prompt_prior, original["mask_decoder.prompt_prior"])
    assert same_weights(PromptableModel.from_pretrained(REPO), model)
    with pytest.raises(ValueError, match=r"no such revision"):
        PromptableModel.from_pretrained(REPO, revision="v9")


def test_an_interrupted_transfer_goes_on_where_it_stopped(
    hub: FakeHub, model: PromptableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what the client keeps of a transfer is whole chunks
    model.push_to_hub(REPO)
    hub.drop_after = 5000
    assert same_weights(PromptableModel.from_pretrained(REPO), model)
    assert hub.ranges == ["bytes=5000-"]


def test_a_checksum_mismatch_is_refused_and_nothing_stays(hub: FakeHub, model: PromptableModel, tmp_path: Path) -> None:
    model.push_to_hub(REPO)
    hub.corrupts = True
    with pytest.raises(
        ValueError, match=r"checksum.*Hub states.*fetch it again with `hf download someone/promptseg-test"
    ):
        PromptableModel.from_pretrained(REPO, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.corrupts = False
    assert same_weights(PromptableModel.from_pretrained(REPO, cache_dir=tmp_path / "cache"), model)


def test_a_file_that_rots_in_the_cache_is_found(hub: FakeHub, model: PromptableModel) -> None:
    model.push_to_hub(REPO)
    PromptableModel.from_pretrained(REPO)
    blob = max(Path(hub_cache()).rglob("blobs/*"), key=lambda p: p.stat().st_size)
    assert damage(blob) is None
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match="checksum"):
        PromptableModel.from_pretrained(REPO, local_files_only=True)
    assert same_weights(PromptableModel.from_pretrained(REPO), model)


def hub_cache() -> str:
    import huggingface_hub.constants as constants

    return constants.HF_HUB_CACHE


def test_local_files_only_asks_nobody(hub: FakeHub, model: PromptableModel) -> None:
    model.push_to_hub(REPO)
    wanted = rf"not on this machine and local_files_only is set; .*`hf download {REPO} config.json model.safetensors`"
    with pytest.raises(ValueError, match=wanted):
        PromptableModel.from_pretrained(REPO, local_files_only=True)
    assert hub.downloads == []
    PromptableModel.from_pretrained(REPO)
    hub.downloads.clear()
    assert same_weights(PromptableModel.from_pretrained(REPO, local_files_only=True), model)
    assert hub.downloads == []


def test_what_was_fetched_is_found_without_a_connection(
    hub: FakeHub, model: PromptableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    model.push_to_hub(REPO)
    PromptableModel.from_pretrained(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(PromptableModel.from_pretrained(REPO), model)
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE.*`hf download someone/other"):
        PromptableModel.from_pretrained("someone/other")


def test_an_unreachable_hub_is_one_clear_error(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, model: PromptableModel
) -> None:
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"cannot be reached.*`hf download someone/promptseg-test config.json"):
            PromptableModel.from_pretrained(REPO)


def test_a_private_repository_needs_the_token(hub: FakeHub, model: PromptableModel) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ValueError, match="hf auth login"):
        model.push_to_hub(REPO)
    model.push_to_hub(REPO, token="hf_secret", private=True)
    with pytest.raises(ValueError, match="no such repository, or a private one") as error:
        PromptableModel.from_pretrained(REPO, token=False)
    assert "hf_secret" not in str(error.value)
    assert same_weights(PromptableModel.from_pretrained(REPO, token="hf_secret"), model)


def test_a_repository_without_safetensors_is_refused(hub: FakeHub, model: PromptableModel) -> None:
    from .conftest import Repository

    hub.repositories[REPO] = Repository()
    hub.repositories[REPO].commit({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(ValueError, match=r"no model.safetensors.*only safetensors"):
        PromptableModel.from_pretrained(REPO)
    assert "pytorch_model.bin" not in hub.downloads


def test_pushing_needs_a_valid_name(model: PromptableModel) -> None:
    with pytest.raises(ValueError, match="expected owner/name"):
        model.push_to_hub("no-owner")


@pytest.mark.parametrize("name", ["promptseg-tiny", "../a/b", "a/../b", "/abs/path", "a/b/c", "a/", "./a", "a/.."])
def test_these_are_not_hub_ids(name: str) -> None:
    assert not is_repo_id(name)
