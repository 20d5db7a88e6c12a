"""An export replaces an earlier export and nothing else, and an interrupted one replaces nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from promptseg.data import Store, StoreConfig, prepare
from promptseg.data.store_reader import StoreCase
from promptseg.data.store_zarr import export_zarr, open_zarr_store

from .conftest import describe, phantom, save_nifti

zarr = pytest.importorskip("zarr")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two cases."""
    root = tmp_path / "source"
    for name in "ab":
        save_nifti(root / f"images/{name}.nii.gz", phantom(ord(name))[0])
        save_nifti(root / f"labels/{name}.nii.gz", phantom(ord(name))[1])
    prepare([describe(root)], tmp_path / "store", config=StoreConfig(chunk_size=8, block_size=4))
    return Store(tmp_path / "store")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stop(*_: int) -> None:
    """An export that is interrupted after its first case."""
    raise KeyboardInterrupt


def test_a_folder_with_other_files_is_left_alone(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "thesis.txt").write_text("years")
    (mine / "sub/a.txt").write_text("x")
    before = content(mine)
    with pytest.raises(ValueError, match="'sub', which is no part of an export and would be lost"):
        export_zarr(store, mine)
    assert content(mine) == before
    with pytest.raises(ValueError, match="is a file"):
        export_zarr(store, mine / "thesis.txt")
    assert content(mine) == before


def test_a_zarr_group_of_another_kind_is_left_alone(store: Store, tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "other"), mode="w").create_array("index", shape=(3,), dtype="i4")[...] = 7
    before = content(tmp_path / "other")
    with pytest.raises(ValueError, match="no export of a store"):
        export_zarr(store, tmp_path / "other")
    assert content(tmp_path / "other") == before


def test_a_file_beside_an_export_is_not_lost_with_it(store: Store, tmp_path: Path) -> None:
    export_zarr(store, tmp_path / "zarr")
    (tmp_path / "zarr/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        export_zarr(store, tmp_path / "zarr")
    assert (tmp_path / "zarr/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "place", ["store", "store/", "store/zarr", "store/cases/blobs", ".", "link", "file://{}/store"]
)
def test_a_store_is_not_exported_onto_itself(store: Store, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    before = content(tmp_path / "store")
    address = place.format(tmp_path) if "://" in place else os.path.join(tmp_path, place)
    with pytest.raises(ValueError, match="lie in each other"):
        export_zarr(store, address)
    assert content(tmp_path / "store") == before


def test_an_export_is_not_exported_onto_itself(store: Store, tmp_path: Path) -> None:
    export_zarr(store, tmp_path / "zarr")
    before = content(tmp_path / "zarr")
    with pytest.raises(ValueError, match="lie in each other"):
        export_zarr(open_zarr_store(tmp_path / "zarr"), tmp_path / "zarr")
    assert content(tmp_path / "zarr") == before
    export_zarr(open_zarr_store(tmp_path / "zarr"), tmp_path / "second")
    np.testing.assert_array_equal(open_zarr_store(tmp_path / "second")["blobs/a"].read(), store["blobs/a"].read())


def test_an_earlier_export_is_replaced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "zarr").mkdir()
    export_zarr(store, tmp_path / "zarr", chunk_size=4)
    export_zarr(Store.from_parts(store.datasets, [store["blobs/b"].line], store.source), tmp_path / "zarr")
    assert [case.key for case in open_zarr_store(tmp_path / "zarr")] == ["blobs/b"]
    assert not (tmp_path / "zarr/cases/blobs/a").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "store", "zarr"], "nothing is left beside it"


def test_an_export_by_several_threads_is_the_same(store: Store, tmp_path: Path) -> None:
    export_zarr(store, tmp_path / "one")
    export_zarr(store, tmp_path / "several", workers=3)
    assert content(tmp_path / "several") == content(tmp_path / "one")


