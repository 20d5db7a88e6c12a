"""Reading and writing weights as data: nothing in a checkpoint is ever executed.

Our own weights are safetensors. Foreign pickles (``.pth``, ``.pt``, ``.bin``, ``.ckpt``) are read only where the caller
asks for it, through torch's restricted unpickler with the short allow-list below. What is read is compared with the
module before anything is copied, and every difference is listed by key in one error.
"""

from __future__ import annotations

import argparse
import pickle
import re
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED_GLOBALS: tuple[Any, ...] = (
    argparse.Namespace,  # training scripts store their arguments beside the weights
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),  # and their losses and scores, named by numpy 1 and 2
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")),
)
"""What a pickle may name beyond torch's own tensors and containers; each only holds data."""
STATE_DICT_KEYS = ("model_state_dict", "state_dict", "model")
"""Entries under which training scripts keep the weights, in the order tried."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile leave on keys."""
MAX_LISTED = 12
"""Keys listed for each kind of difference; the rest are counted."""


@dataclass(frozen=True)
class KeyMigration:
    r"""Renames that a release made; applied to the checkpoints of earlier ones.

    Attributes:
        release: the release that renamed.
        renames: pairs of a regular expression and its replacement, tried in order on each key, the first match applied.
        removed: regular expressions of keys that this release no longer has.

    Example:
        >>> migration = KeyMigration("0.3.0", renames=((r"^decoder\.", "mask_decoder."),))
        >>> list(migrate_keys({"decoder.weight": torch.zeros(1)}, [migration]))
        ['mask_decoder.weight']
    """

    release: str
    renames: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()


def resolve_inside(folder: str | Path, name: str) -> Path:
    """Path of a file that a configuration or an archive names, which must lie inside a folder.

    Args:
        folder: where it has to be.
        name: a relative path, as found in the data.

    Raises:
        ValueError: for an absolute path, a drive, ``..``, a NUL, or a link that leads outside.
    """
    folder = Path(folder)
    if not name_is_safe(name) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"file name {name!r}: expected a path inside {folder}; refused, as it leads outside of it")
    return folder / name


def name_is_safe(name: str) -> bool:
    """Whether a relative path stays where it starts, on any operating system."""
    if not isinstance(name, str) or not name or "\x00" in name:
        return False
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return not any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in paths)


def read_tensors(path: str | Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint file onto the CPU.

    Args:
        path: a ``.safetensors`` file; or, if allowed, a pickled one.
        allow_pickle: read pickles through the restricted unpickler; the state dict is looked for under
            :data:`STATE_DICT_KEYS` and prefixes of wrappers are stripped.

    Returns:
        Key to tensor.

    Raises:
        ValueError: if it is missing, damaged, not a checkpoint, or names anything that is not on the allow-list.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: {'is a folder, expected a file' if path.is_dir() else 'no such file'}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"checkpoint {path}: not a readable safetensors file ({error}); fetch it again") from error
    if path.suffix not in PICKLE_SUFFIXES:
        raise ValueError(f"checkpoint {path}: expected .safetensors or one of {', '.join(PICKLE_SUFFIXES)}")
    if not allow_pickle:
        raise ValueError(
            f"checkpoint {path}: a pickle can carry code, so only .safetensors is loaded here; "
            "convert it once, e.g. `promptseg convert sam-med3d CKPT.pth -o DIR`"
        )
    return strip_wrapper_prefixes(find_state_dict(_unpickle(path), str(path)), str(path))


def _unpickle(path: Path) -> Any:
    """Content of a pickled checkpoint, by the restricted unpickler."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            unsafe = [name for name in archive.namelist() if not name_is_safe(name)]
        if unsafe:
            raise ValueError(f"checkpoint {path}: refused, its archive names files outside it: {unsafe[:MAX_LISTED]}")
    try:
        with torch.serialization.safe_globals(list(ALLOWED_GLOBALS)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        named = re.findall(r"GLOBAL ([\w.]+)", str(error)) or re.findall(r"`([\w.]+)`", str(error))
        what = f"it names {named[0]!r}, which" if named else "it holds something that"
        raise ValueError(
            f"checkpoint {path}: refused, {what} is not tensors or plain data, and loading it could run code. "
            "Nothing was executed. Ask its author for safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path}: not a readable PyTorch checkpoint ({reason}); fetch it again") from error


def find_state_dict(content: Any, source: str) -> dict[str, Tensor]:
    """The mapping from key to tensor inside what a training script saved.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(content, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping):
                return find_state_dict(content[key], source)
        if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
            return {k: v.detach() for k, v in content.items()}
        found = f"a mapping with {', '.join(repr(str(k)) for k in list(content)[:MAX_LISTED]) or 'no entries'}"
    else:
        found = f"a {type(content).__name__}"
    raise ValueError(
        f"checkpoint {source}: no state dict in it; expected keys with tensors, at the top or under "
        f"{', '.join(STATE_DICT_KEYS)}; found {found}"
    )


