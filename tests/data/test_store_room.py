"""A full disk ends a run with what is stored whole; it is no fault of the cases."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from promptseg.data import Store, StoreConfig, prepare
from promptseg.data import store_files as writing
from promptseg.data.store_room import NoRoomError, check_room

from .conftest import MakeCatalog

SMALL = StoreConfig(chunk_size=8, block_size=4)


def full_disk(*_: Any, **__: Any) -> None:
    """What the system says."""
    raise OSError(errno.ENOSPC, "No space left on device")


class Disk:
    """A disk that is full after so many arrays, as blosc2 and the system tell of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, arrays: int) -> None:
        self.left = arrays
        self.tried = 0
        real = blosc2.asarray

        def write(array: np.ndarray, urlpath: str, **settings: Any) -> Any:
            self.tried += 1
            self.left -= 1
            if self.left >= 0:
                return real(array, urlpath=urlpath, **settings)  # type: ignore[arg-type]
            Path(urlpath).write_bytes(b"half of it")
            raise RuntimeError("Error while creating the NDArray")

        monkeypatch.setattr(blosc2, "asarray", write)
        monkeypatch.setattr(writing, "check_room", full_disk)


def test_a_full_disk_stops_the_run_and_leaves_whole_cases(
    make_catalog: MakeCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = make_catalog(count=5)
    with monkeypatch.context() as patch:
        disk = Disk(patch, arrays=5)  # two cases, and half of the third
        with pytest.raises(NoRoomError, match=r"no room on the disk of .*store: what it holds is whole"):
            prepare([catalog], tmp_path / "store", config=SMALL)
    assert disk.tried == 6, "the other cases were not tried"
    store = Store(tmp_path / "store")
    assert [case.key for case in store] == ["blobs/p00", "blobs/p01"]
    assert store.verify() == {}
    assert (tmp_path / "store/rejected.jsonl").read_text() == ""
    assert sorted(p.name for p in (tmp_path / "store/cases/blobs").iterdir()) == ["p00", "p01"]
    assert not list(tmp_path.rglob("*.draft"))
    assert not (tmp_path / "store/.drafts").exists()
    report = prepare([catalog], tmp_path / "store", config=SMALL)
    assert (len(report.prepared), len(report.kept)) == (3, 2)


def test_an_earlier_version_of_a_case_stays(
    make_catalog: MakeCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = make_catalog()
    prepare([catalog], tmp_path / "store", config=SMALL)
    Disk(monkeypatch, arrays=0)
    with pytest.raises(NoRoomError):
        prepare([catalog], tmp_path / "store", config=StoreConfig(chunk_size=4, block_size=2))
    assert len(Store(tmp_path / "store")) == 3
    assert Store(tmp_path / "store").verify() == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)])
def test_a_full_disk_is_told_wherever_it_shows(
    make_catalog: MakeCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(NoRoomError):
        prepare([make_catalog()], tmp_path / "store", config=SMALL)
    assert not list(tmp_path.rglob("*.draft"))


def test_another_failure_of_a_write_is_the_case_s_own(
    make_catalog: MakeCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, arrays=2)
    monkeypatch.setattr(writing, "check_room", check_room)  # which finds room
    report = prepare([make_catalog()], tmp_path / "store", config=SMALL)
    assert report.prepared == ("blobs/p00",)
    assert [reason for _, reason in report.rejected] == ["RuntimeError: Error while creating the NDArray"] * 2


def test_looking_for_room_leaves_nothing(tmp_path: Path) -> None:
    check_room(tmp_path / "image.b2nd", np.zeros((30, 20, 10), np.float32)[:, ::2])
    assert list(tmp_path.iterdir()) == []
    if Path("/dev/full").exists():
        (tmp_path / "image.b2nd.probe").symlink_to("/dev/full")
        with pytest.raises(OSError) as caught:
            check_room(tmp_path / "image.b2nd", np.zeros(3))
        assert caught.value.errno == errno.ENOSPC
