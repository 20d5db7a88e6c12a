"""``promptseg cache``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chosen = tmp_path / "cache"
    monkeypatch.setenv("PROMPTSEG_CACHE", str(chosen))
    return chosen


def test_size_of_what_is_not_there(run: Run, folder: Path) -> None:
    outcome = run("cache")
    assert outcome.code == 0
    assert "empty" in outcome.out
    assert not folder.exists()


def test_size_and_clear(run: Run, folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.safetensors").write_bytes(bytes(2048))
    (folder / "notes.txt").write_text("not an embedding", encoding="utf-8")
    assert f"{folder}: 3 embeddings, 6.0 KiB of at most" in run("cache", "size").out
    assert f"{folder}: 3 embeddings deleted, 6.0 KiB freed" in run("cache", "clear").out
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    assert "0 embeddings, 0 B" in run("cache", "--folder", folder).out


def test_a_file_is_not_a_folder(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x", encoding="utf-8")
    outcome = run("cache", "clear", "--folder", path)
    assert outcome.code == 2
    assert "it is a file" in outcome.error
    assert path.exists()
