"""Files are complete or not there: whatever stops a write, what was there before stays."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from promptseg.io import atomic_path, read_volume, write_volume

from ..conftest import make_array

SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"]


def files(folder: Path) -> list[str]:
    """Every file and folder below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def run_python(code: str, *arguments: object) -> str:
    """Runs a program in a process of its own and returns what it printed."""
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    for text in ("first", "second"):
        with atomic_path(target) as partial:
            assert partial.name == target.name
            partial.write_text(text, encoding="utf-8")
            assert not target.exists() or target.read_text(encoding="utf-8") == "first"
        assert target.read_text(encoding="utf-8") == text
        assert files(tmp_path) == ["note.txt"]


def test_a_file_written_beside_it_comes_along(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "image.mhd") as partial:
        partial.write_text("header", encoding="utf-8")
        partial.with_suffix(".raw").write_bytes(b"voxels")
    assert files(tmp_path) == ["image.mhd", "image.raw"]


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt(), OSError(errno.EIO, "bad sector")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "note.txt"
    target.write_text("before", encoding="utf-8")
    with pytest.raises(type(error)), atomic_path(target) as partial:
        partial.write_text("half", encoding="utf-8")
        raise error
    assert target.read_text(encoding="utf-8") == "before"
    assert files(tmp_path) == ["note.txt"]


def test_files_are_flushed_as_windows_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a descriptor that is only read from cannot be flushed, so that no file at all could be written."""
    fcntl = pytest.importorskip("fcntl")
    flushed = []

    def commit(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", commit)
    with atomic_path(tmp_path / "note.txt") as partial:
        partial.write_text("complete", encoding="utf-8")
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "complete"
    assert len(flushed) == 1


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"note\.txt"), atomic_path(tmp_path / "note.txt"):
        pass
    assert files(tmp_path) == []


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real = tmp_path / "store" / "real.txt"
    real.write_text("before", encoding="utf-8")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    with atomic_path(link) as partial:
        partial.write_text("after", encoding="utf-8")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "after"


def test_places_that_cannot_hold_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    bad = {
        tmp_path / "nowhere" / "mask.nii": "does not exist; make the folder",
        tmp_path / "file" / "mask.nii": "is a file",
        tmp_path / "folder": "is a folder; give the name of a file in it",
        Path("/dev/full"): "is a device",
    }
    before = files(tmp_path)
    for path, expected in bad.items():
        with pytest.raises(ValueError, match=expected) as caught, atomic_path(path):
            raise AssertionError("the block must not run")
        assert str(path) in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("limit", [0, 200, 3000])
def test_no_room_leaves_no_part(tmp_path: Path, suffix: str, limit: int) -> None:
    """A limit on the size of files stands in for a disk with no room: the write fails halfway."""
    pytest.importorskip("resource")
    target = tmp_path / f"mask{suffix}"
    write_volume(target, make_array(), np.eye(4))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    code = """
        import resource, sys
        import numpy as np
        from promptseg.io import write_volume
        limit = int(sys.argv[2])
        noise = np.random.default_rng(0).normal(size=(20, 20, 20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_volume(sys.argv[1], noise, np.eye(4))
        except OSError as error:
            print(error)
    """
    message = run_python(code, target, limit)
    assert f"mask{suffix}: " in message
    assert re.search("nothing was written|nothing is left|full", message)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_permission_is_said_in_words(tmp_path: Path, suffix: str) -> None:
    """By a process that gave up its rights, for root may write anywhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can give up its rights")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    code = """
        import os, sys
        import numpy as np
        from promptseg.io import write_volume
        import promptseg.io.itk, promptseg.io.nifti, SimpleITK
        os.setgid(65534)
        os.setuid(65534)
        try:
            write_volume(sys.argv[1], np.ones((2, 3, 4), np.uint8), np.eye(4))
        except ValueError as error:
            print(error)
    """
    target = locked / f"mask{suffix}"
    assert run_python(code, target) == (f"{target}: no permission to write in {str(locked)!r}; choose another folder")
    assert files(locked) == []


def test_a_folder_of_the_system_refuses_even_root() -> None:
    if not Path("/sys/kernel").is_dir():
        pytest.skip("no /sys here")
    with pytest.raises(ValueError, match="no permission to write in '/sys/kernel'"):
        write_volume("/sys/kernel/mask.nii", make_array(), np.eye(4))


def test_readers_see_the_old_or_the_new_file(tmp_path: Path) -> None:
    """While one thread writes again and again, every read finds one of the two, whole."""
    target = tmp_path / "mask.nii"
    contents = [np.full((30, 30, 30), n, np.uint8) for n in (1, 2)]
    write_volume(target, contents[0], np.eye(4))
    done = threading.Event()
    found: set[tuple[int, ...]] = set()

    def read() -> None:
        while not done.is_set():
            found.add(tuple(np.unique(read_volume(target).array)))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(30):
        write_volume(target, contents[n % 2], np.eye(4))
    done.set()
    reader.join()
    assert found <= {(1,), (2,)}
