"""What can be asked for by name in a case, and what certainly is not there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from promptseg.data.crops import TrainingVolume, index_objects
from promptseg.data.pool import TrainingPool
from promptseg.data.structures import Structure, extent_mm, measure_terms, structures_of

HEAD = {1: "left hippocampus", 2: "right hippocampus", 3: "brainstem", 4: "a thing nobody named"}


def _by_name(structures: tuple[Structure, ...]) -> dict[str, Structure]:
    return {s.name: s for s in structures}


def test_a_pair_is_also_found_without_its_side():
    found = _by_name(structures_of(HEAD))
    assert found["left hippocampus"].values == (1,) and found["right hippocampus"].values == (2,)
    assert found["hippocampus"].values == found["both hippocampus"].values == (1, 2)
    assert found["brainstem"].values == (3,)


def test_names_outside_the_vocabulary_are_left_out():
    assert all(4 not in s.values for s in structures_of(HEAD))
    assert structures_of({1: "a thing nobody named"}) == ()


def test_values_of_one_name_and_unions_are_one_structure():
    found = _by_name(structures_of({1: "anterior hippocampus", 2: "posterior hippocampus"}, [("hippocampus", (1, 2))]))
    assert found["hippocampus"].values == (1, 2)
    instances = structures_of({1: "vertebra", 2: "vertebra"})
    assert [s.values for s in instances] == [(1, 2)]


@pytest.mark.parametrize(("annotated", "is_complete", "expected"), [
    (None, True, True), ({1, 2, 3}, True, True), ({1, 2}, True, False), (None, False, False),
])  # fmt: skip
def test_only_what_was_looked_for_and_labelled_everywhere_can_be_absent(annotated, is_complete, expected):
    found = _by_name(structures_of(HEAD, annotated=annotated, is_complete=is_complete))
    assert found["brainstem"].is_exhaustive is expected


def test_terms_declared_absent_have_no_values_and_do_not_replace_labelled_ones():
    found = _by_name(structures_of(HEAD, absent=("lung", "brainstem"), is_complete=False))
    assert found["lung"].values == () and found["lung"].is_exhaustive
    assert found["brainstem"].values == (3,)


def test_mirroring_swaps_the_sides_and_nothing_else():
    found = _by_name(structures_of(HEAD))
    assert found["left hippocampus"].mirrored().name == "right hippocampus"
    assert found["left hippocampus"].mirrored().mirrored() == found["left hippocampus"]
    assert found["brainstem"].mirrored() == found["brainstem"]
    assert found["both hippocampus"].mirrored() == found["both hippocampus"]


def test_words_are_the_name_half_of_the_time_else_a_synonym():
    structure = _by_name(structures_of({1: "kidney"}))["kidney"]
    rng = np.random.default_rng(0)
    drawn = {structure.draw_words(rng).tobytes() for _ in range(60)}
    assert len(drawn) > 1
    assert all(abs(np.linalg.norm(np.frombuffer(words, np.float32)) - 1) < 1e-3 for words in drawn)


def _volume(labels: np.ndarray, spacing: tuple[float, float, float]) -> TrainingVolume:
    objects, boxes = index_objects(labels, np.array(spacing), np.random.default_rng(0))
    return TrainingVolume(
        "case", "set", "MR", (), labels, np.array(spacing), objects, boxes, structures=structures_of(HEAD)
    )


def test_the_extent_of_a_union_reaches_over_its_parts():
    labels = np.zeros((40, 20, 20), np.uint8)
    labels[2:6, 5:9, 5:9] = 1
    labels[34:38, 5:9, 5:9] = 2
    volume = _volume(labels, (2.0, 1.0, 1.0))
    found = _by_name(volume.structures)
    assert extent_mm(found["left hippocampus"], volume.boxes_mm) == 8
    assert extent_mm(found["hippocampus"], volume.boxes_mm) == 72
    assert extent_mm(found["brainstem"], volume.boxes_mm) == 0


def test_terms_that_no_case_shows_are_not_taught():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:9, 5:9, 5:9] = 3
    pool = TrainingPool({"set": [_volume(labels, (1.0, 1.0, 1.0))] * 2}, {"set": 1.0})
    assert measure_terms(pool) == {"brainstem": (4.0, 2)}


def test_what_is_part_of_an_absent_structure_is_absent_too_on_every_side():
    found = _by_name(structures_of({1: "left hippocampus"}, absent=("brain",)))
    absent = {name for name, structure in found.items() if not structure.values and structure.is_exhaustive}
    assert {"brain", "thalamus", "left thalamus", "both amygdala", "right hippocampus", "cerebellar cortex"} <= absent
    assert not {"lung", "left lung", "mandible", "left hippocampus"} & absent
    of_a_side = _by_name(structures_of({1: "brainstem"}, absent=("left lung",)))
    assert set(of_a_side) == {"brainstem", "left lung"}


def test_an_absent_vertebra_is_absent_at_every_level():
    found = _by_name(structures_of({1: "brainstem"}, absent=("vertebra",)))
    assert {"vertebra", "L4 vertebra", "C1 vertebra"} <= set(found)


def test_a_pool_asks_for_what_is_absent_only_where_several_others_show_it():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:9, 5:9, 5:9] = 1
    head = _volume(labels, (1.0, 1.0, 1.0))
    trunk = dataclasses.replace(head, structures=structures_of({1: "liver"}, absent=("brain",)))
    pool = TrainingPool({"heads": [head, head], "trunks": [trunk]}, {"heads": 0.5, "trunks": 0.5})
    named = {structure.name for structure in pool.askable(trunk)}
    assert {"liver", "left hippocampus", "hippocampus", "brainstem"} <= named
    assert "thalamus" not in named and "brain" not in named
    strange = {structure.name for structure in pool.strangers(trunk)}
    assert {"thalamus", "brain"} <= strange and not strange & named
    assert not pool.strangers(head), "nothing is said to be absent from it"
    assert {s.name for s in pool.askable(head)} == {s.name for s in head.structures}
    alone = TrainingPool({"heads": [head], "trunks": [trunk]}, {"heads": 0.5, "trunks": 0.5})
    assert {structure.name for structure in alone.askable(trunk)} == {"liver"}