def strip_wrapper_prefixes(tensors: Mapping[str, Tensor], source: str = "checkpoint") -> dict[str, Tensor]:
    """Removes :data:`WRAPPER_PREFIXES`, also repeated and inside of keys.

    Raises:
        ValueError: if two keys become one.
    """
    stripped: dict[str, Tensor] = {}
    pattern = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod\.)+|^(?:module\.|_orig_mod\.)+")
    for key, tensor in tensors.items():
        short = pattern.sub("", key)
        if short in stripped:
            raise ValueError(f"{source}: two keys become {short!r} without {' and '.join(WRAPPER_PREFIXES)}")
        stripped[short] = tensor
    return stripped


def migrate_keys(tensors: Mapping[str, Tensor], migrations: Iterable[KeyMigration]) -> dict[str, Tensor]:
    """Brings the keys of an earlier release's checkpoint to today's, release by release.

    Raises:
        ValueError: if a rename meets a key that is there already.
    """
    current = dict(tensors)
    for migration in migrations:
        renamed: dict[str, Tensor] = {}
        for key, tensor in current.items():
            if any(re.search(pattern, key) for pattern in migration.removed):
                continue
            for pattern, replacement in migration.renames:
                if re.search(pattern, key):
                    key = re.sub(pattern, replacement, key)
                    break
            if key in renamed:
                raise ValueError(f"key migration of release {migration.release}: two keys become {key!r}")
            renamed[key] = tensor
        current = renamed
    return current


def list_differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Every way in which tensors do not fit, one line each kind, by key: missing, unexpected, shape, dtype.

    Floating dtypes fit each other (they are converted on copying); floating and integer ones do not.
    """
    shared = [key for key in expected if key in found]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "shape": [
            f"{key} is {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
            for key in shared
            if found[key].shape != expected[key].shape
        ],
        "dtype": [
            f"{key} is {_dtype_name(found[key])}, expected {_dtype_name(expected[key])}"
            for key in shared
            if found[key].dtype != expected[key].dtype
            and not (found[key].is_floating_point() and expected[key].is_floating_point())
        ],
    }
    lines = []
    for kind, items in kinds.items():
        if items:
            rest = f", and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
            lines.append(f"{kind} ({len(items)}): {', '.join(items[:MAX_LISTED])}{rest}")
    return lines


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    migrations: Sequence[KeyMigration] = (),
) -> None:
    """Copies tensors into a module after checking that all of them fit.

    Args:
        module: to fill; unchanged if anything does not fit.
        tensors: key to tensor.
        source: where they came from, for the error.
        migrations: renames to apply where the keys are not today's.

    Raises:
        ValueError: with every difference, by key.
    """
    expected = module.state_dict()
    found: Mapping[str, Tensor] = tensors
    if migrations and set(found) != set(expected):
        found = migrate_keys(found, migrations)
    differences = list_differences(expected, found)
    if differences:
        raise ValueError(
            f"checkpoint {source} does not fit {type(module).__name__}:\n  "
            + "\n  ".join(differences)
            + "\nLoad it with the architecture and configuration it was saved from."
        )
    module.load_state_dict(dict(found), strict=True)


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes a safetensors file, whole or not at all.

    Args:
        tensors: key to tensor; made contiguous and moved to the CPU; tied ones are written each.
        path: file to write; its folder must exist.
        metadata: strings for the file's header.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    path = Path(path)
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, tensor in tensors.items():
        own[key] = tensor.detach().to("cpu").contiguous()
        if own[key].untyped_storage().data_ptr() in storages:
            own[key] = own[key].clone()
        storages.add(own[key].untyped_storage().data_ptr())
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # that of any new file; safetensors would give it to its owner alone
        save_file(own, temporary, metadata={"format": "pt", **(metadata or {})})
        temporary.chmod(mode)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside a file, put in its place at the end, or removed if anything fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {error}; choose a writable folder with enough space") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
