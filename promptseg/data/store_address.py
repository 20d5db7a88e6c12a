"""Where a store lies: a folder, or an object store that fsspec reaches; and opening whichever it is."""

from __future__ import annotations

from pathlib import Path

from .store_reader import Store


def open_store(address: str | Path) -> Store:
    """Opens a store, whichever kind lies at an address.

    Args:
        address: folder of ``promptseg data prepare`` or ``promptseg data export``, or a URL of the latter that fsspec
            knows (``s3://``, ``gs://``, ``memory://``), with credentials where fsspec looks for them.

    Raises:
        ValueError: if it is neither, naming what makes one.
    """
    folder = local_folder(address)
    if folder is None or (folder / "zarr.json").is_file():
        from .store_zarr import open_zarr_store

        return open_zarr_store(address)
    return Store(folder)


def local_folder(address: str | Path) -> Path | None:
    """The folder that an address names, or None for an object store.

    Example:
        >>> local_folder("file:///data/store").as_posix(), local_folder("s3://bucket/store")
        ('/data/store', None)
    """
    scheme, separator, rest = str(address).partition("://")
    if not separator:
        return Path(address)
    return Path(rest) if scheme.lower() in ("file", "local") else None


def overlap(first: str | Path, second: str | Path) -> bool:
    """Whether two addresses are the same place, or one lies inside the other; links are followed.

    Example:
        >>> overlap("s3://bucket/a", "s3://bucket/a/b"), overlap("s3://bucket/a", "s3://bucket/ab")
        (True, False)
    """
    one, other = _parts(first), _parts(second)
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _parts(address: str | Path) -> list[str]:
    folder = local_folder(address)
    if folder is not None:
        return ["file", *folder.resolve().parts]
    scheme, _, rest = str(address).partition("://")
    return [scheme.lower(), *(part for part in rest.split("/") if part)]
