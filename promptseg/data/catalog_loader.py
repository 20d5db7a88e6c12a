"""Reads a catalog from YAML, or makes one of a ``dataset.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .catalog import Catalog
from .catalog_fields import FIELDS, as_text, build_catalog
from .dataset_json import folder_fields, labels_beside, listed_fields, read_json, root_of_listing

_IN_FOLDER = ("catalog.yaml", "dataset.json")


def find_catalogs(path: str | Path) -> list[Path]:
    """Catalog files that a path means.

    Args:
        path: a file; a data set's folder; or a folder of YAML catalogs or of data sets.

    Returns:
        The file; else ``catalog.yaml`` or ``dataset.json`` of the folder; else its YAML files and those two of each
        folder in it, sorted.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no catalog at {path}: give a YAML catalog, a dataset.json, or a folder of them")
    found = _own_catalog(path)
    if not found:
        found = sorted(path.glob("*.yaml"))
        for folder in sorted(child for child in path.iterdir() if child.is_dir()):
            found += _own_catalog(folder)
    if not found:
        raise ValueError(f"{path} holds no catalog: neither {' nor '.join(_IN_FOLDER)}, nor YAML files, nor data sets")
    return found


def _own_catalog(folder: Path) -> list[Path]:
    return [folder / name for name in _IN_FOLDER if (folder / name).is_file()][:1]


def load_catalog(path: str | Path, root: str | Path | None = None) -> Catalog:
    """Reads a data set's description.

    Args:
        path: a YAML catalog; or the ``dataset.json`` of a Medical Decathlon or nnU-Net folder; or one that lists its
            cases (keys ``cases``, ``labels``, ``licence``).
        root: folder that the paths in it are relative to. Default: the catalog's ``root`` (relative to its own folder),
            else the folder of the file. For a ``dataset.json`` that lists cases: it, or the folder above, whichever
            holds them.

    Returns:
        The catalog; no image is opened.

    Raises:
        ValueError: if the file is missing, is not a catalog, or has a key that is unknown or contradicts another.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no catalog at {path}: give a YAML file such as those in configs/catalogs, or a dataset.json")
    content = read_json(path) if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected keys such as name, licence, images, terms")
    if path.suffix == ".json":
        return _from_dataset_json(path, content, root)
    return _from_yaml(path, content, root)


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        repeated = _repeated_key(yaml.compose(text, yaml.SafeLoader), set())
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if repeated:
        raise ValueError(f"{path}, {repeated}; delete or rename one")
    return content


def _repeated_key(node: Any, seen: set[int]) -> str:
    """Where a key is repeated, of which YAML would silently keep the last; empty if none is."""
    if node is None or id(node) in seen or not isinstance(node.value, list):
        return ""
    seen.add(id(node))
    keys: set[tuple[str, str]] = set()
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        if key is not None and not isinstance(key.value, list):
            if (key.tag, key.value) in keys:
                return f"line {key.start_mark.line + 1}: the key {key.value!r} is there twice"
            keys.add((key.tag, key.value))
        if found := _repeated_key(value, seen):
            return found
    return ""


def _from_yaml(path: Path, content: dict[str, Any], root: str | Path | None) -> Catalog:
    given = dict(content)
    own_root = given.pop("root", None)
    default_root = path.parent / ("" if own_root is None else as_text(f"{path}: root", own_root))
    base = Path(root) if root is not None else default_root
    if unknown := {str(key) for key in given} - FIELDS:
        raise ValueError(f"{path}: unknown keys {sorted(unknown)}; known are root, {', '.join(sorted(FIELDS))}")
    given.setdefault("name", path.stem)
    if given.get("layout") == "dataset_json":
        index = base / as_text(f"{path}: index", given.get("index") or "dataset.json")
        if not index.is_file():
            raise ValueError(f"{path}: no {index}; give the folder that holds the data as root (--root)")
        given = {**listed_fields(index, read_json(index)), **given}
        base = root_of_listing(index.parent, given["listing"])
    elif "terms" not in given:
        given = {**labels_beside(base / "dataset.json"), **given}
    return build_catalog(path, given, base)


def _from_dataset_json(path: Path, content: dict[str, Any], root: str | Path | None) -> Catalog:
    if "cases" in content:
        fields = {**listed_fields(path, content), "layout": "dataset_json", "index": path.name}
        base = root_of_listing(path.parent if root is None else Path(root), fields["listing"])
        return build_catalog(path, fields, base)
    if "labels" not in content:
        raise ValueError(f"{path} lists neither 'cases' nor 'labels': expected a data set's dataset.json")
    base = Path(root) if root is not None else path.parent
    return build_catalog(path, folder_fields(path, content, base), base)
