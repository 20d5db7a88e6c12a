"""Loading weights never runs code, and says by key what does not fit."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from promptseg.safe_loading import (
    KeyMigration,
    list_differences,
    load_into,
    migrate_keys,
    name_is_safe,
    read_tensors,
    replacing,
    resolve_inside,
    save_tensors,
    strip_wrapper_prefixes,
)


class RunsCode:
    """Unpickled the ordinary way, this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("place", ["top", "beside the weights", "in the state dict"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, is_zip: bool, place: str) -> None:
    marker = tmp_path / "marker"
    attack = RunsCode(marker)
    content = {
        "top": attack,
        "beside the weights": {"model_state_dict": {"w": torch.zeros(2)}, "args": attack},
        "in the state dict": {"w": torch.zeros(2), "v": attack},
    }[place]
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"refused.*mkdir.*Nothing was executed") as error:
        read_tensors(path, allow_pickle=True)
    assert str(path) in str(error.value)
    assert not marker.exists()
    if place == "top":  # the attack is real
        stream = io.BytesIO(pickle.dumps(attack))
        pickle.load(stream)
        assert marker.exists()


def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps(RunsCode(marker)))
    with pytest.raises(ValueError):
        read_tensors(path, allow_pickle=True)
    assert not marker.exists()


def test_pickles_are_not_read_unless_asked_for(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"safetensors.*promptseg convert"):
        read_tensors(tmp_path / "weights.pth")


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", None])
def test_training_checkpoints_with_plain_data_are_read(tmp_path: Path, key: str | None) -> None:
    weights = OrderedDict({"module.a": torch.arange(3.0), "module.b": nn.Parameter(torch.ones(2))})
    extras = {
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-3),
        "best": np.float64(0.5),
        "step": np.int64(7),
        "scores": [np.float32(1)],
    }
    content = weights if key is None else {key: weights, **extras}
    torch.save(content, tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth", allow_pickle=True)
    assert list(found) == ["a", "b"]
    assert torch.equal(found["a"], torch.arange(3.0)) and not found["b"].requires_grad


def test_an_archive_with_names_outside_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../outside.txt", "x")
    with pytest.raises(ValueError, match=r"refused.*\.\./\.\./outside"):
        read_tensors(path, allow_pickle=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save({"w": torch.zeros(1000)}, path)
    else:
        save_tensors({"w": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404</html>"}[damage])
    with pytest.raises(ValueError, match=r"not a readable.*fetch it again|refused") as error:
        read_tensors(path, allow_pickle=True)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.safetensors", "no such file"), ("folder.safetensors", "folder"), ("image.png", "expected .safetensors")],
)
def test_what_is_not_a_checkpoint_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "image.png").write_bytes(b"png")
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, {"w": torch.zeros(1), "epoch": 3}])
def test_a_checkpoint_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="no state dict"):
        read_tensors(tmp_path / "weights.pt", allow_pickle=True)


def test_wrapper_prefixes_are_stripped_and_collisions_refused() -> None:
    one = torch.zeros(1)
    wrapped = ("module.module.a", "_orig_mod.b", "c._orig_mod.d", "e.module.f")
    stripped = strip_wrapper_prefixes(dict.fromkeys(wrapped, one))
    assert list(stripped) == ["a", "b", "c.d", "e.module.f"]
    with pytest.raises(ValueError, match="'a'"):
        strip_wrapper_prefixes({"module.a": one, "a": one})


def small_module() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    nn.init.constant_(module[0].weight, 1.0)  # type: ignore[arg-type]
    return module


def test_every_difference_is_listed_by_key_and_nothing_is_copied() -> None:
    module = small_module()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    tensors = {k: v + 1 for k, v in module.state_dict().items()}
    tensors["0.weight"] = torch.zeros(4, 2)
    tensors["1.num_batches_tracked"] = torch.tensor(0.5)
    tensors["head.weight"] = tensors.pop("0.bias")
    with pytest.raises(ValueError) as error:
        load_into(module, tensors, "my.safetensors")
    for part in (
        "my.safetensors does not fit Sequential",
        "missing (1): 0.bias",
        "unexpected (1): head.weight",
        "shape (1): 0.weight is (4, 2), expected (3, 2)",
        "dtype (1): 1.num_batches_tracked is float32, expected int64",
    ):
        assert part in str(error.value)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_long_lists_are_cut_and_counted() -> None:
    lines = list_differences({str(i): torch.zeros(1) for i in range(100)}, {})
    assert len(lines) == 1 and "missing (100)" in lines[0] and "and 88 more" in lines[0]


def test_half_precision_fits_and_is_converted() -> None:
    module = small_module()
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    load_into(module, half, "x")
    assert module.state_dict()["0.weight"].dtype == torch.float32


def test_migrations_bring_old_keys_to_today() -> None:
    migrations = [
        KeyMigration("0.2.0", renames=((r"^first\.", "0."),), removed=(r"^unused\.",)),
        KeyMigration("0.3.0", renames=((r"^norm\.(.*)$", r"1.\1"), (r"^1\.", "never."))),
    ]
    module = small_module()
    today = module.state_dict()
    old = {k.replace("0.", "first.").replace("1.", "norm."): v + 1 for k, v in today.items()}
    old["unused.x"] = torch.ones(1)
    load_into(module, old, "old", migrations)
    assert torch.equal(module.state_dict()["0.weight"], old["first.weight"])
    load_into(module, dict(module.state_dict()), "new", migrations)  # today's keys are left alone
    with pytest.raises(ValueError, match=r"0\.2\.0.*'0\.weight'"):
        migrate_keys({"first.weight": torch.ones(1), "0.weight": torch.ones(1)}, migrations)


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "..\\x", "\\\\host\\x", "C:x", "", "a\x00b", "\\x"]
)
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="refused"):
        resolve_inside(tmp_path, name)


def test_links_that_lead_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="refused"):
        resolve_inside(tmp_path / "in", "link")
    assert resolve_inside(tmp_path / "in", "a/b.safetensors") == tmp_path / "in" / "a" / "b.safetensors"


@given(st.text(alphabet="ab./\\:~\x00 ", max_size=12))
def test_a_safe_name_stays_inside(name: str) -> None:
    if name_is_safe(name):
        joined = Path(os.path.normpath(Path("/root/folder") / name))
        assert joined.is_relative_to("/root/folder")


def test_tensors_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = save_tensors({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "w.safetensors", {"release": "0.1.0"})
    assert torch.equal(read_tensors(path)["a"], torch.arange(6.0).reshape(2, 3).T)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("half way")
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="cannot write"):
        save_tensors({"a": torch.zeros(1)}, path / "below_a_file.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_tied_weights_are_written_under_each_name(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    found = read_tensors(save_tensors({"a": shared, "b": shared, "c": shared[1:]}, tmp_path / "w.safetensors"))
    assert torch.equal(found["a"], shared) and torch.equal(found["b"], shared) and torch.equal(found["c"], shared[1:])
