"""Prepares a store: the training data of many data sets as chunked arrays with an index, one case at a time.

    STORE/store.json                     data sets: licence, citation, terms, ...
    STORE/index.jsonl                    one record per case, sorted
    STORE/rejected.jsonl                 cases that could not be used in the last run, and why
    STORE/cases/DATASET/CASE/            image.b2nd, label.b2nd, foreground.npy, case.json; for training crops
                                         intensity.npy, level1.b2nd, ... (see StoreConfig.preprocessing)

A case appears under ``cases`` by one rename, complete and durable, so a run that is killed at any moment leaves whole
cases only and the next run does the rest. ``index.jsonl`` repeats the ``case.json`` files and can be made of them
again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..io.locks import locked
from .catalog import Case, Catalog
from .catalog_check import find_duplicates, find_split_patients
from .check_report import Finding
from .layouts import scan
from .parallel import run_isolated
from .store_case import RECORD_VERSION, StoreConfig, describe, source_signature, write_case
from .store_files import RECORD, damaged_files, write_record
from .store_folders import case_folder, claimed_folders, plain_folder, shared_folders
from .store_room import NoRoomError, is_full

logger = logging.getLogger(__name__)

FORMAT = "promptseg-store"
_OF_FINDINGS = ("dataset", "case", "patient", "fold", "content_hash")
"""What of a record :func:`find_duplicates` looks at."""


@dataclass(frozen=True)
class PrepareReport:
    """What a run did.

    Attributes:
        prepared: keys of the cases that were written.
        kept: keys of the cases that were there already, unchanged.
        rejected: (key, reason) of the cases that could not be used.
        retired: keys of stored cases that the catalogs no longer list: out of the index, their files are still there.
        findings: duplicates and leakage among all cases of the store.
        seconds: wall time.
    """

    prepared: tuple[str, ...]
    kept: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    retired: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float


def prepare(
    catalogs: Sequence[Catalog],
    store: str | Path,
    *,
    workers: int = 0,
    config: StoreConfig | None = None,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Writes the cases of data sets into a store, or brings a store up to date.

    Args:
        catalogs: data sets; those of earlier runs stay in the store.
        store: folder; created if missing.
        workers: processes; 0 runs in this one. The store does not depend on it.
        config: how arrays are stored.
        verify: reads the files of cases that are there already and makes the damaged ones again; else their sizes are
            compared.
        progress: called with the number of cases done and of all cases.

    Returns:
        What was done. A case that cannot be used is in ``rejected``, never an exception; if an earlier run had stored
        it, that version stays, in the fold that the catalog says now, since the cause may be a disk that is away for a
        moment.

    Raises:
        ValueError: if a root is missing, two catalogs share a name, the folder holds something else than a store, or
            another run is writing to it.
        NoRoomError: if the disk is full; what is in the store then is whole, and the next run does the rest.
    """
    started = time.monotonic()
    config = config or StoreConfig()
    root = Path(store)
    if len({catalog.name for catalog in catalogs}) < len(catalogs):
        raise ValueError(f"catalogs {[catalog.name for catalog in catalogs]}: give each data set a name of its own")
    pairs: list[tuple[Catalog, Case]] = []
    unusable: dict[str, str] = {}
    for catalog in catalogs:
        bare, found = replace(catalog, listing=()), scan(catalog)  # bare: what a worker needs of it
        unusable |= {case.key: reason for case, reason in found.rejected}
        pairs += [(bare, case) for case in found.cases]
    unusable |= shared_folders([case for _, case in pairs])
    listed = {case.key for _, case in pairs} | set(unusable)
    pairs = [pair for pair in pairs if pair[1].key not in unusable]
    with _locked(root):
        datasets = _merge_datasets(root, catalogs)
        _write_text(root / "store.json", [json.dumps(datasets, indent=1, sort_keys=True), "\n"])
        work = partial(_bring_up_to_date, root=root, config=config, verify=verify)
        for case, plain, own in claimed_folders(root, [case for _, case in pairs]):
            if (record := _read_record(plain)) and record.get("case") == case.name:
                os.rename(plain, own)
        prepared, kept, rejected, retired = [], [], list(unusable.items()), []
        entries: list[tuple[str, str, str, str, str]] = []
        for key, reason in unusable.items():
            logger.warning("%s is left out: %s", key, reason)
        try:
            with closing(run_isolated(work, pairs, workers)) as outcomes:  # workers end before the index is written
                for done, outcome in enumerate(outcomes, 1):
                    key = outcome.item[1].key
                    if outcome.result == "no room":  # nor would there be for any later case
                        raise NoRoomError(root)
                    if outcome.result is None:
                        logger.warning("%s is left out: %s", key, outcome.error)
                        rejected.append((key, outcome.error))
                    else:
                        (prepared if outcome.result == "prepared" else kept).append(key)
                    if progress is not None:
                        progress(done, len(pairs))
        finally:
            ours = {catalog.name for catalog in catalogs}

            def rows() -> Iterator[str]:  # one by one: all records of 100 000 cases are many gigabytes
                for record in read_records(root):
                    key = f"{record['dataset']}/{record['case']}"
                    if record["dataset"] in ours and key not in listed:
                        retired.append(key)
                        continue
                    entries.append(tuple(record[name] for name in _OF_FINDINGS))
                    yield json.dumps(record, sort_keys=True) + "\n"

            _write_text(root / "index.jsonl", rows())
            reasons = (json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in sorted(rejected))
            _write_text(root / "rejected.jsonl", reasons)
    findings = find_split_patients([(dataset, patient, fold) for dataset, _, patient, fold, _ in entries])
    findings += find_duplicates(entries)
    for finding in findings:
        logger.log(logging.INFO if finding.severity == "info" else logging.WARNING, "%s", finding.message)
    return PrepareReport(
        prepared=tuple(sorted(prepared)),
        kept=tuple(sorted(kept)),
        rejected=tuple(sorted(rejected)),
        retired=tuple(retired),
        findings=tuple(findings),
        seconds=time.monotonic() - started,
    )


