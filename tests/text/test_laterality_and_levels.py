"""Sides and levels: read out of a text, kept apart from the name, refused where the structure has none."""

from __future__ import annotations

import pytest

from promptseg.models import ModelConfig
from promptseg.text import LATERALITIES, LEVELS, encode_text
from promptseg.text.levels import LEVEL_SYSTEMS, level_text


def test_the_models_tables_have_room_for_every_index():
    assert len(LATERALITIES) <= ModelConfig().num_lateralities
    assert len(LEVELS) <= ModelConfig().num_levels
    assert len(set(LEVELS)) == len(LEVELS)


def test_the_order_of_the_indices_is_frozen():
    """Trained weights depend on it: append, never reorder."""
    assert LATERALITIES == ("none", "left", "right", "both")
    frozen = ["", "C1", "C7", "T1", "T12", "L1", "L5", "S1", "S5", "T13", "L6", "C8", "1", "13", "1-2", "4-5", "8b"]
    assert [LEVELS.index(level) for level in frozen] == [0, 1, 7, 8, 19, 20, 24, 25, 29, 30, 31, 32, 33, 45, 46, 47, 54]


def test_every_level_of_every_system_has_an_index_and_a_text():
    for system, levels in LEVEL_SYSTEMS.items():
        texts = {level_text(system, LEVELS.index(level)) for level in levels}
        assert len(texts) == len(levels)


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("left kidney", "left"),
        ("kidney right", "right"),
        ("Kidney_L", "left"),
        ("R kidney", "right"),
        ("rt. kidney", "right"),
        ("ren sinister", "left"),
        ("ren dexter", "right"),
        ("ctx-lh-precuneus", "left"),
        ("kidney", "none"),
        ("kidneys", "both"),
        ("both kidneys", "both"),
        ("bilateral kidneys", "both"),
        ("left and right kidney", "both"),
        ("kidneys left", "left"),
        ("lung nodules", "none"),
        ("LV", "left"),
        ("right ventricle", "right"),
        ("middle lobe of lung", "right"),
        ("LAD", "left"),
    ],
)
def test_sides(text, side):
    assert LATERALITIES[encode_text(text).laterality] == side


@pytest.mark.parametrize(
    ("text", "term", "level"),
    [
        ("L4", "vertebra", "L4"),
        ("vertebrae_T12", "vertebra", "T12"),
        ("Th12", "vertebra", "T12"),
        ("D5 vertebra", "vertebra", "T5"),
        ("vertebra L 4", "vertebra", "L4"),
        ("first cervical vertebra", "vertebra", "C1"),
        ("5th lumbar vertebra", "vertebra", "L5"),
        ("thoracic vertebra 5", "vertebra", "T5"),
        ("atlas", "vertebra", "C1"),
        ("L4 vertebral body", "vertebral_body", "L4"),
        ("L4/5", "intervertebral_disc", "L4"),
        ("disc L5-S1", "intervertebral_disc", "L5"),
        ("C7/T1 disk", "intervertebral_disc", "C7"),
        ("T12-L1 disc", "intervertebral_disc", "T12"),
        ("left C8 nerve root", "spinal_nerve_root", "C8"),
        ("rib_left_7", "rib", "7"),
        ("rib L 7", "rib", "7"),
        ("seventh rib right", "rib", "7"),
        ("liver segment VIII", "liver_segment", "8"),
        ("liver segment IVa", "liver_segment", "4a"),
        ("metacarpal 3", "metacarpal_bone", "3"),
        ("left hallux", "toe", "1"),
        ("Cerebelum_4_5_L", "cerebellar_lobule", "4-5"),
        ("cerebellar crus II", "cerebellar_crus", "2"),
        ("vertebra", "vertebra", ""),
    ],
)
def test_levels(text, term, level):
    query = encode_text(text)
    assert (query.term_id, LEVELS[query.level]) == (term, level)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left liver", ["'left'", "'liver' has no left or right"]),
        ("left atlas", ["no left or right"]),
        ("right LAD", ["only on the left"]),
        ("right LUL", ["already means 'left upper lobe of lung'"]),
        ("left rib 14", ["'14'", "13"]),
        ("C8", ["'C8'", "C7"]),
        ("L7 vertebra", ["'L7'"]),
        ("liver 3", ["'3'", "no levels"]),
        ("kidney L4", ["no levels"]),
        ("liver segment 9", ["'9'"]),
        ("disc L4", ["two vertebrae", "'L4-L5'"]),
        ("L3-L5 disc", ["two neighbours"]),
        ("C1-C2 disc", ["two neighbours"]),
        ("L5-L4 disc", ["two neighbours"]),
        ("left hallux 2", ["already means 'toe 1'"]),
    ],
)
def test_a_side_or_level_that_does_not_exist_is_refused(text, words):
    with pytest.raises(ValueError) as caught:
        encode_text(text)
    assert all(word in str(caught.value) for word in words), caught.value
