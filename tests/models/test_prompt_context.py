"""The mean of an object's prompt tokens, handed to the decoder's tokens directly."""

from __future__ import annotations

import pytest
import torch

from promptseg.models import DecoderOutput, PromptableModel, PromptBatch


@pytest.fixture
def model(make_model) -> PromptableModel:
    model = make_model(prompt_context=True)
    context = model.mask_decoder.prompt_context
    assert context is not None
    torch.nn.init.normal_(context.weight, std=0.5)
    return model


def _named(*names: int, present: bool = True) -> PromptBatch:
    """Objects on one tile that have nothing but a name, as embeddings of unit length."""
    words = torch.nn.functional.normalize(torch.randn(9, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    count = len(names)
    return PromptBatch(
        torch.zeros(1, count, 1, 3),
        torch.full((1, count, 1), -1),
        text=words[list(names)][None, :, None],
        text_is_present=torch.full((1, count, 1), present),
    )


def _decode(model: PromptableModel, prompts: PromptBatch) -> DecoderOutput:
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        return model(image, torch.ones(1, 3), prompts)


def test_a_new_model_starts_without_it(make_model):
    context = make_model(prompt_context=True).mask_decoder.prompt_context
    assert context is not None and not context.weight.any() and not context.bias.any()


def test_names_change_mask_and_presence(model):
    first, second = _decode(model, _named(0)), _decode(model, _named(1))
    assert (first.mask_logits - second.mask_logits).abs().max() > 1e-2
    assert (first.presence_logits - second.presence_logits).abs().max() > 1e-3


def test_a_name_that_is_absent_changes_nothing(model):
    first, second = _decode(model, _named(0, present=False)), _decode(model, _named(1, present=False))
    assert torch.equal(first.mask_logits, second.mask_logits)


def test_objects_do_not_mix(model):
    together = _decode(model, _named(0, 1, 2))
    for number in range(3):
        alone = _decode(model, _named(number))
        assert torch.allclose(together.mask_logits[:, number], alone.mask_logits[:, 0], atol=1e-4)


def test_points_may_come_in_any_order_and_be_padded(model):
    points = torch.tensor([[[[4.0, 9, 20], [12, 3, 7], [25, 25, 25]]]])
    labels = torch.tensor([[[1, 0, 1]]])
    expected = _decode(model, PromptBatch(points, labels)).mask_logits
    turned = _decode(model, PromptBatch(points.flip(2), labels.flip(2))).mask_logits
    padded = PromptBatch(torch.cat([points, points + 3], 2), torch.cat([labels, torch.full((1, 1, 3), -1)], 2))
    assert torch.allclose(turned, expected, atol=1e-4)
    assert torch.allclose(_decode(model, padded).mask_logits, expected, atol=1e-4)
