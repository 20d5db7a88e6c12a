"""A store as Zarr is the same store."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptseg.data import Store, StoreConfig, prepare
from promptseg.data.store_address import open_store
from promptseg.data.store_zarr import export_zarr, open_zarr_store
from promptseg.preprocessing import PreprocessingConfig

from .conftest import describe, phantom, save_nifti

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store, Path]:
    root = tmp_path_factory.mktemp("source")
    save_nifti(root / "images/a.nii.gz", phantom(0)[0])
    save_nifti(root / "labels/a.nii.gz", phantom(0)[1])
    save_nifti(root / "images/b.nii.gz", phantom(1)[0].astype(np.float32), np.diag([1.0, 1, 4, 1]))
    save_nifti(root / "images/empty.nii.gz", phantom(2)[0])
    save_nifti(root / "labels/empty.nii.gz", np.zeros((20, 18, 14), np.uint8))
    config = StoreConfig(chunk_size=8, block_size=4, preprocessing=PreprocessingConfig())
    prepare([describe(root)], root.parent / "store", config=config)
    store = Store(root.parent / "store")
    seen: list[tuple[int, int]] = []
    export_zarr(store, root.parent / "zarr", chunk_size=8, shard_chunks=2, progress=lambda *n: seen.append(n))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return store, open_zarr_store(root.parent / "zarr"), root.parent / "zarr"


boxes = st.tuples(st.tuples(*[st.integers(-10, 20)] * 3), st.tuples(*[st.integers(1, 16)] * 3))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes)
def test_every_crop_is_the_same(stores: tuple[Store, Store, Path], box) -> None:
    for first, second in zip(stores[0], stores[1], strict=True):
        for kind in ("image", "label") if first.has_label else ("image",):
            expected = first.read_crop(*box, kind=kind)
            np.testing.assert_array_equal(second.read_crop(*box, kind=kind), expected)
            assert second.read_crop(*box, kind=kind).dtype == expected.dtype


def test_the_index_is_the_same(stores: tuple[Store, Store, Path]) -> None:
    for first, second in zip(stores[0], stores[1], strict=True):
        assert first.labels == second.labels
        assert first.dataset_info == second.dataset_info
        np.testing.assert_array_equal(first.affine, second.affine)
        for name in ("intensity", *(["foreground"] if first.has_label else [])):
            np.testing.assert_array_equal(
                first.source.table(first.record, name), second.source.table(second.record, name)
            )
    assert stores[1]["blobs/a"].foreground(1).shape[1] == 3


def test_a_changed_chunk_is_found(stores: tuple[Store, Store, Path]) -> None:
    assert stores[1].verify() == {}
    chunk = chunks(stores[2] / "cases/blobs/b/image")[0]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 3] ^= 0xFF
    with damaged(chunk, bytes(content)):
        assert open_zarr_store(stores[2]).verify() == {"blobs/b": ["image"]}


def chunks(array: Path) -> list[Path]:
    """Files of an array's shards, the largest first."""
    return sorted((p for p in (array / "c").rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)


@contextmanager
def damaged(path: Path, content: bytes | None) -> Iterator[None]:
    """A file with other content, or gone."""
    whole = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("case", ["blobs/a", "blobs/empty"], ids=["labelled", "without a label"])
@pytest.mark.parametrize("loss", ["gone", "empty", "cut"])
def test_a_lost_chunk_is_an_error_and_no_background(stores: tuple[Store, Store, Path], case: str, loss: str) -> None:
    path = chunks(stores[2] / "cases" / case / "label")[0]
    content = {"gone": None, "empty": b"", "cut": path.read_bytes()[:-7]}[loss]
    with damaged(path, content), pytest.raises(ValueError, match=f"label of {case} in .* promptseg data export"):
        open_zarr_store(stores[2])[case].read("label")
    assert open_zarr_store(stores[2]).verify() == {}


def test_a_lost_chunk_of_a_table_or_the_index_is_an_error(stores: tuple[Store, Store, Path]) -> None:
    for place, what in (("cases/blobs/a/foreground", "foreground of blobs/a"), ("index", "index of")):
        with damaged(chunks(stores[2] / place)[0], None), pytest.raises(ValueError, match=what):
            open_zarr_store(stores[2])["blobs/a"].foreground(1)
    with (
        damaged(stores[2] / "cases/blobs/a/image/zarr.json", None),
        pytest.raises(ValueError, match="image of blobs/a"),
    ):
        open_zarr_store(stores[2])["blobs/a"].read()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_an_error(stores: tuple[Store, Store, Path], where: float, change: int) -> None:
    path = chunks(stores[2] / "cases/blobs/b/image")[0]
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= change
    with damaged(path, bytes(content)), pytest.raises(ValueError, match="image of blobs/b in .* damaged"):
        open_zarr_store(stores[2])["blobs/b"].read()


def test_every_chunk_is_written_whatever_it_holds(stores: tuple[Store, Store, Path]) -> None:
    import zarr

    group = zarr.open_group(str(stores[2]), mode="r")
    for case in stores[1]:
        for name in case.record["arrays"]:
            array = group[f"{case.record['folder']}/{name}"]
            assert isinstance(array, zarr.Array)
            assert len(chunks(stores[2] / case.record["folder"] / name)) == np.prod(
                [-(-side // shard) for side, shard in zip(array.shape, array.shards or array.chunks, strict=True)]
            )


def test_an_export_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(str(tmp_path / "zarr"), mode="w")
    group.attrs.update({"format": "promptseg-store", "datasets": {}})
    with pytest.raises(ValueError, match="has version 1 and this reads 2"):
        open_zarr_store(tmp_path / "zarr")


def test_any_kind_of_store_is_opened_by_its_address(stores: tuple[Store, Store, Path]) -> None:
    import fsspec

    expected = stores[0]["blobs/a"].read()
    try:
        export_zarr(stores[0], "memory://bucket/store.zarr")
        for address in (
            stores[2].parent / "store",
            str(stores[2].parent / "store"),
            stores[2],
            f"file://{stores[2]}",
            "memory://bucket/store.zarr",
        ):
            opened = open_store(address)
            np.testing.assert_array_equal(opened["blobs/a"].read(), expected)
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened["blobs/a"])).read(), expected)
        files = fsspec.filesystem("memory")
        files.rm(max(files.find("/bucket/store.zarr/cases/blobs/a/image/c")))
        with pytest.raises(ValueError, match=r"image of blobs/a in memory://bucket/store\.zarr is missing"):
            open_store("memory://bucket/store.zarr")["blobs/a"].read()
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)
    for address, message in (
        (stores[2].parent / "nothing", "is not a store"),
        ("memory://bucket/nothing", "no Zarr store at memory://bucket/nothing"),
        ("nothing://bucket", "nothing://bucket cannot be opened"),
    ):
        with pytest.raises(ValueError, match=message):
            open_store(address)


def test_s3_is_asked_once_for_each_chunk(stores: tuple[Store, Store, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs asks for the size of an object first where it may read its parts at once."""
    from fsspec.implementations.memory import MemoryFileSystem

    given: list[dict[str, object]] = []

    class Bucket(MemoryFileSystem):
        protocol, store, pseudo_dirs, cachable = "s3", {}, [""], False

        def __init__(self, **options: object) -> None:
            given.append(options)
            super().__init__()

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.replace("s3://", "memory://"))

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", Bucket)  # as if s3fs were installed
    export_zarr(stores[0], "s3://bucket/store")
    given.clear()
    opened = open_store("s3://bucket/store")
    np.testing.assert_array_equal(opened["blobs/a"].read(), stores[0]["blobs/a"].read())
    assert all(options.get("max_concurrency") == 1 for options in given)
    assert given


def test_an_address_without_a_store_is_refused(tmp_path: Path) -> None:
    import zarr

    with pytest.raises(ValueError, match="no Zarr store at"):
        open_zarr_store(tmp_path / "nothing")
    zarr.open_group(str(tmp_path / "other"), mode="w")
    with pytest.raises(ValueError, match="not a promptseg store"):
        open_zarr_store(tmp_path / "other")
