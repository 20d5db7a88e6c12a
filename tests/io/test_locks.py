from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from promptseg.io.locks import locked

fcntl = pytest.importorskip("fcntl")


def test_one_at_a_time_holds_a_folder_and_many_share_it(tmp_path: Path) -> None:
    with locked(tmp_path) as descriptor:
        assert descriptor is not None
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    with locked(tmp_path / "file", is_shared=True), locked(tmp_path / "file", is_shared=True):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refused(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    for path in (tmp_path, tmp_path / "file"):
        with locked(path) as descriptor:
            assert descriptor is None
    assert caplog.text.count(f"{tmp_path} is on a file system without locks: do not start a second run there") == 1


def test_another_error_is_not_taken_for_a_file_system_without_locks(tmp_path: Path, monkeypatch) -> None:
    def fails(*_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match="broken"), locked(tmp_path):
        pass
