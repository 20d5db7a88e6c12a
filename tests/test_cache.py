"""Embedding caches: bounded, verified, shared; whatever is wrong on disk is replaced and never used."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from promptseg.cache import DiskCache, EmbeddingCache, _disk_key, default_disk_dir
from promptseg.models import ImageEmbedding
from promptseg.tiles import TileKey


def make_embedding(seed: int = 0, dtype: torch.dtype = torch.float32) -> ImageEmbedding:
    """As a model of three channels makes it of a tile of 16 voxels."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    skips = (noise(1, 2, 8, 8, 8), noise(1, 3, 4, 4, 4), noise(1, 3, 2, 2, 2))
    return ImageEmbedding(noise(1, 3, 1, 1, 1), skips, noise(1, 1, 16, 16, 16), torch.ones(1, 3))


def assert_equal(first: ImageEmbedding | None, second: ImageEmbedding) -> None:
    assert first is not None
    assert first.tensors().keys() == second.tensors().keys()
    for name, tensor in second.tensors().items():
        assert first.tensors()[name].dtype == tensor.dtype
        assert torch.equal(first.tensors()[name], tensor), name


TILES = [TileKey(0, (n, 0, 0)) for n in range(8)]
BYTES = make_embedding().num_bytes


def test_memory_keeps_the_most_recently_used_within_its_bound() -> None:
    cache = EmbeddingCache(max_bytes=3 * BYTES + 1)
    for n, tile in enumerate(TILES[:3]):
        cache.put("image", tile, make_embedding(n))
    assert_equal(cache.get("image", TILES[0]), make_embedding(0))  # so that the second is the oldest
    cache.put("image", TILES[3], make_embedding(3))
    assert len(cache) == 3
    assert cache.num_bytes <= cache.max_bytes
    assert cache.get("image", TILES[1]) is None
    assert cache.has("image", TILES[0])
    assert not cache.has("image", TILES[1])
    assert (cache.stats.memory_hits, cache.stats.misses) == (1, 1)


def test_an_entry_larger_than_the_bound_is_kept_alone() -> None:
    cache = EmbeddingCache(max_bytes=10)
    for n in range(3):
        cache.put("image", TILES[n], make_embedding(n))
    assert len(cache) == 1
    assert_equal(cache.get("image", TILES[2]), make_embedding(2))


def test_another_image_or_model_is_not_mixed_up() -> None:
    cache = EmbeddingCache()
    cache.put("first", TILES[0], make_embedding(1))
    assert cache.get("second", TILES[0]) is None
    cache.put("first", TILES[0], make_embedding(2))  # again: replaced, and counted once
    assert cache.num_bytes == BYTES
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_disk_outlives_the_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    first = EmbeddingCache(disk=DiskCache(tmp_path))
    first.put("image", TILES[0], make_embedding(dtype=dtype))
    second = EmbeddingCache(disk=DiskCache(tmp_path))
    assert second.has("image", TILES[0])
    for _ in range(2):
        assert_equal(second.get("image", TILES[0]), make_embedding(dtype=dtype))
    assert (second.stats.disk_hits, second.stats.memory_hits) == (1, 1)
    assert second.get("image", TILES[1]) is None
    second.clear()
    assert_equal(second.get("image", TILES[0]), make_embedding(dtype=dtype))


def test_entries_from_disk_are_brought_to_the_model(tmp_path: Path) -> None:
    """Without a GPU at hand, the device that has no memory stands in for it."""
    EmbeddingCache(disk=DiskCache(tmp_path)).put("image", TILES[0], make_embedding())
    cache = EmbeddingCache(disk=DiskCache(tmp_path), device="meta")
    for _ in range(2):  # from disk, and from memory
        found = cache.get("image", TILES[0])
        assert found is not None
        assert {tensor.device.type for tensor in found.tensors().values()} == {"meta"}


