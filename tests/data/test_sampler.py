"""Samples are functions of their number, in the proportions asked for, at scales that inference reads."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from promptseg.data.balance import BalancedObjects, temper
from promptseg.data.batch_synthesis import PAINTED, REAL, SYNTHETIC, UNLABELLED
from promptseg.data.counted_labels import CountedLabels
from promptseg.data.crops import TISSUE, TrainingVolume, build_pyramid, index_objects
from promptseg.data.pool import TrainingPool
from promptseg.data.randomness import Randomness
from promptseg.data.sample_stream import SampleStream
from promptseg.data.sampler import SamplerConfig, _recombine, choose_targets, draw_raw, draw_sample, number_labels
from promptseg.preprocessing import PreprocessingConfig

PREPROCESSING = PreprocessingConfig()
CONFIG = SamplerConfig(crop_size=16, min_object_voxels=4)


def make_volume(
    dataset: str, modality: str, values: tuple[int, ...], has_image: bool = True, size: int = 20
) -> TrainingVolume:
    """A volume whose labels are slabs, brighter the higher their value."""
    labels = np.zeros((size,) * 3, dtype=np.uint8)
    for number, value in enumerate(values):
        labels[4 * number + 1 : 4 * number + 4, 3:17, 3:17] = value
    spacing = np.array([1.0, 1.0, 2.0])
    image = labels * 10.0 + np.random.default_rng(0).normal(0, 1, labels.shape)
    levels = build_pyramid(image, spacing, PREPROCESSING) if has_image else ()
    objects, boxes = index_objects(labels, spacing, np.random.default_rng(0))
    return TrainingVolume(dataset, dataset, modality, levels, labels, spacing, objects, boxes)


def make_pool(**weights: float) -> TrainingPool:
    """Nine CT cases with a liver (1) of which one has a tumour (2), two MR brains with three labels, one unlabelled."""
    groups = {
        "abdomen": [make_volume("abdomen", "CT", (1, 2) if n == 0 else (1,)) for n in range(9)],
        "brain": [make_volume("brain", "MR", (1, 2, 3)) for _ in range(2)],
        "bare": [make_volume("bare", "MR", ())],
    }
    weights = weights or {"abdomen": 0.2, "brain": 0.5, "bare": 0.3}
    return TrainingPool({g: groups[g] for g in weights}, weights)


def _drawn_shares(pool: TrainingPool, temperature: float, draws: int = 10_000) -> dict:
    rng = np.random.default_rng(1)
    counted: Counter = Counter()
    for _ in range(draws):
        volume, value = pool.draw(rng, temperature)
        counted[volume.dataset, value] += 1
    return {k: n / draws for k, n in counted.items()}


def _assert_within_chance(found: dict, expected: dict, draws: int = 10_000) -> None:
    assert found.keys() == expected.keys()
    for key, share in expected.items():
        assert abs(found[key] - share) < 4.5 * np.sqrt(share * (1 - share) / draws), key


def test_ten_thousand_draws_match_the_weights_of_data_sets():
    expected = {("abdomen", 1): 0.2 * (8 + 0.5) / 9, ("abdomen", 2): 0.2 * 0.5 / 9, ("bare", None): 0.3}
    expected |= {("brain", v): 0.5 / 3 for v in (1, 2, 3)}
    _assert_within_chance(_drawn_shares(make_pool(), 0.0), expected)


def test_ten_thousand_draws_match_the_proportions_of_a_temperature():
    pool = make_pool(abdomen=1.0, brain=1.0)
    modality = temper({"CT": 9, "MR": 2}, 2.0)
    label = temper({1: 9, 2: 1}, 2.0)
    expected = {("abdomen", v): modality["CT"] * label[v] for v in (1, 2)}
    expected |= {("brain", v): modality["MR"] / 3 for v in (1, 2, 3)}
    assert label == {1: 0.75, 2: 0.25}
    _assert_within_chance(_drawn_shares(pool, 2.0), expected)


def test_temperature_one_counts_cases_and_a_high_one_makes_modalities_even():
    pool = make_pool(abdomen=1.0, brain=1.0)
    for temperature, share in ((1.0, 9 / 11), (1e9, 0.5)):
        table = BalancedObjects.of(pool.groups, pool.weights, temperature)
        ct = sum(s for (m, _, _), s in zip(table.keys, table.shares, strict=True) if m == "CT")
        assert ct == pytest.approx(share)
        assert table.shares.sum() == pytest.approx(1)


def test_the_weight_of_a_data_set_multiplies_its_cases():
    pool = make_pool(abdomen=2.0, brain=9.0)
    table = BalancedObjects.of(pool.groups, pool.weights, 1.0)
    ct = sum(s for (m, _, _), s in zip(table.keys, table.shares, strict=True) if m == "CT")
    assert ct == pytest.approx(0.5)


def test_tissue_is_painted_and_never_an_object_nor_a_guest_of_another_map():
    labels = np.zeros((20,) * 3, dtype=np.int32)
    labels[2:8, 3:17, 3:17], labels[10:18, 3:17, 3:17] = 1, TISSUE
    config = dataclasses.replace(CONFIG, merge_share=1.0, objects_per_crop=2)
    targets = choose_targets(CountedLabels.of(labels), 1, np.random.default_rng(0), config)
    assert len(targets) == 2 and (labels[targets.any(axis=0)] == 1).all()
    objects, boxes = index_objects(labels * (labels < TISSUE), np.ones(3), np.random.default_rng(0))
    volume = TrainingVolume("maps", "maps", "MR", (), labels, np.ones(3), objects, boxes)
    pool = TrainingPool({"maps": [volume]}, {"maps": 1.0})
    crop = labels[2:18, 2:18, 2:18]
    joined = [_recombine(crop, pool, Randomness((key,)), config) for key in range(4)]
    assert set(np.unique(joined)) == {0, 1, 2, TISSUE}
    assert all((crop[map_ == TISSUE] == TISSUE).all() for map_ in joined)


def test_a_sample_is_a_function_of_its_number_alone():
    pool = make_pool()
    first = [draw_sample(pool, 3, step, 1, CONFIG, PREPROCESSING) for step in range(6)]
    again = [draw_sample(make_pool(), 3, step, 1, CONFIG, PREPROCESSING) for step in (5, 0, 1, 2, 3, 4)]
    for sample, other in zip(first, again[1:] + again[:1], strict=True):
        assert torch.equal(sample.image, other.image) and torch.equal(sample.targets, other.targets)
    assert not torch.equal(first[0].image, draw_sample(pool, 4, 0, 1, CONFIG, PREPROCESSING).image)


@pytest.mark.parametrize("is_finished", [True, False])
def test_two_processes_draw_what_one_draws_in_two_micro_batches(is_finished):
    def stream(rank: int, world_size: int, accumulation: int) -> SampleStream:
        return SampleStream(
            make_pool(), 3, lambda step: (16, 2), CONFIG, PREPROCESSING, rank, world_size, accumulation,
            is_finished=is_finished,
        )  # fmt: skip

    alone = stream(0, 1, 2)
    for step in (0, 5):
        for rank in (0, 1):
            found, expected = stream(rank, 2, 1)[step], alone[2 * step + rank]
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[k], expected[k]) for k in found)


def test_every_sample_has_objects_finite_intensities_and_the_shapes_asked_for():
    pool = make_pool()
    config = SamplerConfig(
        crop_size=16, objects_per_crop=2, min_object_voxels=4, synthetic_share=0.4, painted_share=0.5
    )
    for step in range(25):
        sample = draw_sample(pool, 0, step, 0, config, PREPROCESSING)
        assert sample.image.shape == (1, 16, 16, 16) and sample.targets.shape == (2, 16, 16, 16)
        assert sample.image.abs().max() <= 1 and sample.image.isfinite().all()
        assert sample.targets.flatten(1).any(dim=1).all()
        assert (sample.spacing_mm > 0).all()


def test_kinds_come_in_their_shares():
    pool = make_pool(abdomen=1.0)
    config = SamplerConfig(
        crop_size=16, min_object_voxels=1, synthetic_share=0.5, painted_share=0.4, supervoxel_share=0.2
    )
    kinds = Counter(draw_raw(pool, 0, step, 0, config).kind for step in range(400))
    assert kinds[SYNTHETIC] / 400 == pytest.approx(0.5, abs=0.1)
    assert kinds[UNLABELLED] / 400 == pytest.approx(0.1, abs=0.06)
    assert kinds[PAINTED] / 400 == pytest.approx(0.16, abs=0.08)
    assert kinds[REAL] > kinds[PAINTED]


def test_an_image_without_labels_gives_supervoxels_and_a_label_map_without_image_is_painted():
    bare = draw_raw(make_pool(bare=1.0), 0, 0, 0, SamplerConfig(crop_size=16, synthetic_share=0.0))
    assert bare.kind == UNLABELLED and not bare.targets.any() and bare.image.std() > 0
    group = {"maps": [make_volume("maps", "none", (1, 2), has_image=False)]}
    painted = draw_raw(TrainingPool(group, {"maps": 1.0}), 0, 0, 0, SamplerConfig(crop_size=16, synthetic_share=0.0))
    assert painted.kind == PAINTED and painted.targets.any() and painted.labels.max() >= 1


def test_the_scale_in_view_is_a_level_of_the_lattice_that_shows_the_object():
    volume = make_volume("abdomen", "CT", (1,), size=128)
    config = SamplerConfig(crop_size=16, level_share=1.0, smallest_ratio=0.12, largest_ratio=1.5)
    from promptseg.data.crops import draw_spacing_mm

    rng = np.random.default_rng(0)
    found = {draw_spacing_mm(volume, 1, rng, config) for _ in range(200)}
    assert volume.extents_mm[1] == pytest.approx(28)
    assert found == {2.0, 4.0, 8.0}, "levels at which 28 mm are 0.12 to 1.5 of a crop of 16 voxels"


def test_label_values_become_small_numbers_and_background_stays():
    assert number_labels(CountedLabels.of(np.array([0, 7, 300, 7]))).tolist() == [0, 1, 2, 1]
    assert number_labels(CountedLabels.of(np.array([9, 9]))).tolist() == [1, 1]
    many = number_labels(CountedLabels.of(np.arange(1, 600)))
    assert many.min() >= 1 and many.max() < 240


def test_training_without_labels_needs_an_image():
    pool = TrainingPool({"maps": [make_volume("maps", "none", (1,), has_image=False)]}, {"maps": 1.0})
    with pytest.raises(ValueError, match="no image among maps"):
        SampleStream(pool, 0, lambda step: (16, 1), CONFIG, PREPROCESSING, images_only=True)


def _kinds(stream: SampleStream, steps: range) -> Counter:
    return Counter(kind for step in steps for kind in stream[step]["kind"].tolist())


def test_from_a_step_on_only_images_with_labels_of_their_own_are_drawn():
    pool = make_pool()
    pool = TrainingPool(
        {**pool.groups, "maps": [make_volume("maps", "none", (1, 2), has_image=False)]},
        {**{name: 0.6 * weight for name, weight in pool.weights.items()}, "maps": 0.4},
    )
    config = dataclasses.replace(CONFIG, synthetic_share=0.3, painted_share=0.3, supervoxel_share=0.3)
    plain = SampleStream(pool, 0, lambda step: (16, 4), config, PREPROCESSING, is_finished=False)
    stream = SampleStream(pool, 0, lambda step: (16, 4), config, PREPROCESSING, is_finished=False, real_from=20)
    assert set(_kinds(stream, range(20, 40))) == {REAL}
    assert {PAINTED, SYNTHETIC} <= set(_kinds(stream, range(20))) and set(_kinds(plain, range(20, 40))) != {REAL}
    for step in (0, 19):
        assert all(torch.equal(stream[step][name], plain[step][name]) for name in plain[step])


def test_the_images_with_labels_keep_their_weights_to_each_other():
    labelled = make_pool().labelled_images()
    assert set(labelled.groups) == {"abdomen", "brain"}
    assert labelled.weights == pytest.approx({"abdomen": 0.2 / 0.7, "brain": 0.5 / 0.7})
    bare = TrainingPool({"maps": [make_volume("maps", "none", (1,), has_image=False)]}, {"maps": 1.0})
    with pytest.raises(ValueError, match="no image with labels among maps: set real_from to 0"):
        SampleStream(bare, 0, lambda step: (16, 1), CONFIG, PREPROCESSING, real_from=5)


def test_a_data_set_whose_first_case_has_no_labels_keeps_the_others():
    cases = [make_volume("tumours", "MR", values) for values in ((), (1,), (), (1,))]
    labelled = TrainingPool({"tumours": cases}, {"tumours": 1.0}).labelled_images()
    assert list(labelled.groups["tumours"]) == [cases[1], cases[3]]


def test_samples_keep_the_proportions_where_many_crops_show_too_little():
    """A crop that is drawn again is drawn of the same source."""
    hard = make_volume("hard", "MR", (1,))
    hard.labels[4:] = 0
    hard.labels[:, 8:] = 0
    groups = {"hard": [hard], "easy": [make_volume("easy", "MR", (1, 2, 3))]}
    pool = TrainingPool(groups, {"hard": 0.5, "easy": 0.5})
    config = dataclasses.replace(
        CONFIG, min_object_voxels=60, synthetic_share=0.25, painted_share=0.0, supervoxel_share=0.0
    )
    found = Counter(draw_raw(pool, 0, 0, index, config).source for index in range(600))
    expected = {"synthetic": 0.25, "hard": 0.375, "easy": 0.375}
    _assert_within_chance({k: n / 600 for k, n in found.items()}, expected, 600)


@pytest.mark.parametrize(("field", "value"), [
    ("synthetic_share", 1.5),
    ("temperature", 0.5),
    ("objects_per_crop", 0),
    ("min_object_voxels", 0),
    ("names_per_crop", -1),
    ("smallest_ratio", 0.0),
    ("smallest_ratio", 2.0),
    ("largest_ratio", float("inf")),
    ("augmentation", -0.1),
    ("rotation_degrees", -1.0),
])  # fmt: skip
def test_a_field_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SamplerConfig(**{field: value})
