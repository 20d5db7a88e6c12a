"""Objects that are asked for by name: the right voxels, the right side, and nothing where nothing is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from promptseg.data.counted_labels import CountedLabels
from promptseg.data.crops import TrainingVolume, build_pyramid, index_objects
from promptseg.data.pool import TrainingPool
from promptseg.data.sample_stream import SampleStream
from promptseg.data.sampler import SamplerConfig, draw_raw
from promptseg.data.structures import structures_of
from promptseg.data.text_targets import STRANGER_SHARE, WORD_TENSORS, Words, choose_named_targets, draw_names
from promptseg.preprocessing import PreprocessingConfig
from promptseg.text import load_bank
from promptseg.text.laterality import LEFT, RIGHT

NAMES = {1: "left kidney", 2: "right kidney", 3: "liver", 4: "spleen"}
CONFIG = SamplerConfig(
    crop_size=16, min_object_voxels=4, objects_per_crop=2, synthetic_share=0, painted_share=0, supervoxel_share=0,
    upright_share=1, text_share=1, absent_share=0.5, rotation_degrees=0, merge_share=0,
)  # fmt: skip


def _labels() -> np.ndarray:
    """Kidneys on either side of the first axis, which points to the right; a liver; no spleen."""
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[2:8, 8:14, 8:14] = 1
    labels[16:22, 8:14, 8:14] = 2
    labels[9:15, 2:7, 8:14] = 3
    return labels


def _crop() -> CountedLabels:
    return CountedLabels.of(_labels())


def _volume(names: dict[int, str] = NAMES) -> TrainingVolume:
    labels, spacing = _labels(), np.ones(3)
    objects, boxes = index_objects(labels, spacing, np.random.default_rng(0))
    levels = build_pyramid(labels * 10.0, spacing, PreprocessingConfig())
    return TrainingVolume("case", "set", "CT", levels, labels, spacing, objects, boxes, names, structures_of(names))


def _draw(primary: int, seed: int, **changes: object) -> tuple[np.ndarray, Words]:
    arguments = {"is_mirrored": False, "num_objects": 2, "min_voxels": 4, "absent_share": 0.5, **changes}
    drawn = choose_named_targets(
        _crop(),
        primary,
        structures_of(NAMES),
        rng=np.random.default_rng(seed),
        **arguments,  # type: ignore[arg-type]
    )
    assert drawn is not None
    return drawn


@pytest.mark.parametrize("primary", [1, 2, 3])
def test_the_first_object_holds_the_label_that_was_drawn(primary: int):
    for seed in range(8):
        targets, words = _draw(primary, seed)
        assert targets[0][_labels() == primary].all()
        assert words.text_is_present.all()


def test_an_absent_object_is_empty_and_one_that_was_looked_for():
    spleen = load_bank().variants("spleen")
    seen = 0
    for seed in range(40):
        targets, words = _draw(3, seed)
        if not targets[1].any():
            seen += 1
            assert (np.abs(spleen - words.text[1].numpy()).max(axis=1) < 1e-6).any()
    assert 8 < seen < 32


def test_nothing_is_asked_for_by_name_where_nothing_has_one():
    assert choose_named_targets(_crop(), 1, (), False, np.random.default_rng(0), 2, 4, 0.5) is None


def test_left_and_right_are_those_of_the_crop_also_where_it_is_mirrored():
    pool = TrainingPool({"set": [_volume()]}, {"set": 1.0})
    sides = {LEFT: 0, RIGHT: 0}
    mirrored = 0
    for index in range(120):
        raw = draw_raw(pool, 0, 0, index, CONFIG)
        assert raw.words is not None
        for target, side in zip(raw.targets, raw.words.text_laterality.tolist(), strict=True):
            liver = (raw.labels == 3) if bool((raw.labels == 3).any()) else None
            if side not in sides or liver is None or not target.any():
                continue
            position = target.nonzero()[:, 0].float().mean() - liver.nonzero()[:, 0].float().mean()
            sides[side] += 1
            mirrored += int(raw.labels[target].unique().numel() == 1 and int(raw.labels[target][0]) != side)
            assert (position < 0) == (side == LEFT), "the first axis points to the right"
    assert min(sides.values()) > 5 and mirrored > 5


def test_crops_that_are_turned_ask_for_nothing_by_name():
    pool = TrainingPool({"set": [_volume()]}, {"set": 1.0})
    turned = dataclasses.replace(CONFIG, upright_share=0.0)
    assert all(draw_raw(pool, 0, 0, index, turned).words is None for index in range(10))


def test_batches_carry_names_for_all_objects_and_say_which_have_one():
    pool = TrainingPool({"set": [_volume()], "bare": [_volume({})]}, {"set": 0.5, "bare": 0.5})
    stream = SampleStream(pool, 0, lambda step: (16, 12), CONFIG, PreprocessingConfig())
    batch = stream[0]
    assert batch["text"].shape == (12, 2, load_bank().width)
    assert all(batch[name].shape[:2] == (12, 2) for name in WORD_TENSORS)
    named = batch["text_is_present"]
    assert named.any() and not named.all()
    assert torch.equal(batch["text"].norm(dim=-1) > 0.5, named)
    assert batch["targets"].flatten(2).any(dim=2)[~named].all(), "an object without a name is never empty"


def test_the_word_head_is_asked_for_what_is_shown_and_what_is_not():
    structures = structures_of({**NAMES, 5: "pancreas", 6: "gallbladder"}, absent=("brain",))
    names = draw_names(_crop(), structures, False, np.random.default_rng(0), 9, 4)
    asked = names["name_is_present"]
    assert names["name_share"].shape == (9, 3, 3, 3) and names["name_text"].shape == (9, load_bank().width)
    peaks = names["name_share"].amax(dim=(1, 2, 3))
    assert set(peaks.tolist()) == {0.0, 1.0}, "what is shown has a densest cell, however small it is"
    assert int((asked & (peaks == 0)).sum()) == 4, "spleen, pancreas, gallbladder and brain are not there"
    shares = names["name_share"].sum(dim=(1, 2, 3))[asked & (peaks > 0)]
    cells = {v: (_labels() == v).reshape(3, 8, 3, 8, 3, 8).mean(axis=(1, 3, 5)) for v in (1, 2, 3)}
    expected = [c.sum() / c.max() for c in (*cells.values(), cells[1] + cells[2])]
    assert all(np.isclose(share, expected, rtol=1e-4).any() for share in shares.tolist())


def test_a_few_names_are_of_what_no_image_shows():
    structures = structures_of(NAMES)
    strangers = [s for s in structures_of({1: "liver"}, absent=("brain",)) if not s.values]
    names = draw_names(_crop(), structures, False, np.random.default_rng(0), 16, 4, (), strangers)
    without = draw_names(_crop(), structures, False, np.random.default_rng(0), 16, 4)
    counts = []
    for drawn in (names, without):
        asked, peaks = drawn["name_is_present"], drawn["name_share"].amax(dim=(1, 2, 3))
        counts.append((int(asked.sum()), int((asked & (peaks == 0)).sum())))
    added = int(STRANGER_SHARE * 16)
    assert counts[0] == (counts[1][0] + added, counts[1][1] + added)
    assert (names["name_share"] >= 0).all(), "a stranger is known to be nowhere"


def test_left_and_right_of_one_structure_are_asked_for_beside_each_other():
    structures = structures_of({1: "left kidney", 3: "liver", 2: "right kidney", 4: "spleen"})
    first = set()
    for seed in range(12):
        sides = draw_names(_crop(), structures, False, np.random.default_rng(seed), 4, 4)["name_laterality"]
        left, right = ((sides == side).nonzero()[:, 0].tolist() for side in (LEFT, RIGHT))
        assert len(left) == len(right) <= 1
        if left:
            assert abs(left[0] - right[0]) <= 1
        first.add(int(sides[0]))
    assert len(first) > 1, "which structure comes first is drawn"


def test_the_word_head_hears_the_sides_of_the_mirrored_crop():
    structures = structures_of({1: "left kidney"})
    sides = [
        draw_names(_crop(), structures, mirrored, np.random.default_rng(0), 2, 4)["name_laterality"][0].item()
        for mirrored in (False, True)
    ]
    assert sides == [LEFT, RIGHT]


def test_crops_without_names_ask_the_word_head_for_nothing():
    names = draw_names(_crop(), (), False, np.random.default_rng(0), 5, 4)
    assert not names["name_is_present"].any() and not names["name_share"].any()
    turned = dataclasses.replace(CONFIG, upright_share=0.0)
    raw = draw_raw(TrainingPool({"set": [_volume()]}, {"set": 1.0}), 0, 0, 0, turned)
    assert not raw.names["name_is_present"].any()
    silent = dataclasses.replace(CONFIG, names_per_crop=0)
    assert draw_raw(TrainingPool({"set": [_volume()]}, {"set": 1.0}), 0, 0, 0, silent).names == {}


def test_crops_with_guests_of_another_case_ask_for_nothing_by_name():
    pool = TrainingPool({"set": [_volume()]}, {"set": 1.0})
    config = dataclasses.replace(CONFIG, painted_share=1.0, recombined_share=1.0)
    for index in range(8):
        raw = draw_raw(pool, 0, 0, index, config)
        assert raw.words is None and not raw.names["name_is_present"].any()
    alone = dataclasses.replace(config, recombined_share=0.0)
    assert any(draw_raw(pool, 0, 0, index, alone).words is not None for index in range(8))