def read_records(store: Path) -> Iterator[dict[str, Any]]:
    """Records of the cases in a store, sorted by data set and case, read from their ``case.json``."""
    for dataset in sorted(path for path in (store / "cases").glob("*") if path.is_dir()):
        for folder in sorted(path for path in dataset.iterdir() if path.is_dir()):
            record = _read_record(folder)
            if record is not None:
                yield {**record, "folder": folder.relative_to(store).as_posix()}


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("version") == RECORD_VERSION else None


def _bring_up_to_date(pair: tuple[Catalog, Case], root: Path, config: StoreConfig, verify: bool) -> str:
    """Prepares one case unless it is there; returns ``prepared``, ``kept``, or ``no room`` where the disk is full."""
    try:
        return _keep_or_prepare(*pair, root, config, verify)
    except OSError as error:
        if is_full(error):
            return "no room"
        raise


def _keep_or_prepare(catalog: Catalog, case: Case, root: Path, config: StoreConfig, verify: bool) -> str:
    folder = case_folder(root, case)
    record = _read_record(folder)
    if record is None and (older := _read_record(plain_folder(root, case))) and older.get("case") == case.name:
        folder, record = plain_folder(root, case), older
    if record is not None and any(record.get(key) != value for key, value in describe(case).items()):
        record = {**record, **describe(case)}
        write_record(folder, record)  # before anything can fail: no case stays in a fold that it has left
    if record is not None and record.get("signature") == source_signature(catalog, case, config):
        bad = damaged_files(folder, record["files"], thorough=verify)
        if not bad:
            return "kept"
        logger.warning("%s: %s is damaged and is made again", case.key, ", ".join(bad))
    with locked(root / ".writing", is_shared=True, waits=True):
        draft = root / ".drafts" / uuid.uuid4().hex
        draft.mkdir(parents=True)
        try:
            write_case(draft, catalog, case, config)
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove(root, folder)
            os.rename(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return "prepared"


def _remove(root: Path, folder: Path) -> None:
    """Takes a case away in one step, then deletes it."""
    if folder.exists():
        trash = root / ".drafts" / uuid.uuid4().hex
        trash.parent.mkdir(exist_ok=True)
        os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)


def _merge_datasets(root: Path, catalogs: Sequence[Catalog]) -> dict[str, Any]:
    """``store.json``: the data sets that were there and the given ones."""
    path = root / "store.json"
    content: dict[str, Any] = {"format": FORMAT, "version": RECORD_VERSION, "datasets": {}}
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT or content.get("version") != RECORD_VERSION:
            raise ValueError(f"{path} is not a store of version {RECORD_VERSION}: give another folder")
    for catalog in catalogs:
        kept = ("title", "licence", "citation", "url", "anatomy", "modality", "ground_truth", "ship_weights")
        content["datasets"][catalog.name] = {
            **{key: getattr(catalog, key) for key in kept},
            "terms": {str(value): name for value, name in catalog.names.items()},
            "unions": {name: list(values) for name, values in catalog.unions},
            "ignore": list(catalog.ignore),
            "unnamed_values": catalog.unnamed_values,
        }
    return content


def _write_text(path: Path, lines: Iterable[str]) -> None:
    draft = path.with_name(path.name + ".draft")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if is_full(error):
            raise NoRoomError(path.parent) from error
        raise


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Holds the store for one run; the lock goes with the process, however it ends. Clears drafts of killed runs."""
    if root.exists() and any(root.iterdir()) and not (root / "store.json").is_file() and not (root / ".lock").exists():
        raise ValueError(f"{root} is neither empty nor a store: give another folder")
    root.mkdir(parents=True, exist_ok=True)
    try:
        with locked(root / ".lock"):
            with locked(
                root / ".writing", waits=True
            ):  # workers of a killed run end with it, but may be in the middle of a case
                shutil.rmtree(root / ".drafts", ignore_errors=True)
            try:
                yield
            finally:
                shutil.rmtree(root / ".drafts", ignore_errors=True)
    except BlockingIOError as error:
        raise ValueError(f"another run is writing to {root}: wait for it to end") from error
