"""Labels without a prompt: where a model that knows them puts them, on the image's own grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg import search as module
from promptseg.adapters import AdapterLabel
from promptseg.adapters.automatic import predict_labels
from promptseg.models import DecoderOutput, ImageEmbedding, PromptableModel, PromptBatch

from .conftest import random_adapter

HEAD, TAIL, GONE = AdapterLabel(1, "head", 10.0), AdapterLabel(300, "tail", 40.0), AdapterLabel(4, "gone", 10.0)
SHAPE, SPACING = (40, 70, 30), (1.0, 1.0, 2.0)


def wanted() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint16)
    labels[5:14, 50:58, 8:12] = 1
    labels[18:36, 4:40, 10:24] = 300
    return labels


@pytest.fixture
def predictor(model: PromptableModel) -> Predictor:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])  # LPS: the canonical volume is flipped
    affine[:3, 3] = [30, 40, -20]
    image = 100.0 * (wanted() == 1) + 200.0 * (wanted() == 300)
    return Predictor(model, dtype=torch.float32).set_image(image.astype(np.float32), affine=affine)


def oracle(
    model: PromptableModel, embedding: ImageEmbedding, prompts: PromptBatch, tokens: torch.Tensor, **_: Any
) -> DecoderOutput:
    """A model that knows each label by its intensity; a token's first number is the label's number."""
    image = embedding.image[:, 0]
    levels = image.amax() if image.numel() else image
    answers = []
    for token in tokens:
        number = int(token[0, 0])
        if number == 2:
            answers.append(torch.full_like(image, -5.0))
        else:
            low, high = [(-0.5, 0.6), (0.6, 2.0)][number]
            answers.append(((image > low) & (image < high)).float() * 10 - 5)
    logits = torch.stack(answers, dim=1)[:, :, None]
    presence = torch.tensor([-5.0 if int(t[0, 0]) == 2 else 5.0 for t in tokens]).expand(len(image), -1)
    del levels, prompts, model
    return DecoderOutput(logits, torch.zeros(*logits.shape[:3]), presence)


def tokens_of(number: int) -> torch.Tensor:
    return torch.full((2, 24), float(number))


LABELS = {HEAD: tokens_of(0), TAIL: tokens_of(1), GONE: tokens_of(2)}


def test_labels_are_drawn_where_they_are(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "decode_with_tokens", oracle)
    result = predict_labels(predictor._require_engine(), LABELS)
    assert result.labels.shape == SHAPE
    assert result.labels.dtype == np.uint16
    for value in (1, 300):
        found, truth = result.labels == value, wanted() == value
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75, value
    assert not (result.labels == 4).any()
    assert result.names == {1: "head", 300: "tail", 4: "gone"}
    assert result.presence[4] < 0.1 < 0.9 < result.presence[1]
    assert result.volumes_ml()[4] == 0
    assert result.volumes_ml()[300] == pytest.approx((wanted() == 300).sum() * 0.002, rel=0.3)
    path = result.save(tmp_path / "labels.nii.gz")
    loaded: Any = nib.load(path)
    assert np.array_equal(loaded.affine, predictor.volume.affine)
    assert np.array_equal(np.asanyarray(loaded.dataobj), result.labels)


def test_learned_tokens_are_looked_for_in_the_dtype_of_the_weights(model: PromptableModel) -> None:
    looking = PromptableModel(replace(model.config, word_hints=True))
    predictor = Predictor(looking, dtype=torch.bfloat16).set_image(wanted().astype(np.float32), spacing=SPACING)
    result = predict_labels(predictor._require_engine(), LABELS)
    assert result.labels.shape == SHAPE
    assert set(result.presence) == {1, 300, 4}


def test_sides_of_an_unknown_orientation_are_warned_of(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "decode_with_tokens", oracle)
    labels = {replace(HEAD, name="hippocampus_left"): LABELS[HEAD], TAIL: LABELS[TAIL]}
    predict_labels(predictor._require_engine(), labels)
    assert not caplog.records
    predictor.set_image(predictor.volume.array, spacing=SPACING)
    predict_labels(predictor._require_engine(), labels)
    assert "hippocampus_left: the orientation of the image is unknown" in caplog.text


def test_only_the_labels_asked_for(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decode_with_tokens", oracle)
    result = predict_labels(predictor._require_engine(), LABELS, ["head"])
    assert set(np.unique(result.labels)) == {0, 1}
    with pytest.raises(ValueError, match=r"names=\['fin'\]: the adapters that are on know head, tail, gone"):
        predict_labels(predictor._require_engine(), LABELS, ["fin"])


def test_the_coarser_mask_is_handed_down(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    def watch(model: Any, embedding: ImageEmbedding, prompts: PromptBatch, tokens: Any, **_: Any) -> DecoderOutput:
        spacing = float(embedding.spacing_mm[0, 0])
        seen.append((int(spacing), prompts.mask_logits is not None and bool(prompts.masks_are_present.all())))  # type: ignore[union-attr]
        return oracle(model, embedding, prompts, tokens)

    monkeypatch.setattr(module, "decode_with_tokens", watch)
    predict_labels(predictor._require_engine(), {HEAD: tokens_of(0)})
    assert seen[0] == (4, False)
    assert {has_mask for spacing, has_mask in seen if spacing < 4} == {True}


def test_a_label_is_an_object_that_clicks_correct(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decode_with_tokens", oracle)
    result = predict_labels(predictor._require_engine(), LABELS)
    tail = result.object("tail")
    assert np.array_equal(tail.mask > 0, result.labels == 300)
    corrected = predictor.predict(mask=tail, points=[(5, 60, 20), (20, 20, 15)], labels=[1, 0])
    assert corrected.mask[20, 20, 15] == 0
    assert not result.object("gone").mask.any()


def test_an_adapter_without_tokens_has_no_automatic_mode(predictor: Predictor, model: PromptableModel) -> None:
    with pytest.raises(ValueError, match="no adapter with an automatic mode is on"):
        predictor.predict_labels()
    predictor.adapters.add(random_adapter(model, tokens_per_label=0), "plain")
    predictor.set_adapter("plain")
    with pytest.raises(ValueError, match="no adapter with an automatic mode is on"):
        predictor.predict_labels()


def test_a_predictor_with_an_adapter_answers(predictor: Predictor, model: PromptableModel) -> None:
    predictor.adapters.add(random_adapter(model, "lora"), "mine")
    predictor.set_adapter("mine")
    result = predictor.predict_labels()
    assert result.labels.shape == SHAPE
    assert set(result.presence) == {1, 2}
    again = predictor.predict_labels()
    assert np.array_equal(result.labels, again.labels)
    assert again.encoder_calls == 0
