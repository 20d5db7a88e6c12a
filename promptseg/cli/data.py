"""``promptseg data``: checks data sets, prepares the store that training reads, and exports it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .command import Command, option

if TYPE_CHECKING:
    from ..data import Catalog
    from ..preprocessing import PreprocessingConfig

LOG_SECONDS = 30.0
"""Seconds between lines of progress where stderr is no terminal."""


@dataclass(frozen=True)
class DataConfig:
    """Checks data sets, prepares them for training, or exports what was prepared.

    check reads every case and reports orientation, spacing, label values without a term, empty masks, label grids that
    are not the image's, terms outside the vocabulary, and images that occur twice, across data sets and folds. It
    exits with 1 if something must be put right before training. prepare writes a store that training reads crops
    from. It goes on where an earlier run ended, makes damaged cases again, and leaves out those it cannot use, with
    the reason in rejected.jsonl. export writes a store as Zarr, into a folder or an object store, which training reads
    from as well (store: ADDRESS). It replaces an earlier export, and nothing else.
    """

    action: Literal["check", "prepare", "export"] = option(metavar="ACTION", is_positional=True)
    """check, prepare or export"""
    catalog: tuple[str, ...] = option(metavar="CATALOG", is_positional=True, is_repeatable=True)
    """YAML catalog, dataset.json, or a folder of them; export: the store that prepare wrote"""
    root: tuple[str, ...] = option((), metavar="FOLDER", is_repeatable=True)
    """folder of the data, once for each catalog in their order; without it, the catalog's own"""
    output: str | None = option(None, short="-o", metavar="PATH")
    """prepare: the store's folder; check: a JSON file for the whole report; export: a folder, or a URL such as
    s3://BUCKET/NAME"""
    workers: int = option(1, metavar="N")
    """processes; a file that crashes one costs that case alone. export: threads, each with a case in memory"""
    verify: bool = False
    """prepare: read every file that is in the store already, instead of comparing sizes"""
    preprocessing: str = option("default", metavar="FILE")
    """prepare: JSON or YAML of a model, for its intensity preprocessing; none: not to train from"""
    compression: int = option(5, metavar="0..9")
    """prepare: 0 is the fastest, 9 the smallest"""
    findings: int = option(200, metavar="N")
    """check: how many findings are printed; the report has all"""

    def __post_init__(self) -> None:
        if self.action == "prepare" and not self.output:
            raise ValueError("data prepare: expected -o STORE, the folder that the store is written into")
        if self.action == "export" and not self.output:
            raise ValueError("data export: expected -o ZARR, the folder or URL that the store is written to")
        if self.action == "export" and (len(self.catalog) > 1 or self.root):
            given = f"--root {self.root[0]}" if self.root else f"{len(self.catalog)} of them"
            raise ValueError(f"data export: expected one STORE, which prepare wrote, and no --root; given {given}")
        if self.root and len(self.root) != len(self.catalog):
            raise ValueError(
                f"--root given {len(self.root)} times for {len(self.catalog)} catalogs: expected one for each"
            )
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers}: expected 1 or more")
        if self.findings < 1:
            raise ValueError(f"--findings {self.findings}: expected 1 or more")


def run(config: DataConfig) -> int:
    """Prints the report of a check, or what was prepared or exported."""
    if config.action == "export":
        return _export(config)
    catalogs = load_catalogs(config)
    return _check(config, catalogs) if config.action == "check" else _prepare(config, catalogs)


def load_catalogs(config: DataConfig) -> list[Catalog]:
    """The catalogs that were asked for, folders opened up.

    Raises:
        ValueError: for a catalog that cannot be read, or a root for a folder of several.
    """
    from ..data.catalog_loader import find_catalogs, load_catalog

    catalogs = []
    for number, name in enumerate(config.catalog):
        files = find_catalogs(name)
        if config.root and len(files) > 1:
            raise ValueError(f"--root {config.root[number]}: {name} holds {len(files)} catalogs; give them one by one")
        catalogs += [load_catalog(file, config.root[number] if config.root else None) for file in files]
    return catalogs


