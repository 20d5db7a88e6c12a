"""A crop of a store is numpy's slice, padded, from any thread or process."""

from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.data import Store, StoreConfig, prepare
from promptseg.data.store_reader import StoreCase
from promptseg.data.store_source import MAX_OPEN_FILES

from .conftest import describe, phantom, save_nifti

COUNT = 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for number in range(COUNT):
        image, labels = phantom(number, values=(1, 2, 9))
        save_nifti(root / f"images/p{number:02d}.nii.gz", image)
        save_nifti(root / f"labels/p{number:02d}.nii.gz", labels)
    save_nifti(root / "images/unlabelled.nii.gz", phantom(9)[0])
    catalog = describe(root, ignore=[9], folds={"validation": ["p02"]}, overrides=[{"match": "p01", "modality": "MR"}])
    prepare([catalog], root.parent / "store", config=StoreConfig(chunk_size=8, block_size=4))
    return root.parent / "store"


@pytest.fixture(scope="module")
def store(prepared: Path) -> Store:
    return Store(prepared)


def padded_slice(array: np.ndarray, start: tuple[int, ...], size: tuple[int, ...], fill: float) -> np.ndarray:
    """What a crop should be, by numpy's own padding."""
    wide = np.pad(array, 60, constant_values=fill)
    return wide[tuple(slice(60 + a, 60 + a + n) for a, n in zip(start, size, strict=True))]


boxes = st.tuples(st.tuples(*[st.integers(-30, 30)] * 3), st.tuples(*[st.integers(1, 25)] * 3))


@settings(max_examples=60)
@given(boxes, st.sampled_from(["image", "label"]), st.integers(0, COUNT - 1))
def test_a_crop_is_the_slice_of_the_source(store: Store, box, kind: str, number: int) -> None:
    start, size = box
    image, labels = phantom(number, values=(1, 2, 9))
    case = store[f"blobs/p{number:02d}"]
    crop = case.read_crop(start, size, kind)
    expected = padded_slice(image if kind == "image" else labels, start, size, image.min() if kind == "image" else 0)
    np.testing.assert_array_equal(crop, expected)
    assert crop.dtype == expected.dtype
    assert crop.flags["C_CONTIGUOUS"]
    crop[...] = 1  # the caller's to change
    np.testing.assert_array_equal(case.read_crop(start, size, kind), expected)


def test_the_outside_can_be_filled_with_anything(store: Store) -> None:
    crop = store["blobs/p00"].read_crop((-5, 0, 0), (5, 5, 5), fill=-1000)
    assert (crop == -1000).all()


@pytest.mark.parametrize(
    ("start", "size", "message"),
    [
        ((0, 0), (4, 4, 4), "three whole numbers"),
        ((0.5, 0, 0), (4, 4, 4), "three whole numbers"),
        ((0, 0, 0), (4, 0, 4), "expected 1 or more"),
        ((0, 0, 0), (4, -1, 4), "expected 1 or more"),
    ],
)
def test_a_box_that_is_none_is_refused(store: Store, start, size, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store["blobs/p00"].read_crop(start, size)


def test_the_index_says_what_the_case_holds(store: Store) -> None:
    _, labels = phantom(0, values=(1, 2, 9))
    case = store["blobs/p00"]
    assert set(case.labels) == {1, 2}, "9 is ignored"
    for value, entry in case.labels.items():
        where = np.argwhere(labels == value)
        assert entry.voxels == len(where)
        assert (entry.low, entry.high) == (tuple(where.min(0)), tuple(where.max(0) + 1))
        assert entry.term == {1: "liver", 2: "spleen"}[value]
        drawn = case.foreground(value)
        assert len(drawn) == min(256, len(where))
        assert (labels[tuple(drawn.T)] == value).all()
    assert case.shape == labels.shape
    assert case.statistics["minimum"] == phantom(0, values=(1, 2, 9))[0].min()


def test_an_unlabelled_case_has_no_label(store: Store) -> None:
    case = store["blobs/unlabelled"]
    assert (case.has_image, case.has_label, case.labels, case.annotated) == (True, False, {}, ())
    with pytest.raises(ValueError, match="has no label"):
        case.read_crop((0, 0, 0), (2, 2, 2), "label")


def test_cases_are_selected_by_what_they_are(store: Store) -> None:
    def names(**wanted: str) -> list[str]:
        return [case.name for case in store.select(**wanted)]

    assert len(store) == 4
    assert names(fold="validation") == ["p02"]
    assert names(modality="MR") == ["p01"]
    assert names(fold="train", modality="CT") == ["p00", "unlabelled"]
    assert names(dataset="other") == []
    assert store[0].key == "blobs/p00"


def test_threads_and_pickles_read_the_same(store: Store, prepared: Path) -> None:
    def digest(case: StoreCase) -> bytes:
        return case.read_crop((2, 3, 1), (9, 9, 9)).tobytes()

    expected = [digest(case) for case in store]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, [*store] * 8)) == expected * 8
    again = pickle.loads(pickle.dumps(store))
    assert [digest(case) for case in again] == expected


def test_cases_share_one_block_and_a_pickle_holds_its_own_line(store: Store, prepared: Path, tmp_path: Path) -> None:
    assert len({id(case.lines) for case in store}) == 1
    case = store["blobs/p01"]
    one = pickle.dumps(case)
    assert one.count(b'"statistics"') == 1
    assert pickle.loads(one).record["case"] == "p01"
    lines = (prepared / "index.jsonl").read_bytes()
    assert store[0].lines[-2:] == lines.splitlines()[-2:]
    shutil.copytree(prepared, tmp_path / "store")
    (tmp_path / "store/index.jsonl").write_bytes(lines.rstrip(b"\n"))  # as an editor may leave it
    assert [c.line for c in Store(tmp_path / "store")] == [c.line for c in store]


def test_only_so_many_files_are_open(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptseg.data import store_source

    assert MAX_OPEN_FILES >= 16
    monkeypatch.setattr(store_source, "MAX_OPEN_FILES", 2)
    store = Store(prepared)
    for case in [*store] * 2:
        case.read()
    source: store_source.FolderSource = store[0].source  # type: ignore[assignment]
    assert len(source._local.arrays) == 2


def test_a_case_in_memory_is_its_line_of_the_index(store: Store, prepared: Path) -> None:
    lines = (prepared / "index.jsonl").read_bytes().splitlines()
    assert [case.line for case in store] == lines
    case = store["blobs/p00"]
    for _ in range(2):
        case.labels, case.foreground(1), case.affine, case.read()
    held = [value for name, value in vars(case).items() if name not in ("lines", "number", "dataset_info", "source")]
    assert all(isinstance(value, str) for value in held)


def test_a_store_that_holds_numbers_where_names_belong_is_read(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "store")
    index = tmp_path / "store/index.jsonl"
    records = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(json.dumps({**r, "fold": 0, "patient": n}) + "\n" for n, r in enumerate(records)))
    found = Store(tmp_path / "store")
    assert [case.patient for case in found.select(fold="0")] == [str(n) for n in range(len(records))]
