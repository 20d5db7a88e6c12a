"""Tokens and keys: what makes no difference, and what has to."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptseg.text import encoder, laterality, levels, lookup, normalise, query, vocabulary
from promptseg.text.normalise import edit_distance, joined_key, singular, tokenise, word_key

WORDS = st.text("abcde", max_size=6)


@pytest.mark.parametrize("module", [normalise, laterality, levels, lookup, query, vocabulary, encoder])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("Oesophagus", "esophagus"),
        ("intracerebral haemorrhage", "intracerebral hemorrhage"),
        ("oedema", "edema"),
        ("brain tumour", "brain tumor"),
        ("grey matter", "gray matter"),
        ("caecum", "cecum"),
        ("intervertebral disk", "intervertebral disc"),
        ("ischaemic stroke", "ischemic stroke"),
    ],
)
def test_spellings_are_evened_out(british, american):
    assert tokenise(british) == tokenise(american)


@pytest.mark.parametrize(
    "written", ["left kidney", "Left-Kidney", "LEFT_KIDNEY", "leftKidney", " left  kidney. ", "léft kidney"]
)
def test_case_separators_and_accents_make_no_difference(written):
    assert tokenise(written) == ("left", "kidney")


def test_levels_stay_whole_and_other_digits_are_split_off():
    assert tokenise("vertebrae_L4") == ("vertebrae", "l4")
    assert tokenise("Crus1") == ("crus", "1")
    assert tokenise("7th rib") == ("7", "rib")
    assert tokenise("fourth ventricle") == tokenise("4th ventricle")


def test_a_count_of_instances_is_dropped_but_a_level_is_not():
    assert tokenise("vertebra or disc instance 21") == tokenise("vertebra or disc")
    assert tokenise("rib 7") != tokenise("rib")


def test_spaces_make_no_difference_to_the_joined_key():
    assert joined_key(tokenise("brain-stem")) == joined_key(tokenise("brainstem"))
    assert word_key(tokenise("brain-stem")) != word_key(tokenise("brainstem"))


@given(WORDS, WORDS)
def test_edit_distance_is_symmetric_and_zero_only_for_equal_words(first, second):
    distance = edit_distance(first, second, 10)
    assert distance == edit_distance(second, first, 10)
    assert (distance == 0) == (first == second)
    assert abs(len(first) - len(second)) <= distance <= max(len(first), len(second))


@given(WORDS, st.data())
def test_one_edit_has_distance_one(word, data):
    place = data.draw(st.integers(0, len(word)))
    assert edit_distance(word, word[:place] + "x" + word[place:], 3) == 1
    if len(word) >= 2:
        place = data.draw(st.integers(0, len(word) - 2))
        swapped = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        assert edit_distance(word, swapped, 3) == (swapped != word)


def test_the_limit_is_kept():
    assert edit_distance("kidney", "liver", 2) == 3


@pytest.mark.parametrize("word", ["pelvis", "humerus", "abscess", "pons", "biceps", "os"])
def test_words_that_end_in_s_are_the_same_in_both_numbers(word):
    assert word_key((word,)) == word_key((singular(word),)) or singular(word) + "s" == word
