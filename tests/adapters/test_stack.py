"""Adapters change a model when they are on, as they were trained, and leave no trace when they are off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.adapters import Adapter, AdapterConfig, AdapterLabel, AdapterStack
from promptseg.adapters import stack as module
from promptseg.adapters.config import METHODS
from promptseg.adapters.targets import expected_tensors
from promptseg.adapters.trainable import TrainableAdapter
from promptseg.models import PromptableModel
from promptseg.models.pretrained import read_config
from promptseg.models.registry import resolve

from .conftest import CONFIG, LABELS, difference, random_adapter, run

TOLERANCE = 1e-5


def state_of(model: PromptableModel) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def is_bit_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())


@pytest.mark.parametrize("merge", [False, True], ids=["beside", "merged"])
@pytest.mark.parametrize("method", METHODS)
def test_off_is_the_base_bit_by_bit(model: PromptableModel, method: str, merge: bool) -> None:
    before, wanted = state_of(model), run(model)
    stack = AdapterStack(model)
    name = stack.add(random_adapter(model, method))
    stack.activate(name, merge=merge)
    assert difference(run(model), wanted) > 1e-3
    stack.activate(None)
    assert is_bit_equal(state_of(model), before)
    assert difference(run(model), wanted) == 0


@pytest.mark.parametrize("method", METHODS)
def test_merged_equals_unmerged(model: PromptableModel, method: str) -> None:
    stack = AdapterStack(model)
    name = stack.add(random_adapter(model, method))
    stack.activate(name)
    beside = run(model)
    stack.activate(name, merge=True)
    assert difference(run(model), beside) < TOLERANCE * max(1.0, float(beside.mask_logits.abs().max()))
    assert set(model.state_dict()) == set(PromptableModel(CONFIG).state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_what_was_trained_is_what_is_used(model: PromptableModel, method: str) -> None:
    """In particular peft's own layers and ours agree; the values here are such that half precision holds them."""
    torch.manual_seed(5)
    config = AdapterConfig(method=method, rank=3, alpha=6.0, tile_size=32, tunes_pyramid=True, holds_changes=True)
    trainable = TrainableAdapter(model, config)
    with torch.no_grad():
        for key, parameter in trainable.parameters().items():
            moved = parameter + (0.1 * torch.randn_like(parameter)).half()
            parameter.copy_(moved if key.startswith("change.") else moved.half())
    trained = run(model)
    adapter = trainable.export("a")
    trainable.remove()
    stack = AdapterStack(model)
    stack.add(adapter)
    stack.activate("a")
    assert difference(run(model), trained) < TOLERANCE * max(1.0, float(trained.mask_logits.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_an_untrained_adapter_changes_nothing(model: PromptableModel, method: str) -> None:
    wanted, before = run(model), state_of(model)
    trainable = TrainableAdapter(model, AdapterConfig(method=method, rank=3, tile_size=32))
    assert difference(run(model), wanted) < 1e-5
    trainable.remove()
    assert is_bit_equal(state_of(model), before)
    assert all(p.requires_grad for p in model.parameters())


@settings(max_examples=6)
@given(first=st.sampled_from(METHODS), second=st.sampled_from(METHODS), a=st.floats(-1, 1.5), b=st.floats(-1, 1.5))
def test_a_stack_is_the_base_plus_the_weighted_changes(first: str, second: str, a: float, b: float) -> None:
    torch.manual_seed(0)
    model = PromptableModel(CONFIG).eval()
    base = state_of(model)
    stack = AdapterStack(model)
    names = [stack.add(random_adapter(model, first, 1)), stack.add(random_adapter(model, second, 2))]
    changed = []
    for name in names:
        stack.activate(name, merge=True)
        changed.append(state_of(model))
    stack.activate({names[0]: a, names[1]: b}, merge=True)
    for key, value in state_of(model).items():
        wanted = base[key] + a * (changed[0][key] - base[key]) + b * (changed[1][key] - base[key])
        assert torch.allclose(value, wanted, atol=1e-4), key
    merged = run(model)
    stack.activate({names[0]: a, names[1]: b})
    assert difference(run(model), merged) < 1e-4 * max(1.0, float(merged.mask_logits.abs().max()))
    stack.activate(None)
    assert is_bit_equal(state_of(model), base)


def test_strength_zero_is_the_base(model: PromptableModel) -> None:
    wanted = run(model)
    stack = AdapterStack(model)
    name = stack.add(random_adapter(model, "dora"))
    stack.activate({name: 0.0})
    assert difference(run(model), wanted) == 0
    assert stack.signature == stack.encoder_signature == ""
    assert stack.labels == {}


def test_switching_back_and_forth_gives_the_same_each_time(model: PromptableModel) -> None:
    stack = AdapterStack(model)
    names = [stack.add(random_adapter(model, method)) for method in METHODS]
    first = {}
    for name in names:
        stack.activate(name)
        first[name] = run(model)
    for merge in (False, True):
        for name in reversed(names):
            stack.activate(name, merge=merge)
            assert difference(run(model), first[name]) < 1e-4
    signatures = set()
    for name in names:
        stack.activate(name)
        signatures.add(stack.signature)
    assert len(signatures) == len(names)


def test_another_one_is_added_while_one_is_on(model: PromptableModel) -> None:
    stack = AdapterStack(model)
    name = stack.add(random_adapter(model, "lora"))
    stack.activate({name: 0.5})
    wanted = run(model)
    other = stack.add(random_adapter(PromptableModel(CONFIG), "full", 2))
    assert stack.strengths == {name: 0.5}
    assert difference(run(model), wanted) == 0
    stack.remove(name)
    assert stack.strengths == {}
    with pytest.raises(ValueError, match=rf"no adapter '{name}'; loaded are {other}"):
        stack.activate(name)


def test_adding_another_one_leaves_those_that_are_merged_merged(model: PromptableModel) -> None:
    stack, changes = AdapterStack(model, on_change=lambda: changes.append(stack.signature)), []
    name = stack.add(random_adapter(model, "lora"))
    stack.activate(name, merge=True)
    wanted, signature = run(model), stack.signature
    stack.add(random_adapter(PromptableModel(CONFIG), "dora", 2), "other")
    assert stack.is_merged and stack.signature == signature
    assert difference(run(model), wanted) == 0
    assert changes == [signature]  # nothing changed for those who use the model


@pytest.mark.parametrize("merge", [False, True])
def test_what_is_interrupted_leaves_the_base(
    model: PromptableModel, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    before, wanted, stack, told = state_of(model), run(model), AdapterStack(model), []
    name = stack.add(random_adapter(model, "lora"))
    stack._on_change = lambda: told.append(dict(stack.strengths))
    with monkeypatch.context() as patched:
        made = iter([module.make_delta] * 3)
        patched.setattr(module, "make_delta", lambda *given: next(made, interrupted)(*given))
        with pytest.raises(KeyboardInterrupt):
            stack.activate(name, merge=merge)
    assert stack.strengths == {} and told == [{}]
    assert is_bit_equal(state_of(model), before) and difference(run(model), wanted) == 0
    stack.activate(name, merge=merge)
    assert difference(run(model), wanted) > 1e-3


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_encoder_counts_only_where_it_is_changed(model: PromptableModel) -> None:
    assert random_adapter(model, "decoder").encoder_digest == ""
    assert random_adapter(model, "lora", scope="decoder").encoder_digest == ""
    first, second = random_adapter(model, "lora", 1), random_adapter(model, "lora", 2)
    assert first.encoder_digest != second.encoder_digest != ""


@pytest.mark.parametrize("method", ["lora", "dora", "salt", "decoder"])
def test_the_word_head_is_a_part_of_an_adapter_that_tunes_it(method: str, tmp_path: Path) -> None:
    model = PromptableModel(dataclasses.replace(CONFIG, word_hints=True)).eval()
    adapter = random_adapter(model, method, tunes_words=True)
    assert any("word_head." in key for key in adapter.tensors)
    assert not any("word_head.mix" in key for key in adapter.tensors) or method == "decoder"
    assert not any("word_head." in key for key in random_adapter(model, method).tensors)
    words, present = torch.randn(1, 2, 1, CONFIG.embed_dim), torch.ones(1, 2, 1, dtype=torch.bool)

    @torch.no_grad()
    def look() -> torch.Tensor:
        assert model.word_head is not None
        embedding = model.encode_image(torch.zeros(1, 1, 32, 32, 32), torch.ones(1, 3))
        return model.word_head(embedding, words, present).mask_logits

    before, stack = look(), AdapterStack(model)
    name = stack.add(Adapter.from_pretrained(adapter.save_pretrained(tmp_path / "mine")))
    stack.activate(name)
    unmerged = look()
    assert (unmerged - before).abs().max() > 1e-2
    stack.activate(name, merge=True)
    assert (look() - unmerged).abs().max() <= 1e-5 * max(1.0, float(unmerged.abs().max()))
    stack.activate(None)
    assert torch.equal(look(), before)


def test_an_adapter_is_small(model: PromptableModel) -> None:
    weights = sum(p.numel() * 4 for p in model.parameters())
    small = random_adapter(model, "lora", rank=1, tokens_per_label=1).num_bytes
    assert small < 0.2 * weights < random_adapter(model, "full").num_bytes


@pytest.mark.parametrize(("method", "megabytes"), [("lora", 5.0), ("dora", 5.0), ("salt", 5.5)])
def test_an_adapter_of_the_weights_that_ship_is_a_few_megabytes(method: str, megabytes: float) -> None:
    tiny = PromptableModel(read_config(resolve("promptseg-tiny")))
    config = AdapterConfig(
        method=method,
        labels=LABELS,
        tokens_per_label=4,
        tunes_convolutions=True,
        tunes_pyramid=True,
        tunes_words=True,
        holds_changes=True,
    )
    assert 1e6 < TrainableAdapter(tiny, config).export().num_bytes < megabytes * 1e6


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_gives_it_back(model: PromptableModel, method: str, tmp_path: Path) -> None:
    adapter = random_adapter(model, method)
    folder = adapter.save_pretrained(tmp_path / "mine")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter.safetensors", "adapter_config.json"]
    back = Adapter.from_pretrained(folder)
    assert back.config == adapter.config
    assert back.config.names == {1: "head", 2: "tail"}
    assert back.digest == adapter.digest
    assert back.name == "mine"
    assert "base_model: random" in (folder / "README.md").read_text()


def test_the_working_directory_has_its_name(
    model: PromptableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(random_adapter(model).save_pretrained(tmp_path / "mine"))
    assert Adapter.from_pretrained(".").name == "mine"


def test_weights_are_saved_without_adapters_or_with_them_merged(model: PromptableModel, tmp_path: Path) -> None:
    stack = AdapterStack(model)
    stack.activate(stack.add(random_adapter(model, "lora")))
    wanted = run(model)
    with pytest.raises(ValueError, match=r"adapters are on: take them off first.*merge=True"):
        model.save_pretrained(tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    stack.activate(list(stack.strengths), merge=True)
    back = PromptableModel.from_pretrained(model.save_pretrained(tmp_path / "weights"))
    assert difference(run(back), wanted) < TOLERANCE * max(1.0, float(wanted.mask_logits.abs().max()))


def test_one_for_other_weights_is_refused(model: PromptableModel) -> None:
    adapter = random_adapter(model, base_digest="a" * 64)
    AdapterStack(model, "a" * 64).add(adapter)
    AdapterStack(model).add(adapter)
    with pytest.raises(ValueError, match=r"sha256 aaaaaaaaaaaa.*these.*bbbbbbbbbbbb"):
        AdapterStack(model, "b" * 64).add(adapter)


def test_one_of_other_sizes_is_refused_by_key(model: PromptableModel) -> None:
    adapter = random_adapter(model)
    key = "delta.image_encoder.blocks.0.attention.query.lora_A"
    wrong = Adapter(adapter.config, {**adapter.tensors, key: torch.zeros(3, 7), "extra": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=rf"unexpected \(1\): extra\n  shape \(1\): {key} is \(3, 7\), expected \(3, 24\)"
    ):
        AdapterStack(model).add(wrong)


def test_other_preprocessing_is_refused(model: PromptableModel) -> None:
    adapter = random_adapter(model, preprocessing={"equalization": 0.1})
    with pytest.raises(ValueError, match=r"equalization=0.1.*equalization=0.6"):
        AdapterStack(model).add(adapter)


def test_a_label_value_has_one_name(model: PromptableModel) -> None:
    stack = AdapterStack(model)
    stack.add(random_adapter(model, "lora", 1), "a")
    stack.add(random_adapter(model, "lora", 2, labels=(AdapterLabel(2, "fin", 3.0), AdapterLabel(5, "eye", 3.0))), "b")
    stack.activate("a")
    with pytest.raises(ValueError, match="label value 2 is 'tail' in one adapter and 'fin' in another"):
        stack.activate(["a", "b"])
    assert stack.strengths == {"a": 1.0}
    assert [label.name for label in stack.labels] == ["head", "tail"]
    with pytest.raises(ValueError, match="adapters are on"):
        random_adapter(model)
    other = PromptableModel(CONFIG)
    stack.add(random_adapter(other, "lora", 3, labels=(*LABELS, AdapterLabel(7, "eye", 3.0))), "c")
    stack.activate(["a", "c"])
    assert [label.value for label in stack.labels] == [1, 2, 7]


@pytest.mark.parametrize(
    "text",
    ['{"method": "lora", "surprise": 1}', '{"method": "magic"}', "[]", '{"labels": [{}]}', '{"labels": ["liver"]}',
     '{"rank": 2.5}', '{"alpha": NaN}', '{"tokens_per_label": -1}', '{"preprocessing": 3}', '{"tunes_norms": "no"}'],
)  # fmt: skip
def test_a_broken_configuration_is_one_error(model: PromptableModel, tmp_path: Path, text: str) -> None:
    folder = random_adapter(model).save_pretrained(tmp_path / "mine")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError):
        Adapter.from_pretrained(folder)


def test_a_damaged_file_is_refused(model: PromptableModel, tmp_path: Path) -> None:
    folder = random_adapter(model).save_pretrained(tmp_path / "mine")
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="checksum"):
        Adapter.from_pretrained(folder)
    path.unlink()
    with pytest.raises(ValueError, match="has no adapter.safetensors"):
        Adapter.from_pretrained(folder)
    with pytest.raises(ValueError, match="no adapter 'nowhere'"):
        Adapter.from_pretrained("nowhere")


def test_an_adapter_that_holds_values_still_gives_them(model: PromptableModel) -> None:
    config = AdapterConfig(method="decoder", tile_size=32)
    values = {k: torch.randn(t.shape) for k, t in expected_tensors(model, config).items()}
    assert all(key.startswith("value.") for key in values)
    stack = AdapterStack(model)
    stack.activate(stack.add(Adapter(config, values)))
    parameters = dict(model.named_parameters())
    assert all(torch.allclose(parameters[k.removeprefix("value.")], v, atol=1e-5) for k, v in values.items())
