"""Files of a case hold what was written, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from promptseg.data.store_case import StoreConfig
from promptseg.data.store_files import damaged_files, file_checksum, write_array


def test_equal_arrays_give_equal_files_whatever_their_memory_order(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 50, (30, 20, 10)).astype(np.int16)
    config = StoreConfig(chunk_size=16, block_size=8)
    for name, version in (("a", array), ("b", np.asfortranarray(array))):
        write_array(tmp_path / f"{name}.b2nd", version, config)
    assert file_checksum(tmp_path / "a.b2nd") == file_checksum(tmp_path / "b.b2nd")


def test_an_array_that_cannot_be_read_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import blosc2

    array = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    monkeypatch.setattr(blosc2, "open", lambda *_, **__: np.zeros_like(array))
    with pytest.raises(ValueError, match="cannot be read back"):
        write_array(tmp_path / "a.b2nd", array, StoreConfig(chunk_size=8, block_size=4))


def test_damage_is_missing_length_or_content(tmp_path: Path) -> None:
    for name in ("missing", "short", "changed", "whole"):
        (tmp_path / name).write_bytes(b"0123456789")
    files = {p.name: {"bytes": 10, "checksum": file_checksum(p)} for p in sorted(tmp_path.iterdir())}
    (tmp_path / "missing").unlink()
    (tmp_path / "short").write_bytes(b"012345678")
    (tmp_path / "changed").write_bytes(b"0123456780")
    assert damaged_files(tmp_path, files) == ["changed", "missing", "short"]
    assert damaged_files(tmp_path, files, thorough=False) == ["missing", "short"]
