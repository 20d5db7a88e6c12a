"""The word head: where a named structure lies, handed to the decoder as a mask to refine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptseg.models import EncodedPrompts, PromptableModel, PromptBatch
from promptseg.models.layers import enlarge
from promptseg.models.tokens import decode_with_tokens, empty_prompts
from promptseg.models.word_head import WordHint, with_hint


@pytest.fixture
def model(make_model) -> PromptableModel:
    model = make_model(word_hints=True)
    assert model.word_head is not None
    torch.nn.init.normal_(model.word_head.word.fc2.weight, std=1.0)
    return model


def _names(count: int, present: bool = True) -> PromptBatch:
    words = torch.randn(1, count, 1, 384, generator=torch.Generator().manual_seed(1))
    words = torch.nn.functional.normalize(words, dim=-1)
    return replace(empty_prompts(1, count), text=words, text_is_present=torch.full((1, count, 1), present))


def _embed(model: PromptableModel):
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        return model.encode_image(image, torch.ones(1, 3))


def test_a_hint_fills_the_mask_of_named_objects_that_have_none():
    dense = torch.zeros(1, 3, 4, 32, 32, 32)
    dense[0, 1, 3, 4:9] = 0.7
    hint = WordHint(torch.full((1, 3, 4, 4, 4), 2.0), torch.zeros(1, 3))
    sparse, present = torch.zeros(1, 3, 1, 8), torch.ones(1, 3, 1, dtype=torch.bool)
    encoded = EncodedPrompts(
        sparse, present, dense, torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, 0, 3), torch.zeros(1, 3, 0)
    )
    filled = with_hint(encoded, hint, torch.tensor([[True, True, False]])).dense_prompts
    assert torch.allclose(filled[0, 0, 3], torch.tensor(2.0 / 2).tanh())
    assert torch.equal(filled[0, 1:], dense[0, 1:]), "a mask is kept, and a nameless object gets none"
    assert torch.equal(filled[:, :, :3], dense[:, :, :3])


def test_names_lie_where_the_head_says_and_add_to_presence(model):
    embedding = _embed(model)
    with torch.no_grad():
        named = model.decode(embedding, _names(2))
        assert (named.mask_logits[:, 0] - named.mask_logits[:, 1]).abs().max() > 1e-2
        words = model.prompt_encoder.embed_text(_names(2))
        hint = model.word_head(embedding, words, torch.ones(1, 2, 1, dtype=torch.bool))
        encoded = model.encode_prompts(_names(2), embedding.grid_shape, embedding.spacing_mm)
        plain = model.decode_encoded(embedding, with_hint(encoded, hint, torch.ones(1, 2, dtype=torch.bool)))
    assert torch.allclose(named.mask_logits, plain.mask_logits)
    assert torch.allclose(named.presence_logits, plain.presence_logits + hint.presence_logits)


def test_without_a_name_the_head_is_not_asked(model):
    embedding = _embed(model)
    clicks = PromptBatch(torch.full((1, 2, 1, 3), 9.0), torch.ones(1, 2, 1, dtype=torch.long))
    unnamed = replace(_names(2, present=False), points=clicks.points, labels=clicks.labels)
    with torch.no_grad():
        expected, found = model.decode(embedding, clicks), model.decode(embedding, unnamed)
    assert torch.allclose(found.mask_logits, expected.mask_logits, atol=1e-5)
    assert torch.allclose(found.presence_logits, expected.presence_logits, atol=1e-5)


def test_learned_tokens_are_words_too(model):
    embedding = _embed(model)
    prompts = _names(2)
    with torch.no_grad():
        words = model.prompt_encoder.embed_text(prompts)[0]
        by_name = model.decode(embedding, prompts)
        by_token = decode_with_tokens(model, embedding, empty_prompts(1, 2), words)
    assert torch.allclose(by_token.mask_logits, by_name.mask_logits, atol=1e-5)
    assert torch.allclose(by_token.presence_logits, by_name.presence_logits, atol=1e-5)


def test_tiles_and_structures_do_not_mix(model):
    images = torch.rand(2, 1, 32, 32, 32) * 2 - 1
    tokens = torch.randn(2, 3, 1, 24)
    present = torch.ones(2, 3, 1, dtype=torch.bool)
    with torch.no_grad():
        together = model.word_head(model.encode_image(images, torch.ones(2, 3)), tokens, present)
        for tile in range(2):
            alone = model.encode_image(images[tile : tile + 1], torch.ones(1, 3))
            for number in range(3):
                part = model.word_head(alone, tokens[tile : tile + 1, number : number + 1], present[:1, :1])
                assert torch.allclose(part.mask_logits[0, 0], together.mask_logits[tile, number], atol=1e-4)
                assert torch.allclose(part.presence_logits[0, 0], together.presence_logits[tile, number], atol=1e-4)


def test_sides_are_one_map_that_all_names_share_each_as_much_as_it_has_of_a_side(make_model):
    model = make_model(word_hints=True, word_sides=True)
    embedding, tokens = _embed(model), torch.randn(1, 3, 1, 24)
    present = torch.ones(1, 3, 1, dtype=torch.bool)
    with torch.no_grad():
        whole = model.word_head(embedding, tokens, present)
        amount = model.word_head.side_of_word(tokens[0, :, 0])[:, 0]
        model.word_head.side_of_word.weight.zero_()
        without = model.word_head(embedding, tokens, present)
    added = (whole.mask_logits - without.mask_logits)[0] / amount[:, None, None, None]
    assert added.abs().max() > 1e-3
    assert torch.allclose(added, added[:1].expand_as(added), atol=1e-3 * float(added.abs().max()))
    assert torch.equal(whole.presence_logits, without.presence_logits)


def test_sides_without_a_word_head_are_refused(make_model):
    with pytest.raises(ValueError, match="word_sides=True with word_hints=False"):
        make_model(word_sides=True)


def test_enlarging_by_products_is_trilinear_interpolation_and_so_is_its_gradient():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 4, 5, requires_grad=True)
    expected = torch.nn.functional.interpolate(x, scale_factor=8.0, mode="trilinear")
    found = enlarge(x, 8)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
