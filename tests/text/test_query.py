"""What the model gets for a word: embedding, side and level, each its own."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from promptseg.models import ModelConfig, PromptableModel
from promptseg.models.prompt_encoder import PromptBatch
from promptseg.text import LATERALITIES, EncoderIdentity, encode_text, load_bank


class LetterEncoder:
    """A real if simple encoder: counts of letters."""

    def __init__(self, weights_sha256: str) -> None:
        self.identity = EncoderIdentity("letters", "1", weights_sha256)

    def encode(self, texts):
        counts = np.array(
            [[text.count(chr(97 + i % 26)) + 1e-3 * (i == 0) for i in range(384)] for text in texts], np.float32
        )
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_left_and_right_share_the_embedding_and_differ_in_the_index():
    left, right, plain = encode_text("left kidney"), encode_text("right kidney"), encode_text("kidney")
    assert np.array_equal(left.embedding, right.embedding) and np.array_equal(left.embedding, plain.embedding)
    assert [LATERALITIES[query.laterality] for query in (left, right, plain)] == ["left", "right", "none"]
    assert encode_text("left liver lobe").term_id != encode_text("left kidney").term_id


def test_vertebrae_share_the_embedding_and_differ_in_the_level():
    third, fourth = encode_text("L3"), encode_text("L4")
    assert np.array_equal(third.embedding, fourth.embedding)
    assert third.level != fourth.level
    assert not np.array_equal(third.embedding, encode_text("L3-L4 disc").embedding)


def test_an_embedding_is_a_read_only_unit_vector_of_the_models_width():
    query = encode_text("spleen")
    assert query.embedding.shape == (ModelConfig().text_dim,) == (384,)
    assert query.embedding.dtype == np.float32
    assert np.linalg.norm(query.embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        query.embedding[0] = 1


def test_a_synonym_is_the_same_query_and_the_text_is_kept():
    query = encode_text("Ren sinister")
    assert (query.term_id, query.name, query.match_score, query.text) == ("kidney", "left kidney", 1.0, "Ren sinister")
    assert query.is_known
    assert np.array_equal(query.embedding, encode_text("kidney_left").embedding)


def test_unknown_text_raises_with_the_nearest_terms():
    with pytest.raises(ValueError, match="'kidney'"):
        encode_text("kidney of a dragon")


def test_an_encoder_other_than_the_banks_is_refused_naming_both():
    with pytest.raises(ValueError) as caught:
        encode_text("kidney", encoder=LetterEncoder("0" * 64))
    assert "letters@1" in str(caught.value) and load_bank().encoder.model_id in str(caught.value)


def test_free_text_goes_through_the_encoder_with_a_warning_and_its_side_apart(caplog):
    encoder = LetterEncoder(load_bank().encoder.weights_sha256)
    with caplog.at_level(logging.WARNING, logger="promptseg"):
        left, right = encode_text("left gizmo of zork", encoder), encode_text("gizmo of zork, right", encoder)
    assert "not in the vocabulary" in caplog.text
    assert (left.term_id, left.is_known, left.name) == ("", False, "left gizmo of zork")
    assert (left.laterality, right.laterality) == (1, 2)
    assert np.array_equal(left.embedding, right.embedding)
    assert -1 <= left.match_score <= 1
    known = encode_text("left kidney", encoder)
    assert np.array_equal(known.embedding, encode_text("left kidney").embedding)  # known terms stay with the bank


def test_an_encoder_changes_nothing_about_ambiguous_text_and_impossible_sides():
    encoder = LetterEncoder(load_bank().encoder.weights_sha256)
    for text in ("SMA", "left liver", "rib 14", "left", ""):
        with pytest.raises(ValueError):
            encode_text(text, encoder)


def test_the_prompt_encoder_takes_it_and_tells_left_from_right():
    torch.manual_seed(0)
    model = PromptableModel(
        ModelConfig(
            name="random", tile_size=32, stem_channels=(8, 16, 16), stem_depths=(1, 1, 1), embed_dim=24, depth=1,
            num_heads=2, decoder_channels=(8, 16, 16)
        )
    )  # fmt: skip
    queries = [encode_text(text) for text in ("left kidney", "right kidney", "kidney_left")]
    prompts = PromptBatch(
        points=torch.zeros(1, 3, 0, 3),
        labels=torch.zeros(1, 3, 0, dtype=torch.long),
        text=torch.from_numpy(np.stack([query.embedding for query in queries]))[None, :, None],  # (1, 3, 1, 384)
        text_laterality=torch.tensor([[[query.laterality] for query in queries]]),
        text_level=torch.tensor([[[query.level] for query in queries]]),
    )
    left, right, again = model.prompt_encoder(prompts, (32, 32, 32), torch.ones(1, 3)).sparse_prompts[0, :, 0]
    assert torch.equal(left, again)
    assert torch.nn.functional.cosine_similarity(left, right, dim=0) < 0.9


def test_importing_and_asking_needs_no_torch():
    code = (
        "import sys, promptseg.text as t; t.encode_text('left kidney');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