@pytest.mark.skipif(os.name != "posix", reason="files have no modes")
def test_entries_can_be_read_by_whom_new_files_can(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        DiskCache(tmp_path).write("key", make_embedding())
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


def rewrite(path: Path, change_key: str | None = None, change_tensor: bool = False, drop: bool = False) -> None:
    """Writes an entry again with something in it changed, as a well-formed file."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_key:
        metadata[change_key] = "other"
    if change_tensor:
        tensors["tokens"] = tensors["tokens"] + 1
    if drop:
        del tensors["skip1"]
    save_file(tensors, path, metadata=metadata)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "empty": lambda p: p.write_bytes(b""),
    "garbage": lambda p: p.write_bytes(os.urandom(500)),
    "a flipped bit": flip_bit,
    "of another image": lambda p: rewrite(p, change_key="key"),
    "of another version": lambda p: rewrite(p, change_key="format"),
    "changed tensors": lambda p: rewrite(p, change_tensor=True),
    "a missing tensor": lambda p: rewrite(p, drop=True),
    "foreign tensors": lambda p: save_file({"weight": torch.ones(3)}, p),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_entries_are_not_used_and_are_replaced(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    EmbeddingCache(disk=DiskCache(tmp_path)).put("image", TILES[0], make_embedding())
    (path,) = tmp_path.glob("*.safetensors")
    DAMAGES[damage](path)
    cache = EmbeddingCache(disk=DiskCache(tmp_path))
    assert cache.get("image", TILES[0]) is None
    assert (cache.stats.rejected, cache.stats.misses) == (1, 1)
    assert "is ignored and will be replaced" in caplog.text
    cache.put("image", TILES[0], make_embedding(5))
    again = EmbeddingCache(disk=DiskCache(tmp_path))
    assert_equal(again.get("image", TILES[0]), make_embedding(5))
    assert again.stats.rejected == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_folder_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    DiskCache(tmp_path).write("measure", make_embedding())
    size = DiskCache(tmp_path).clear()
    disk = DiskCache(tmp_path, max_bytes=3 * size + size // 2)
    for n in range(3):
        disk.write(f"key {n}", make_embedding(n))
        os.utime(disk._path(f"key {n}"), (1000 + n, 1000 + n))
    assert disk.read("key 0")[0] is not None  # used now, so no longer the oldest
    disk.write("key 3", make_embedding(3))
    assert disk.num_bytes <= disk.max_bytes
    assert disk.read("key 1") == (None, False)
    assert all(disk.read(f"key {n}")[0] is not None for n in (0, 2, 3))
    assert disk.clear() == 3 * size
    assert disk.entries() == []


def test_an_entry_larger_than_the_folder_may_be_is_not_kept(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path, max_bytes=100)
    disk.write("key", make_embedding())
    assert disk.num_bytes <= 100


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "tmpabc.tmp"
    leftover.write_bytes(b"half an entry")
    os.utime(leftover, (1000, 1000))
    fresh = tmp_path / "tmpdef.tmp"  # may be another process's, which is writing it now
    fresh.write_bytes(b"half an entry")
    disk = DiskCache(tmp_path)
    disk.write("key", make_embedding())
    assert not leftover.exists()
    assert fresh.exists()
    disk.clear()
    assert disk.entries() == []


def test_a_full_disk_costs_the_entry_and_not_the_result(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    pytest.importorskip("resource")
    code = """
        import logging, resource, sys, torch
        from promptseg.cache import DiskCache, EmbeddingCache
        from promptseg.models import ImageEmbedding
        from promptseg.tiles import TileKey
        logging.basicConfig(stream=sys.stdout)
        skips = tuple(torch.ones(1, 2, n, n, n) for n in (8, 4, 2))
        embedding = ImageEmbedding(torch.ones(1, 3, 1, 1, 1), skips, torch.ones(1, 1, 16, 16, 16), torch.ones(1, 3))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        cache = EmbeddingCache(disk=DiskCache(sys.argv[1]))
        cache.put("image", TileKey(0, (0, 0, 0)), embedding)
        assert cache.get("image", TileKey(0, (0, 0, 0))) is embedding
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "free some space or choose another folder" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be made.*choose a writable folder") as caught:
        DiskCache(tmp_path / "file" / "cache")
    assert str(tmp_path / "file" / "cache") in str(caught.value)


WRITER = """
    import sys, torch
    from promptseg.cache import DiskCache
    from promptseg.models import ImageEmbedding
    disk = DiskCache(sys.argv[1], max_bytes=int(sys.argv[2]))
    seen = 0
    for n in range(60):
        value = float(n % 5)
        skips = tuple(torch.full((1, 2, s, s, s), value) for s in (8, 4, 2))
        image = torch.full((1, 1, 16, 16, 16), value)
        embedding = ImageEmbedding(torch.full((1, 3, 1, 1, 1), value), skips, image, torch.ones(1, 3))
        disk.write(f"key {n % 5}", embedding)
        found, was_bad = disk.read(f"key {(n + 2) % 5}")
        assert not was_bad
        if found is not None:
            seen += 1
            assert float(found.image.min()) == float(found.tokens.max()) == (n + 2) % 5
    print(seen)
"""


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Both write, read and delete the same few entries; neither ever sees half of one."""
    words = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), str(100_000)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert int(out) > 10
        assert "ignored" not in err
    assert not list(tmp_path.glob("*.tmp"))


def test_an_entry_that_vanishes_while_it_is_opened_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(tmp_path)
    cache.write("key", make_embedding(1))

    def open_too_late(path: Path, **_: str) -> None:
        path.unlink()
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr("safetensors.safe_open", open_too_late)
    assert cache.read("key") == (None, False)
    assert not caplog.records


def test_threads_share_the_memory() -> None:
    cache = EmbeddingCache(max_bytes=4 * BYTES)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for n in range(200):
                tile = TILES[(n * seed) % 8]
                cache.put("image", tile, make_embedding(tile.place[0]))
                found = cache.get("image", TILES[n % 8])
                if found is not None:
                    assert_equal(found, make_embedding(n % 8))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert cache.num_bytes <= cache.max_bytes


def test_the_default_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTSEG_CACHE", str(tmp_path / "own"))
    assert default_disk_dir() == tmp_path / "own"
    monkeypatch.delenv("PROMPTSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_disk_dir() == tmp_path / "promptseg"


def test_moved_tiles_have_entries_of_their_own_and_those_of_earlier_releases_stay(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path)
    cache = EmbeddingCache(disk=disk)
    tile = TileKey(1, (0, 2, 1))
    for number, moved in enumerate((tile, tile.moved(2), tile.moved(-2))):
        cache.put("image", moved, make_embedding(number))
    again = EmbeddingCache(disk=disk)
    for number, moved in enumerate((tile, tile.moved(2), tile.moved(-2))):
        assert_equal(again.get("image", moved), make_embedding(number))
    assert _disk_key("image", tile) == '["image", 1, 0, 2, 1]'
