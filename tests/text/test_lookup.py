"""Which term a text names, and that it is never another one in silence."""

from __future__ import annotations

import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.text import LEVELS, AmbiguousTermError, UnknownTermError, load_index, lookup
from promptseg.text.levels import LEVEL_SYSTEMS
from promptseg.text.normalise import tokenise

INDEX = load_index()
SIDES = {"midline": (0,), "paired": (0, 1, 2, 3), "left": (1,), "right": (2,)}
TERMS = st.sampled_from(INDEX.vocabulary.terms)


def test_every_name_with_every_side_and_level_is_read_back(index):
    for term in index.vocabulary:
        for laterality in SIDES[term.sidedness]:
            for level in (0, *map(LEVELS.index, LEVEL_SYSTEMS[term.level_system])):
                match = index.find(term.full_name(laterality, level))
                assert (match.term.id, match.laterality, match.level, match.score) == (term.id, laterality, level, 1.0)


def test_every_synonym_names_its_term_or_is_refused_as_shared(index):
    for alias in index.aliases:
        if alias.is_shared:
            with pytest.raises(AmbiguousTermError):
                index.find(alias.text)
            continue
        match = index.find(alias.text)
        is_told_by_level = (
            bool(alias.term.level_system) and not match.term.level_system
        )  # "cerebellum" and "cerebellum 6"
        assert match.term.id == alias.term.id or is_told_by_level, alias.text
        assert match.score == 1.0


@given(
    TERMS, st.randoms(use_true_random=False), st.sampled_from([str.lower, str.upper, str.title]), st.sampled_from(" _-")
)
@settings(max_examples=60, deadline=None)
def test_order_case_and_separators_make_no_difference(term, rng: random.Random, case, separator):
    words = list(tokenise(term.name))
    if term.level_system or term.sidedness != "paired":
        return
    words.insert(rng.randrange(len(words) + 1), "left")
    match = INDEX.find(case(separator.join(words)))
    assert (match.term.id, match.laterality) == (term.id, 1)
    rng.shuffle(words)
    assert INDEX.find(case(separator.join(words))).term.id == term.id


@given(TERMS, st.data())
@settings(max_examples=60, deadline=None)
def test_a_typing_error_is_corrected_or_refused_but_never_becomes_another_term(term, data):
    name = term.name.lower()
    words = [word for word in name.split() if len(word) >= 7 and word.isalpha()]
    if not words:
        return
    word = data.draw(st.sampled_from(words))
    place = data.draw(st.integers(1, len(word) - 1))
    letter = data.draw(st.sampled_from([c for c in "qxzk" if c != word[place]]))  # else it might be no error at all
    wrong = data.draw(
        st.sampled_from([word[:place] + letter + word[place:], word[:place] + letter + word[place + 1 :]])
    )
    try:
        match = INDEX.find(name.replace(word, wrong))
    except ValueError:
        return
    assert match.term.id == term.id
    assert match.score < 1


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("kidny", "kidney"),
        ("left kydney", "left kidney"),
        ("livre", "liver"),
        ("hippocampuss", "hippocampus"),
        ("pancreass", "pancreas"),
    ],
)
def test_a_correction_is_logged_and_lowers_the_score(index, caplog, typed, name):
    with caplog.at_level(logging.WARNING, logger="promptseg"):
        match = index.find(typed)
    assert match.name == name
    assert 0.5 < match.score < 1
    assert repr(typed) in caplog.text and repr(name) in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "trochlea",  # two letters from trachea
        "perineal",  # one from peroneal, two from perineum
        "humor",  # one from tumor
        "hepatoma",  # one from hematoma
        "left hemithorax",  # one from hemothorax
        "uncus",  # one from ulcus
        "metencephalon",  # two from mesencephalon
        "cholecystitis",  # two from cholecystis
        "superior oblique capitis",  # a real muscle, near the eye's superior oblique
        "lower lobe of kidney",
        "renal lobe",
        "anterior cruciate artery",
        "lung lower left",
        "kidney kidney",
        "lumber spine",
        "left",
        "the",
    ],
)
def test_real_words_and_made_up_structures_are_not_turned_into_others(index, text):
    with pytest.raises(UnknownTermError):
        index.find(text)


