"""Training draws the same samples from a store as from the files, and holds no volume for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from promptseg.data import Catalog, Store, StoreConfig, prepare
from promptseg.data.crops import IGNORED, TISSUE, TrainingVolume, crop_image, crop_labels
from promptseg.data.pool import TrainingPool
from promptseg.data.sample_stream import SampleStream
from promptseg.data.sampler import SamplerConfig, draw_geometry, draw_sample
from promptseg.data.store_views import StoredImage, StoredLabels, renumber
from promptseg.data.store_zarr import export_zarr
from promptseg.data.structures import measure_terms
from promptseg.data.volumes import StoreVolumes, load_volume, open_pool, open_volume
from promptseg.preprocessing import PreprocessingConfig

from ..conftest import make_affine
from .conftest import describe, phantom, save_nifti

PREPROCESSING = PreprocessingConfig()
CONFIG = StoreConfig(chunk_size=32, block_size=8, preprocessing=PREPROCESSING)
SAMPLER = SamplerConfig(crop_size=16, synthetic_share=0.0)


def _sixteen(_: int) -> tuple[int, int]:
    return 16, 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Catalog], Store]:
    """A data set with images (one large enough for coarser levels), one of label maps alone, one of instances."""
    root = tmp_path_factory.mktemp("source")
    for number, shape in enumerate([(24, 20, 18), (210, 30, 26)]):
        image, labels = phantom(number, shape, values=(1, 2, 255))
        affine = make_affine("LPS", (0.8, 0.9, 1.1), (5, 6, 7))
        save_nifti(root / f"organs/images/p{number}.nii.gz", image, affine)
        save_nifti(root / f"organs/labels/p{number}.nii.gz", labels, affine)
    _, labels = phantom(5, (60, 50, 40), values=(1, 2, 700))
    save_nifti(root / "maps/labels/m.nii.gz", np.pad(labels, 30).astype(np.int16))
    image, labels = phantom(6, values=(3, 1500, 70_000))
    save_nifti(root / "spine/images/s.nii.gz", image)
    save_nifti(root / "spine/labels/s.nii.gz", labels)
    catalogs = {
        "organs": describe(
            root / "organs", "organs", ignore=[255], absent=["brain"], overrides=[{"match": "p1", "absent": ["lung"]}]
        ),
        "maps": describe(root / "maps", "maps", images="", unnamed_values="expected"),
        "spine": describe(root / "spine", "spine", instances=True, terms={3: "vertebra", 1500: "vertebra"}),
    }
    report = prepare(list(catalogs.values()), root / "store", config=CONFIG)
    assert not report.rejected
    return catalogs, Store(root / "store")


def pools(data: tuple[dict[str, Catalog], Store]) -> tuple[TrainingPool, TrainingPool]:
    """The same cases, in memory and in the store."""
    catalogs, store = data
    weights = {"organs": 0.6, "maps": 0.2, "spine": 0.2}
    groups = {
        name: [load_volume(catalog, case, PREPROCESSING) for case in catalog.cases()]
        for name, catalog in catalogs.items()
    }
    return TrainingPool(groups, weights), open_pool(store, weights, PREPROCESSING)


def test_draws_from_the_store_are_the_draws_from_the_files(data) -> None:
    files, store = pools(data)
    sources = set()
    for index in range(40):
        ours = draw_sample(store, 7, 3, index, SAMPLER, PREPROCESSING)
        theirs = draw_sample(files, 7, 3, index, SAMPLER, PREPROCESSING)
        assert ours.source == theirs.source
        torch.testing.assert_close(ours.targets, theirs.targets, rtol=0, atol=0)
        torch.testing.assert_close(ours.spacing_mm, theirs.spacing_mm)
        torch.testing.assert_close(ours.image, theirs.image, rtol=0, atol=2e-3)
        sources.add(ours.source)
    assert {"organs", "maps (painted)", "spine"} <= sources


def test_draws_from_an_export_are_the_draws_from_the_store(data, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    export_zarr(data[1], tmp_path / "zarr", chunk_size=16)
    weights = {"organs": 0.6, "maps": 0.2, "spine": 0.2}
    exported = open_pool(str(tmp_path / "zarr"), weights, PREPROCESSING)
    for index in range(12):
        first, second = (draw_sample(p, 3, 0, index, SAMPLER, PREPROCESSING) for p in (pools(data)[1], exported))
        assert first.source == second.source
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.targets, second.targets)


def test_what_is_absent_is_so_case_by_case(data) -> None:
    _, store = data
    missing = [
        {s.name for s in open_volume(store[key], PREPROCESSING).structures if not s.values}
        for key in ("organs/p0", "organs/p1", "spine/s")
    ]
    assert "thalamus" in missing[0] and "lung" not in missing[0]
    assert "lung" in missing[1] and "thalamus" not in missing[1]
    assert not missing[2]


def test_crops_at_every_scale_are_equal(data) -> None:
    """Without the sampler's augmentation, from the finest to the coarsest level."""
    catalogs, store = data
    ours = open_volume(store["organs/p1"], PREPROCESSING)
    theirs = load_volume(catalogs["organs"], catalogs["organs"].cases()[1], PREPROCESSING)
    assert len(ours.levels) == len(theirs.levels) == 3
    rng = np.random.default_rng(0)
    for spacing in (0.5, 0.9, 1.7, 4.0, 9.0):
        geometry = draw_geometry(theirs, 1, rng, SAMPLER)
        positions = geometry.positions_mm() * np.float32(spacing)
        torch.testing.assert_close(crop_image(ours, positions, spacing), crop_image(theirs, positions, spacing))
        np.testing.assert_array_equal(crop_labels(ours, positions), crop_labels(theirs, positions))


