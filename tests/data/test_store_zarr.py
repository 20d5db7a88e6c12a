"""A store as Zarr is the same store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptseg.data import Store, StoreConfig, prepare
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
    chunk = max(
        (p for p in (stores[2] / "cases/blobs/b/image/c").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 3] ^= 0xFF
    whole = chunk.read_bytes()
    chunk.write_bytes(content)
    try:
        assert open_zarr_store(stores[2]).verify() == {"blobs/b": ["image"]}
    finally:
        chunk.write_bytes(whole)


def test_an_address_without_a_store_is_refused(tmp_path: Path) -> None:
    import zarr

    with pytest.raises(ValueError, match="no Zarr store at"):
        open_zarr_store(tmp_path / "nothing")
    zarr.open_group(str(tmp_path / "other"), mode="w")
    with pytest.raises(ValueError, match="not a promptseg store"):
        open_zarr_store(tmp_path / "other")