def _check(config: DataConfig, catalogs: list[Catalog]) -> int:
    from ..data import check_catalogs

    if config.output:
        probe_report(Path(config.output))
    with _progress("checking") as progress:
        report = check_catalogs(catalogs, workers=config.workers, progress=progress)
    print(report.to_markdown(config.findings), end="")  # first: a disk may be full by now
    if config.output:
        Path(config.output).write_text(report.to_json() + "\n", encoding="utf-8")
    return 1 if report.errors else 0


def probe_report(path: Path) -> None:
    """Makes sure that a report can be written, before the hours that a check may take; leaves an earlier one as it is.

    Raises:
        ValueError: naming the file and the cure.
    """
    if path.is_dir():
        raise ValueError(f"--output {path}: a folder; check writes one JSON file, such as report.json")
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--output {path}: cannot be written ({reason}); choose another place") from error


def _prepare(config: DataConfig, catalogs: list[Catalog]) -> int:
    from ..data import StoreConfig, prepare

    assert config.output is not None
    settings = StoreConfig(compression_level=config.compression, preprocessing=read_preprocessing(config.preprocessing))
    with _progress("preparing") as progress:
        report = prepare(
            catalogs,
            config.output,
            workers=config.workers,
            config=settings,
            verify=config.verify,
            progress=progress,
        )
    for key in report.retired:
        logging.getLogger(__name__).warning("%s is no longer in its catalog: out of the index", key)
    count = len(report.prepared) + len(report.kept)
    print(
        f"{config.output}: {len(report.prepared)} cases prepared, {len(report.kept)} kept, "
        f"{len(report.rejected)} left out, {report.seconds:.0f} s"
    )
    if report.rejected:
        print(f"the reasons are in {Path(config.output) / 'rejected.jsonl'}")
    return 0 if count or not report.rejected else 1


def _export(config: DataConfig) -> int:
    from ..data.store_address import open_store
    from ..data.store_zarr import export_zarr

    assert config.output is not None
    started = time.monotonic()
    store = open_store(config.catalog[0])
    with _progress("exporting") as progress:
        export_zarr(store, config.output, workers=config.workers, progress=progress)
    print(f"{config.output}: {len(store)} cases exported, {time.monotonic() - started:.0f} s")
    return 0


def read_preprocessing(name: str) -> PreprocessingConfig | None:
    """The intensity preprocessing of ``--preprocessing``: ``default``, ``none``, or from a file.

    Args:
        name: or a JSON or YAML file with its fields, or with them under ``preprocessing``.

    Raises:
        ValueError: if the file is missing or holds something else.
    """
    if name == "none":
        return None
    from ..preprocessing import PreprocessingConfig

    if name == "default":
        return PreprocessingConfig()
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise ValueError(f"--preprocessing {name}: no such file; expected a model's config.json, default or none")
    import yaml

    try:  # JSON is YAML too
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        content = content.get("model", content)
        return PreprocessingConfig(**content.get("preprocessing", content))
    except (yaml.YAMLError, json.JSONDecodeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--preprocessing {name}: not the fields of an intensity preprocessing: {reason}") from error


@contextmanager
def _progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere, as in a batch job's log, a line now and then."""
    from tqdm import tqdm

    bar = tqdm(total=0, desc=verb, unit="case", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
    started = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        bar.total = total
        bar.update(done - bar.n)
        now = time.monotonic()
        if bar.disable and now - last >= LOG_SECONDS:
            last, left = now, (now - started) / done * (total - done)
            print(f"promptseg: {verb}: {done} of {total} cases, about {left / 60:.0f} min left", file=sys.stderr)

    with bar:
        yield show


COMMAND = Command(
    DataConfig,
    run,
    example="""\
  promptseg data check data/
  promptseg data check configs/catalogs/totalsegmentator.yaml --root /data/Totalsegmentator_dataset_v201 -o report.json
  promptseg data prepare data/kits/catalog.yaml data/amos/catalog.yaml -o store/ --workers 8
  promptseg data export store/ -o s3://bucket/store.zarr --workers 16""",
)