@pytest.mark.parametrize("key", ["organs/p0", "organs/p1", "maps/m", "spine/s"])
def test_what_the_sampler_is_told_is_equal_and_true(data, key: str) -> None:
    catalogs, store = data
    name, _, case_name = key.partition("/")
    ours = open_volume(store[key], PREPROCESSING)
    case = next(case for case in catalogs[name].cases() if case.name == case_name)
    theirs = load_volume(catalogs[name], case, PREPROCESSING)
    for attribute in ("case", "dataset", "modality", "shape", "extent_mm", "extents_mm", "names", "structures"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert list(ours.objects) == list(theirs.objects)
    assert isinstance(theirs.labels, np.ndarray)
    assert ours.labels is not None
    whole = ours.labels[tuple(slice(None) for _ in range(3))]
    np.testing.assert_array_equal(whole, theirs.labels)
    for value, voxels in ours.objects.items():
        np.testing.assert_array_equal(voxels, theirs.objects[value])
        assert (whole[tuple(voxels.astype(int).T)] == value).all()
        assert 0 < value < TISSUE
        where = np.argwhere(whole == value)
        assert ours.extents_mm[value] == pytest.approx(((np.ptp(where, axis=0) + 1) * ours.spacing_mm).max())


def values_of(volume: TrainingVolume) -> set[int]:
    assert volume.labels is not None
    return set(np.unique(volume.labels[tuple(slice(None) for _ in range(3))]).tolist())


def test_what_is_no_object_is_never_drawn_but_still_tissue(data) -> None:
    _, store = data
    assert set(open_volume(store["organs/p0"], PREPROCESSING).objects) == {1, 2}
    assert values_of(open_volume(store["organs/p0"], PREPROCESSING)) == {0, 1, 2, IGNORED}, "255 is ignored"
    assert values_of(open_volume(store["maps/m"], PREPROCESSING)) == {0, 1, 2, TISSUE}, "700 is only painted"
    assert len(open_volume(store["spine/s"], PREPROCESSING).objects) == 3, "instances need no term"
    assert values_of(open_volume(store["spine/s"], PREPROCESSING)) == {0, 1, 3, 1500}, "what is too large is renumbered"


def test_a_map_without_an_image_is_cut_to_its_labels_and_thinned(data, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptseg.data import label_plan

    catalogs, store = data
    assert open_volume(store["maps/m"], PREPROCESSING).shape < store["maps/m"].shape
    monkeypatch.setattr(label_plan, "MAX_LABEL_VOXELS", 20_000)
    ours = open_volume(store["maps/m"], PREPROCESSING)
    theirs = load_volume(catalogs["maps"], catalogs["maps"].cases()[0], PREPROCESSING)
    assert np.prod(ours.shape) <= 20_000
    assert (ours.spacing_mm > store["maps/m"].spacing_mm).all()
    assert ours.labels is not None
    np.testing.assert_array_equal(ours.labels[tuple(slice(None) for _ in range(3))], theirs.labels)
    for value, voxels in ours.objects.items():
        assert (voxels < ours.shape).all()
        assert (theirs.labels == value).any()


def test_a_pool_holds_no_voxels_and_few_open_volumes(data, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = data
    volumes = StoreVolumes(store.cases * 50, PREPROCESSING, max_open=3)
    assert len(volumes) == 200
    for number in (0, 1, 2, 3, 150, 0):
        volume = volumes[number]
        assert all(isinstance(level.image, StoredImage) for level in volume.levels)
        assert volume.labels is None or isinstance(volume.labels, StoredLabels)
    assert len(volumes._open) == 3
    assert volumes[0] is volumes[0]
    assert len(volumes[10:20]) == 10
    assert len(pickle.loads(pickle.dumps(volumes))._open) == 0
    with pytest.raises(IndexError):
        volumes[200]


def test_a_crop_reads_only_the_box_around_it(data, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptseg.data.store_reader import StoreCase

    _, store = data
    volume = open_volume(store["organs/p1"], PREPROCESSING)
    read: list[int] = []
    real: Callable = StoreCase.read_array

    def counted(self, name, start, size, fill=0):
        read.append(int(np.prod(size)))
        return real(self, name, start, size, fill)

    monkeypatch.setattr(StoreCase, "read_array", counted)
    positions = np.stack(np.meshgrid(*[np.arange(8.0)] * 3, indexing="ij"), -1).astype(np.float32)
    crop_image(volume, positions, 0.9)
    crop_labels(volume, positions)
    assert len(read) == 2
    assert max(read) <= 13**3


def test_another_preprocessing_is_refused(data, tmp_path: Path) -> None:
    catalogs, store = data
    other = PreprocessingConfig(equalization=0.25)
    with pytest.raises(ValueError, match=r"equalization.*0\.6 stored, 0\.25 wanted"):
        open_pool(store, {"organs": 1.0}, other)
    prepare([catalogs["organs"]], tmp_path / "plain", config=StoreConfig(chunk_size=8, block_size=4))
    with pytest.raises(ValueError, match="none is stored"):
        open_volume(Store(tmp_path / "plain")["organs/p0"], PREPROCESSING)


def test_a_group_without_cases_is_refused(data) -> None:
    for group in ("hearts", "organs:PET"):
        with pytest.raises(ValueError, match=rf"'{group}' has no case.*organs:CT \(train\)"):
            open_pool(data[1], {group: 1.0}, PREPROCESSING)
    pool = open_pool(data[1], {"organs:CT": 3.0, "maps": 1.0}, PREPROCESSING, max_cases=1)
    assert pool.weights == {"organs:CT": 0.75, "maps": 0.25}
    assert [len(group) for group in pool.groups.values()] == [1, 1]


def test_the_large_real_image_is_the_same_from_both(data_root: Path, tmp_path: Path) -> None:
    from promptseg.data import load_catalog

    catalog = load_catalog(data_root / "sct_cord" / "dataset.json")
    prepare([catalog], tmp_path / "store", config=StoreConfig(preprocessing=PREPROCESSING))
    store = open_pool(tmp_path / "store", {"sct_cord": 1.0}, PREPROCESSING)
    files = TrainingPool(
        {"sct_cord": [load_volume(catalog, case, PREPROCESSING) for case in catalog.cases()]}, store.weights
    )
    for index in range(4):
        ours, theirs = (draw_sample(pool, 0, 0, index, SAMPLER, PREPROCESSING) for pool in (store, files))
        torch.testing.assert_close(ours.targets, theirs.targets, rtol=0, atol=0)
        torch.testing.assert_close(ours.image, theirs.image, rtol=0, atol=2e-3)


def test_values_are_replaced_at_once() -> None:
    labels = np.array([1, 2, 3], np.uint8)
    assert renumber(labels, [(1, 2), (2, 1)]).tolist() == [2, 1, 3]
    assert renumber(labels, []) is labels


def test_what_is_ignored_is_neither_object_nor_background_of_a_sample(data) -> None:
    _, store = data
    pool = open_pool(store, {"organs": 1.0}, PREPROCESSING)
    config = SamplerConfig(
        crop_size=16, synthetic_share=0.0, painted_share=0.0, supervoxel_share=0.0, min_object_voxels=4
    )
    samples = [draw_sample(pool, 0, 0, index, config, PREPROCESSING) for index in range(24)]
    unknown = [sample for sample in samples if not sample.is_known.all()]
    assert unknown and len(unknown) < len(samples)
    assert not any((sample.targets & ~sample.is_known).any() for sample in unknown)
    painted = replace(SAMPLER, painted_share=1.0, supervoxel_share=0.0, min_object_voxels=4)
    painting = draw_sample(pool, 0, 0, 0, painted, PREPROCESSING)
    assert painting.source == "organs (painted)" and painting.is_known.all()


def test_instances_beyond_a_thousand_are_objects_like_others(tmp_path: Path) -> None:
    labels = np.arange(1, 1729).reshape(12, 12, 12).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    save_nifti(tmp_path / "cells/images/c.nii.gz", labels.astype(np.float32))
    save_nifti(tmp_path / "cells/labels/c.nii.gz", labels.astype(np.int16))
    catalog = describe(tmp_path / "cells", "cells", instances=True, terms={})
    volume = load_volume(catalog, catalog.cases()[0], PREPROCESSING)
    assert len(volume.objects) == 1728
    assert len(np.unique(volume.labels[tuple(volume.objects[1728][0])])) == 1
    sample = draw_sample(TrainingPool({"cells": [volume]}, {"cells": 1.0}), 0, 0, 0, SAMPLER, PREPROCESSING)
    assert sample.targets.any()


def test_a_store_knows_its_images_with_labels_without_opening_them(tmp_path: Path) -> None:
    """Also where the first case shows nothing."""
    empty, full = "a", "b"
    image, labels = phantom(0)
    for name, values in ((empty, np.zeros_like(labels)), (full, labels)):
        save_nifti(tmp_path / f"mixed/images/{name}.nii.gz", image + 3 * (name == full))
        save_nifti(tmp_path / f"mixed/labels/{name}.nii.gz", values)
    catalog = describe(tmp_path / "mixed", "mixed")
    prepare([catalog], tmp_path / "store", config=CONFIG)
    pool = open_pool(tmp_path / "store", {"mixed": 1.0}, PREPROCESSING)
    assert len(pool.groups["mixed"]) == 2
    for temperature in (0.0, 1.0):
        labelled = pool.labelled_images()
        assert [volume.case for volume in labelled.groups["mixed"]] == [full]
        rng = np.random.default_rng(0)
        assert all(labelled.draw(rng, temperature)[1] is not None for _ in range(20))


def test_what_starts_a_run_is_made_of_the_index_before_loaders_start(data, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = data
    weights = {"organs": 0.6, "maps": 0.2, "spine": 0.2}
    expected = open_pool(store, weights, PREPROCESSING)
    first = [expected.draw(np.random.default_rng(n), 2.0) for n in range(30)]
    names = [expected.elsewhere(volume) for volume, _ in first]
    pool = open_pool(store, weights, PREPROCESSING)
    with monkeypatch.context() as patch:
        patch.setattr("promptseg.data.volumes.open_volume", lambda *_: pytest.fail("a case was opened"))
        config = replace(SAMPLER, temperature=2.0)
        stream = SampleStream(pool, 0, _sixteen, config, PREPROCESSING, real_from=1)
        assert measure_terms(pool) == measure_terms(expected) == measure_terms(pools(data)[0]) != {}
    loaded = pickle.loads(pickle.dumps(stream))
    for made in ("balance.BalancedObjects.of", "exclusion.Exclusion.__init__", "exclusion.Exclusion.elsewhere"):
        monkeypatch.setattr(f"promptseg.data.{made}", lambda *_: pytest.fail("a loader made a table"))
    for ours in (stream.pool, loaded.pool):
        drawn = [ours.draw(np.random.default_rng(n), 2.0) for n in range(30)]
        assert [(v.case, value) for v, value in drawn] == [(v.case, value) for v, value in first]
        assert [ours.elsewhere(volume) for volume, _ in drawn] == names
    assert loaded[1]["targets"].any()


def test_a_pool_in_a_store_knows_of_each_case_what_opening_it_would_tell(data) -> None:
    _, store = data
    for case in store:
        (volumes,) = open_pool(store, {case.dataset: 1.0}, PREPROCESSING).groups.values()
        number = [c.name for c in volumes.cases].index(case.name)  # type: ignore[attr-defined]
        opened = open_volume(case, PREPROCESSING)
        assert volumes.holds(number) == (opened.modality, tuple(opened.objects))  # type: ignore[attr-defined]
        assert volumes.structures_of(number) == opened.structures  # type: ignore[attr-defined]
        boxes_mm = volumes.boxes_of(number)  # type: ignore[attr-defined]
        assert {v: ends.tolist() for v, ends in boxes_mm.items()} == {v: e.tolist() for v, e in opened.boxes_mm.items()}