def test_an_export_that_fails_does_not_go_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def fail(group: object, case: StoreCase, *_: int) -> str:
        begun.append(case.name)
        raise ValueError(f"{case.name} cannot be written")

    monkeypatch.setattr("promptseg.data.store_zarr._write_case", fail)
    many = Store.from_parts(store.datasets, [store["blobs/a"].line] + 200 * [store["blobs/b"].line], store.source)
    with pytest.raises(ValueError, match="a cannot be written"):
        export_zarr(many, tmp_path / "zarr", workers=2)
    assert len(begun) < 100
    assert not (tmp_path / "zarr").exists()


def test_an_interrupted_export_leaves_the_earlier_one(store: Store, tmp_path: Path) -> None:
    export_zarr(store, tmp_path / "zarr")
    before = content(tmp_path / "zarr")
    with pytest.raises(KeyboardInterrupt):
        export_zarr(store, tmp_path / "zarr", chunk_size=4, progress=stop)
    assert content(tmp_path / "zarr") == before
    with pytest.raises(KeyboardInterrupt):
        export_zarr(store, tmp_path / "new", progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "store", "zarr"]


def test_a_full_disk_leaves_the_earlier_export(store: Store, tmp_path: Path) -> None:
    def full_disk(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    export_zarr(store, tmp_path / "zarr")
    before = content(tmp_path / "zarr")
    with pytest.raises(OSError, match="no room on the disk of .*zarr"):
        export_zarr(store, tmp_path / "zarr", progress=full_disk)
    assert content(tmp_path / "zarr") == before


def test_what_a_killed_export_left_is_cleared_away(store: Store, tmp_path: Path) -> None:
    export_zarr(store, tmp_path / "zarr")
    shutil.copytree(tmp_path / "zarr", tmp_path / ".zarr.promptseg-draft")
    os.rename(tmp_path / "zarr", tmp_path / ".zarr.promptseg-replaced")  # killed between the two renames
    with pytest.raises(KeyboardInterrupt):
        export_zarr(store, tmp_path / "zarr", progress=stop)
    assert open_zarr_store(tmp_path / "zarr").verify() == {}
    export_zarr(store, tmp_path / "zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "store", "zarr"]


def test_two_exports_do_not_write_at_once(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    seen: list[int] = []

    def second(*_: int) -> None:
        with pytest.raises(ValueError, match="another export is writing"):
            export_zarr(store, tmp_path / "zarr")
        seen.append(1)

    export_zarr(store, tmp_path / "zarr", progress=second)
    assert len(seen) == 2
    assert open_zarr_store(tmp_path / "zarr").verify() == {}


def test_a_damaged_store_is_not_exported(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store/cases/blobs/b/image.b2nd"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"image\.b2nd of blobs/b .* is damaged"):
        export_zarr(store, tmp_path / "zarr")
    assert not (tmp_path / "zarr").exists()


def test_an_object_store_is_written_with_the_same_care(store: Store, tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    try:
        files.pipe("/bucket/mine/thesis.txt", b"years")
        with pytest.raises(ValueError, match=r"'thesis\.txt'"):
            export_zarr(store, "memory://bucket/mine")
        assert files.cat("/bucket/mine/thesis.txt") == b"years"
        export_zarr(store, "memory://bucket/zarr")
        source = open_zarr_store("memory://bucket/zarr")
        for place in ("memory://bucket/zarr", "memory://bucket/zarr/in", "memory://bucket"):
            with pytest.raises(ValueError, match="lie in each other"):
                export_zarr(source, place)
        with pytest.raises(KeyboardInterrupt):
            export_zarr(store, "memory://bucket/zarr", progress=stop)
        with pytest.raises(ValueError, match="was interrupted"):
            open_zarr_store("memory://bucket/zarr")
        only = Store.from_parts(store.datasets, [store["blobs/b"].line], store.source)
        export_zarr(only, "memory://bucket/zarr")
        assert open_zarr_store("memory://bucket/zarr").verify() == {}
        assert not files.exists("/bucket/zarr/cases/blobs/a")
    finally:
        files.rm("/bucket", recursive=True)
