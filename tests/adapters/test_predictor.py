"""Adapters in the predictor: switched between objects, embeddings kept apart, from a folder or the Hub."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.models import PromptableModel
from promptseg.models.pretrained import save_pretrained, sha256

from .conftest import random_adapter

POINT = [(12, 10, 8)]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 10, (24, 20, 16)).astype(np.float32)


@pytest.fixture
def predictor(model: PromptableModel, image: np.ndarray) -> Predictor:
    return Predictor(model, dtype=torch.float32).set_image(image, spacing=(1, 1, 1))


def probability(predictor: Predictor) -> np.ndarray:
    whole = ((0, 0, 0), (24, 20, 16))
    return predictor.predict(points=POINT).probability(whole)


def test_switching_off_gives_back_the_base_and_its_embeddings(predictor: Predictor, model: PromptableModel) -> None:
    before = probability(predictor)
    name = predictor.adapters.add(random_adapter(model, "lora"))
    predictor.set_adapter(name)
    tuned = predictor.predict(points=POINT)
    assert tuned.encoder_calls > 0
    assert not np.allclose(probability(predictor), before)
    predictor.set_adapter(None)
    again = predictor.predict(points=POINT)
    assert again.encoder_calls == 0
    assert np.array_equal(probability(predictor), before)
    predictor.set_adapter(name)
    assert predictor.predict(points=POINT).encoder_calls == 0


def test_embeddings_of_two_adapters_are_never_mixed(predictor: Predictor, model: PromptableModel) -> None:
    names = [predictor.adapters.add(random_adapter(model, "lora", seed)) for seed in (1, 2)]
    answers = []
    for name in names:
        predictor.clear()
        predictor.set_image(
            np.random.default_rng(0).normal(100, 10, (24, 20, 16)).astype(np.float32), spacing=(1, 1, 1)
        )
        predictor.set_adapter(name)
        answers.append(probability(predictor))
    assert not np.allclose(*answers)
    for name, wanted in zip(names * 2, answers * 2, strict=True):
        predictor.set_adapter(name)
        assert np.array_equal(probability(predictor), wanted)


def test_the_predictor_follows_adapters_that_are_taken_off_by_the_stack(
    predictor: Predictor, model: PromptableModel
) -> None:
    base = probability(predictor)
    name = predictor.adapters.add(random_adapter(model, "lora"))
    predictor.set_adapter(name)
    tuned = probability(predictor)
    predictor.cache.clear()
    predictor.adapters.remove(name)
    assert np.array_equal(probability(predictor), base)
    predictor.adapters.add(random_adapter(model, "lora"))
    predictor.adapters.activate(name)
    assert np.array_equal(probability(predictor), tuned)


def test_what_an_adapter_thinks_of_an_atlas_is_not_the_bases(predictor: Predictor, model: PromptableModel) -> None:
    def known() -> list[tuple[str, int]]:
        engine = predictor._require_engine()
        return [key for key in engine.registrations if key[0] == engine.weights]

    predictor._require_engine().registrations[("", 0)] = None
    name = predictor.adapters.add(random_adapter(model, "decoder"))
    predictor.set_adapter(name)
    assert not known()
    predictor.set_image(predictor.volume)
    assert predictor._require_engine().weights == predictor.adapters.signature != ""
    predictor._require_engine().registrations[(predictor.adapters.signature, 0)] = None
    predictor.set_adapter(None)
    assert not known()


def test_a_predictor_with_adapters_is_freed_at_once(model: PromptableModel, image: np.ndarray) -> None:
    predictor = Predictor(model, dtype=torch.float32).set_image(image, spacing=(1, 1, 1))
    predictor.set_adapter(predictor.adapters.add(random_adapter(model, "decoder")))
    cache = weakref.ref(predictor.cache)
    gc.disable()
    try:
        del predictor
        assert cache() is None
    finally:
        gc.enable()


def test_adapters_whose_paths_end_alike_are_stacked(model: PromptableModel, tmp_path: Path) -> None:
    folder, names = save_pretrained(model, tmp_path / "base"), []
    for seed, parent in enumerate(("first", "second")):
        names.append(random_adapter(model, seed=seed, base_digest="").save_pretrained(tmp_path / parent / "mine"))
    predictor = Predictor.from_pretrained(folder, adapter=names)
    assert list(predictor.adapters.strengths) == [str(name) for name in names]
    assert list(Predictor.from_pretrained(folder, adapter=[names[0], names[0]]).adapters.strengths) == [str(names[0])]


def test_a_decoder_adapter_reuses_the_embeddings_of_the_base(predictor: Predictor, model: PromptableModel) -> None:
    predictor.predict(points=POINT)
    predictor.set_adapter(predictor.adapters.add(random_adapter(model, "decoder")))
    assert predictor.predict(points=POINT).encoder_calls == 0


def test_the_disk_cache_keeps_adapters_apart(model: PromptableModel, image: np.ndarray, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "base")
    adapter = random_adapter(model, "lora", base_digest=sha256(folder / "model.safetensors"))
    adapter.save_pretrained(tmp_path / "mine")
    calls = []
    for chosen in (None, tmp_path / "mine", None, [tmp_path / "mine"]):
        predictor = Predictor.from_pretrained(
            folder, adapter=chosen, dtype=torch.float32, cache_dir=tmp_path / "embeddings"
        )
        assert list(predictor.adapters.strengths) == ([] if chosen is None else ["mine"])
        calls.append(predictor.set_image(image, spacing=(1, 1, 1)).predict(points=POINT).encoder_calls)
    assert calls[0] > 0
    assert calls[1] > 0
    assert calls[2:] == [0, 0]


def test_a_correction_does_not_go_on_from_another_adapters_object(predictor: Predictor, model: PromptableModel) -> None:
    predictor.predict(points=POINT)
    predictor.set_adapter(predictor.adapters.add(random_adapter(model, "lora")))
    more = [*POINT, (4, 4, 4)]
    went_on = predictor.predict(points=more, labels=[1, 0]).probability(((0, 0, 0), (24, 20, 16)))
    predictor.set_image(predictor.volume)
    afresh = predictor.predict(points=more, labels=[1, 0]).probability(((0, 0, 0), (24, 20, 16)))
    assert np.array_equal(went_on, afresh)


def test_an_adapter_may_be_put_on_before_the_image(model: PromptableModel, image: np.ndarray) -> None:
    predictor = Predictor(model, dtype=torch.float32)
    assert predictor.set_adapter(None) is predictor
    predictor.set_adapter({predictor.adapters.add(random_adapter(model, "salt")): 0.5}, merge=True)
    predictor.set_image(image, spacing=(1, 1, 1)).predict(points=POINT)
    with pytest.raises(ValueError, match="no adapter 'other'"):
        predictor.set_adapter("other")


def test_one_for_other_weights_is_refused_on_loading(model: PromptableModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "base")
    random_adapter(model, base_digest="0" * 64).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"made for weights 'random' with sha256 000000000000"):
        Predictor.from_pretrained(folder, adapter=tmp_path / "mine")


def test_in_bfloat16_off_is_still_the_base(model: PromptableModel) -> None:
    predictor = Predictor(model, dtype=torch.bfloat16)
    before = {k: v.clone() for k, v in predictor.model.state_dict().items()}
    for method in ("dora", "full"):
        name = predictor.adapters.add(random_adapter(PromptableModel(model.config), method))
        for merge in (False, True):
            predictor.set_adapter(name, merge=merge)
            predictor.set_adapter(None)
            assert all(torch.equal(v, predictor.model.state_dict()[k]) for k, v in before.items())
