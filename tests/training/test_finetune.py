"""Fine-tuning writes an adapter that has learned, leaves the base alone, and stops in time."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.adapters import Adapter
from promptseg.adapters.tokens import WORD_NOISE, LabelTokens
from promptseg.cli import main
from promptseg.models import PromptableModel
from promptseg.structures import known_words, text_tokens, understand
from promptseg.training.finetune import Finetuner, finetune, read_report
from promptseg.training.finetune_data import View, find_cases, load_case
from promptseg.training.finetune_episode import play_episode, validate_crops
from promptseg.training.finetune_views import ViewCache, hash_of

from .. import toy_text
from .finetune_runs import MODEL, draw_cases, options, save_base


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_cases(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "random")


def make_tuner(data: Path, **fields: object) -> Finetuner:
    torch.manual_seed(0)
    model = PromptableModel(MODEL).eval()
    config = options(data, Path("unused"), Path("adapter"), **fields)
    volumes = [load_case(c, MODEL.preprocessing) for c in find_cases(config.images, config.labels)]
    return Finetuner(config, model, ("random", "", ""), volumes[:3], volumes[3:], {1: "head", 2: "tail"})


def test_the_whole_way_from_two_folders_to_a_label_map(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", base, "--images", data / "images", "--labels", data / "labels", "-o", tmp_path / "mine"]
    words += ["--method", "salt", "--max-steps", "3", "--validate-every", "2", "--batch-size", "1", "--no-probe"]
    assert main(["finetune", *map(str, words), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "3 steps" in printed
    assert "3 cases, 1 held out" in printed
    for row in ("Dice after 1 click", "Dice after 3 clicks", "Dice without a prompt"):
        assert row in printed
    adapter = Adapter.from_pretrained(tmp_path / "mine")
    assert adapter.config.names == {1: "head", 2: "tail"}
    assert adapter.config.base == "random"
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "head, tail" in card
    assert not any(name in card for name in ("a.nii", str(data)))  # names of cases may name patients
    assert not any(f'"{name}"' in (tmp_path / "mine" / "adapter_config.json").read_text() for name in "abcd")
    out = tmp_path / "labels.nii.gz"
    image = data / "images" / "a.nii.gz"
    words = ["segment", image, "--model", base, "--adapter", tmp_path / "mine", "-o", out]
    assert main([*map(str, words), "--all", "--overlay", str(tmp_path / "labels.png")]) == 0
    printed = capsys.readouterr().out
    assert "of 2 labels found" in printed
    assert "head" in printed and "tail" in printed
    assert nib.load(out).shape == (24, 22, 20)  # type: ignore[attr-defined]
    assert (tmp_path / "labels.png").is_file()
    assert main([*map(str, words), "--point", "10,10,10"]) == 0
    capsys.readouterr()
    assert main([*map(str, words), "--all", "--point", "10,10,10"]) == 2
    assert "--all takes no prompts" in capsys.readouterr().err


def test_steps_change_the_adapter_and_nothing_else(data: Path) -> None:
    tuner = make_tuner(data, method="decoder")
    tuned = ("mask_decoder.", "word_head.")
    frozen = {n: p.clone() for n, p in tuner.model.named_parameters() if not n.startswith(tuned)}
    before = tuner.trainable.state()
    for _ in range(3):
        assert np.isfinite(tuner.train_step(0.1))
    after = tuner.trainable.state()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert "label_tokens" in changed
    assert len(changed) > 0.8 * len(before)
    parameters = dict(tuner.model.named_parameters())
    assert all(torch.equal(parameters[n], p) for n, p in frozen.items())


@pytest.mark.parametrize("method", ["lora", "dora", "salt"])
def test_every_kind_of_parameter_gets_a_gradient(data: Path, method: str) -> None:
    tuner = make_tuner(data, method=method, automatic_share=0.5)
    with torch.no_grad():
        for key, parameter in tuner.trainable.parameters().items():
            if key.endswith("lora_B"):
                parameter.normal_(0, 0.02)  # zero at the start, which hides A from the first step
    seen = dict.fromkeys(tuner.trainable.parameters(), 0.0)
    for step in range(4):
        tuner.step = step
        tuner.train_step(0.1)
        for key, parameter in tuner.trainable.parameters().items():
            seen[key] += 0.0 if parameter.grad is None else float(parameter.grad.abs().sum())
    without = {key for key, total in seen.items() if total == 0}
    # Masks that no episode asked for; and SALT's rest, which a layer of one output does not have.
    idle = ("mask_weights",) if method != "salt" else ("mask_weights", "iou_head.fc2.lora", "presence_head.fc2.lora")
    assert not {key for key in without if not any(part in key for part in idle)}, without


def test_it_learns_to_find_labels_without_a_prompt(data: Path) -> None:
    tuner = make_tuner(data, method="full", learning_rate=4e-3, augmentation=0.0, automatic_share=1.0)
    before = tuner.validate()
    for step in range(50):
        tuner.train_step(step / 50)
    after = tuner.validate()
    assert after["automatic"] > before["automatic"] + 0.2, (before, after)


@pytest.mark.parametrize("method", ["lora", "decoder"])
def test_the_word_head_learns_where_labels_lie_in_every_step(data: Path, method: str) -> None:
    tuner = make_tuner(data, method=method, automatic_share=0.0)
    tuner.train_step(0.1)
    parameters = tuner.trainable.parameters()
    heads = [p for n, p in parameters.items() if "word_head." in n and "lora_A" not in n]
    assert heads and all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads)
    assert parameters["label_tokens"].grad is not None  # though no episode of this step was without a prompt
    assert not any("word_head." in n for n in make_tuner(data, method=method, automatic=False).trainable.parameters())


def test_shares_are_those_of_every_label_in_the_order_of_the_tokens(data: Path) -> None:
    batch = make_tuner(data).draw_batch(0)
    assert batch.shares.shape == (2, 2, 4, 4, 4)
    for crop in range(2):
        (target,), number = batch.targets[crop], int(batch.numbers[crop, 0])
        coarse = torch.nn.functional.avg_pool3d(target[None].float(), 8)[0]
        assert torch.allclose(batch.shares[crop, number], coarse / coarse.max().clamp(min=1e-9))


def test_labels_start_from_their_words_where_the_model_knows_them() -> None:
    model = PromptableModel(toy_text.CONFIG)
    words = known_words(model, ["liver", "my own label"])
    tokens = LabelTokens(2, 3, model.config.embed_dim)
    before = tokens.weight[1].clone()
    tokens.start_from(words)
    expected = text_tokens(model, [understand(model.config, "liver")])[0, 0]
    assert (tokens.weight[0] - expected).abs().max() < 6 * WORD_NOISE
    assert torch.equal(tokens.weight[1], before)
    assert known_words(PromptableModel(MODEL), ["liver"]) == [None]


def test_the_best_state_is_exported_not_the_last(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make_tuner(data, max_steps=6, validate_every=2)
    scores = iter([0.1, 0.5, 0.2, 0.3])
    states = []

    def validate() -> dict[str, float]:
        states.append(tuner.trainable.state())
        return {"score": next(scores)}

    monkeypatch.setattr(tuner, "validate", validate)
    adapter = tuner.fit()
    assert [row["score"] for row in tuner.history] == [0.1, 0.5, 0.2, 0.3]
    assert torch.equal(adapter.tensors["label_tokens"], states[1]["label_tokens"].half())
    assert not torch.equal(states[1]["label_tokens"], states[3]["label_tokens"])


def test_it_stops_when_nothing_is_gained(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make_tuner(data, max_steps=50, validate_every=1, patience=2)
    monkeypatch.setattr(tuner, "validate", lambda: {"score": 0.5})
    tuner.fit()
    assert tuner.step == 2


def test_the_budget_of_time_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make_tuner(data, max_steps=10_000, minutes=0.02, validate_every=10_000)
    monkeypatch.setattr(tuner, "validate", lambda: {"score": 0.5})
    seen: list[float] = []

    def slow(spent: float) -> float:
        time.sleep(0.05)
        tuner.step += 1
        return 1.0

    monkeypatch.setattr(tuner, "train_step", slow)
    started = time.monotonic()
    tuner.fit(lambda spent, line: seen.append(spent))
    assert time.monotonic() - started < 5
    assert 2 < tuner.step < 40
    assert seen == sorted(seen)
    assert tuner.history[-1]["step"] == tuner.step  # the last state was looked at, too


def test_a_frozen_encoder_encodes_each_crop_once(data: Path) -> None:
    tuner = make_tuner(data, method="decoder")
    assert tuner.trainable.encoder_is_frozen
    first = tuner.draw_batch(0)
    count = tuner.views.num_encoded
    again = tuner.draw_batch(0)
    assert tuner.views.num_encoded == count
    assert torch.equal(first.embedding.tokens, again.embedding.tokens)
    assert torch.equal(first.targets, again.targets)
    lora = make_tuner(data, method="lora")
    assert not lora.trainable.encoder_is_frozen
    assert make_tuner(data, method="lora", scope="decoder").trainable.encoder_is_frozen


def test_frozen_convolutions_run_once_and_the_transformer_learns(data: Path) -> None:
    tuner = make_tuner(data, method="lora", convolutions=False)
    assert tuner.keeps_embeddings
    batch = tuner.draw_batch(0)
    embedding, targets = batch.embedding, batch.targets
    count = tuner.views.num_encoded
    views = [view for view, _ in tuner.views._embeddings.values()]
    whole = {id(v): tuner.model.encode_image(v.image[None], v.spacing_mm[None]).tokens for v in views}
    assert any(torch.allclose(embedding.tokens[:1], tokens, atol=1e-5) for tokens in whole.values())
    assert embedding.tokens.requires_grad
    assert not embedding.skips[0].requires_grad
    assert torch.equal(tuner.draw_batch(0).targets, targets)
    assert tuner.views.num_encoded == count
    assert not make_tuner(data, method="full").keeps_embeddings
    assert not make_tuner(data, method="lora").keeps_embeddings


def test_low_rank_methods_tune_the_convolutions_that_draw_the_border(data: Path) -> None:
    keys = set(make_tuner(data, method="lora").trainable.parameters())
    assert {"change.mask_decoder.up_blocks.0.conv1.weight", "change.mask_decoder.mask_features.weight"} <= keys
    assert {"change.image_encoder.stem.weight", "change.image_encoder.stages.0.0.conv1.weight"} <= keys
    assert not any(
        "image_encoder" in k for k in make_tuner(data, method="lora", scope="decoder").trainable.parameters()
    )
    assert not any("conv" in k for k in make_tuner(data, method="lora", convolutions=False).trainable.parameters())
    assert not any("mask_decoder" in k for k in make_tuner(data, method="lora", scope="encoder").trainable.parameters())


@pytest.mark.parametrize("method", ["full", "decoder"])
def test_embeddings_are_rows_and_no_matrices_for_muon(data: Path, method: str) -> None:
    tuner = make_tuner(data, method=method)
    names = {id(p): name for name, p in tuner.trainable.parameters().items()}
    muon, adamw = ({names[id(p)] for g in groups for p in g["params"]} for groups in tuner._groups())
    assert muon | adamw == set(names.values()) and "change.mask_decoder.output_tokens.weight" in adamw - muon
    assert any(name.endswith("downs.0.weight") for name in muon)


def test_validations_take_a_small_part_of_the_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make_tuner(data, max_steps=40, validate_every=1)
    clock = {"now": 0.0, "validating": 0.0}
    monkeypatch.setattr("promptseg.training.finetune_loop.time.monotonic", lambda: clock["now"])

    def validate() -> dict[str, float]:
        clock["now"] += 3.0
        clock["validating"] += 3.0
        return {"score": len(tuner.history) / 100}

    def train_step(progress: float) -> float:
        clock["now"] += 1.0
        tuner.step += 1
        return 1.0

    monkeypatch.setattr(tuner, "validate", validate)
    monkeypatch.setattr(tuner, "train_step", train_step)
    tuner.fit()
    assert tuner.step == 40
    assert clock["validating"] <= 12  # before, twice on the way, and at the end; not 40 times


def test_kept_embeddings_are_bounded() -> None:
    model = PromptableModel(MODEL).eval()
    cache = ViewCache(model.encode_image, 1)
    views = {}
    for number in range(3):
        image = torch.full((1, 32, 32, 32), float(number))
        views[number] = cache.view(number, lambda i=image: View(i, torch.zeros(32, 32, 32), torch.ones(3)))
        cache.embed(views[number], model.device)
    assert cache.num_encoded == 3
    assert len(cache._embeddings) == 1
    assert list(cache._views) == [2]
    assert hash_of(("a", 1)) == hash_of(("a", 1)) != hash_of(("a", 2))


def test_batches_are_a_function_of_seed_and_step(data: Path) -> None:
    first, second = make_tuner(data), make_tuner(data)
    for step in (0, 5):
        a, b = first.draw_batch(step), second.draw_batch(step)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.numbers, b.numbers)
        assert torch.equal(a.shares, b.shares)
    assert [first.is_automatic(s) for s in range(20)] == [second.is_automatic(s) for s in range(20)]
    assert 3 < sum(first.is_automatic(s) for s in range(20)) < 17


def test_episodes_differ_in_what_the_model_is_told(data: Path) -> None:
    tuner = make_tuner(data)
    batch = tuner.draw_batch(0)
    embedding, targets, numbers = batch.embedding, batch.targets, batch.numbers
    tokens = tuner.trainable.tokens
    assert tokens is not None
    losses = []
    for shift in (0.0, 5.0):
        generator = torch.Generator().manual_seed(1)
        given = tokens(numbers) + shift
        loss, scores = play_episode(tuner.model, embedding, targets, given, generator, tuner.prompts)
        losses.append(float(loss.detach()))
        assert all(0 <= s <= 1 for s in scores)
    assert losses[0] != losses[1]
    generator = torch.Generator().manual_seed(1)
    loss, _ = play_episode(tuner.model, embedding, targets, None, generator, tuner.prompts)
    (gradient,) = torch.autograd.grad(loss, [tokens.weight], allow_unused=True)
    assert gradient is None  # prompts of a user go without the label's tokens, as at inference
    found = validate_crops(tuner.model, tuner.validation_views, tuner.values, None, 2)
    assert set(found) == {"click"}


def test_the_report_goes_through_the_predictor_and_keeps_the_base(data: Path, base: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in base.iterdir()}
    folder = finetune(options(data, base, tmp_path / "mine", report_cases=1))
    report = read_report(folder)
    assert [row["what"] for row in report["measured"]] == [
        "Dice after 1 click",
        "Dice after 3 clicks",
        "Dice without a prompt",
    ]
    assert report["measured"][2]["base"] == "-"
    assert {p.name: p.read_bytes() for p in base.iterdir()} == before
    predictor = Predictor.from_pretrained(base, adapter=folder, dtype=torch.float32)
    assert predictor.adapters.labels
    assert len(report["training_cases"]) == 3


def test_what_cannot_be_tuned_is_one_error(data: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder"):
        finetune(options(data, base, tmp_path / "file"))
    with pytest.raises(ValueError, match="no such folder"):
        finetune(options(data / "nowhere", base, tmp_path / "out"))
    with pytest.raises(ValueError, match="unknown checkpoint"):
        finetune(options(data, Path("no-such-weights"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()
