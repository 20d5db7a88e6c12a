"""Names of label maps in the wild: every one has to resolve, to the right side and level."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptseg.text import LATERALITIES, LEVELS

HERE = Path(__file__).parent
NAMES: dict[str, dict[str, list[str]]] = json.loads((HERE / "label_names.json").read_text())
"""Data set -> label name -> term, side, level; checked by hand."""
CLASSES: dict[str, list[str]] = json.loads((HERE / "totalsegmentator_classes.json").read_text())
"""Class names of TotalSegmentator 2. Source: its totalsegmentator/map_to_binary.py (Apache-2.0)."""


@pytest.mark.parametrize("dataset", NAMES)
def test_label_names_mean_what_they_should(index, dataset):
    for name, expected in NAMES[dataset].items():
        match = index.find(name)
        assert [match.term.id, LATERALITIES[match.laterality], LEVELS[match.level]] == expected, name
        assert match.score == 1.0


def test_the_real_data_sets_have_no_other_label_names(index, data_root):
    tables = sorted(data_root.glob("*/dataset.json"))
    assert tables
    for table in tables:
        for name in (json.loads(table.read_text()).get("labels") or {}).values():
            assert index.find(name).score == 1.0
            assert name in NAMES[table.parent.name]


def test_totalsegmentators_classes_come_back(index):
    assert (len(CLASSES["total"]), len(CLASSES["total_mr"])) == (117, 50)
    for name in [name for names in CLASSES.values() for name in names]:
        match = index.find(name)
        expected = name.replace("eyeball", "eye")  # two of its tasks name the same structure differently
        assert match.term.totalsegmentator_name(match.laterality, match.level) == expected


def test_a_class_needs_its_side_and_level(vocabulary):
    rib = vocabulary["rib"]
    assert rib.totalsegmentator_name(1, LEVELS.index("7")) == "rib_left_7"
    assert rib.totalsegmentator_name(0, LEVELS.index("7")) == rib.totalsegmentator_name(1, 0) == ""
    assert vocabulary["vertebra"].totalsegmentator_name() == "vertebrae"