@pytest.mark.parametrize("text", ["", "   ", "?", None, 7])
def test_no_text_is_refused(index, text):
    with pytest.raises(ValueError, match="expected"):
        index.find(text)


def test_an_unknown_text_lists_the_nearest_terms(index):
    with pytest.raises(UnknownTermError) as caught:
        index.find("renal pelvic stone")
    assert "'kidney stone'" in str(caught.value) and "vocabulary search" in str(caught.value)


@pytest.mark.parametrize("text", ["liver and spleen", "liver & spleen", "liver|spleen", "liver or spleen"])
def test_several_structures_in_one_text_are_refused_with_the_cure(index, text):
    with pytest.raises(UnknownTermError, match="several texts"):
        index.find(text)


def test_a_text_without_separators_is_taken_apart_once(index, monkeypatch):
    texts = []
    monkeypatch.setattr(lookup, "tokenise", lambda text: texts.append(text) or tokenise(text))
    assert index.find("left kidney").name == "left kidney"
    assert texts == ["left kidney"]


@pytest.mark.parametrize(
    "text",
    [
        "liver and tumor",
        "left kidney & cyst",
        "Uterus + cervix",
        "bone_and_metastasis",
        "liver, tumour",
        "lung; nodule",
        "L4, L5",
        "rib and cartilage",
    ],
)
def test_a_list_is_not_taken_for_the_one_structure_that_its_words_spell(index, text):
    with pytest.raises(AmbiguousTermError, match="expected one structure; .*several texts"):
        index.find(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kidney, left", "left kidney"),
        ("kidney, left and right", "both kidney"),
        ("left + right lung", "both lung"),
        ("vertebra, L4", "L4 vertebra"),
        ("rib, 7, left", "left rib 7"),
        ("portal vein & splenic vein", "portal vein and splenic vein"),
        ("Portal Vein and Splenic Vein", "portal vein and splenic vein"),
        ("head and neck tumour, left", "left head and neck tumor"),
        ("skull and base", "skull base"),
        ("L4/L5", "L4-L5 intervertebral disc"),
    ],
)
def test_separators_that_are_no_list_are_read_over(index, text, name):
    assert index.find(text).name == name


@pytest.mark.parametrize(
    ("text", "meanings"), [("SMA", ["mesenteric", "motor"]), ("ventricle", ["heart", "ventricular system"])]
)
def test_a_name_of_several_structures_names_them(index, text, meanings):
    with pytest.raises(AmbiguousTermError) as caught:
        index.find(text)
    assert all(meaning in str(caught.value) for meaning in meanings)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("M. sartorius", "sartorius muscle"),
        ("A. carotis communis sinistra", "left common carotid artery"),
        ("Tumour of the left kidney", "left kidney tumor"),
        ("liver mets", "liver metastasis"),
        ("upper lobe of left lung", "left upper lobe of lung"),
        ("Left-Inf-Lat-Vent", "left inferior lateral ventricle"),
        ("CN VII", "facial nerve"),
        ("nodule of the lung", "lung nodule"),
        ("ileum", "ileum"),
        ("ilium", "ilium"),
    ],
)
def test_other_ways_to_say_it(index, text, name):
    assert index.find(text).name == name


def test_search_finds_parts_of_names_the_best_first(index):
    names = [term.name for term in index.search("kidn")]
    assert names[:3] == ["kidney", "kidney cyst", "kidney lesion"]
    assert "renal cortex" in names  # through a synonym
    assert index.search("sma", 2)[0].id in ("superior_mesenteric_artery", "supplementary_motor_area")
    assert [term.id for term in index.search("kidnye")][0] == "kidney"  # nothing contains it: the nearest
    assert index.search("") == () and index.search("zzzz") == ()
