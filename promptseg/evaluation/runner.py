"""Runs an evaluation: every case with every model, in several processes, to be resumed, whatever fails.

Each case of each model leaves one JSON file under ``cases/`` and its last masks under ``masks/``. They appear when they
are complete, so a run that was killed goes on with the cases that have none. ``run.json`` says which settings they were
made with; other settings, weights or files are refused instead of mixed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..io.atomic import atomic_path
from ..io.locks import locked
from .cases import EvaluationCase, find_cases
from .config import EvaluationConfig
from .environment import describe_environment, git_revision
from .names import absent_names
from .protocols import choose_protocol
from .records import FAILED_CASE, StepRecord, sorted_records, write_csv
from .registry import SegmenterSpec, parse_specs
from .simulation import generator_for
from .work import CaseFile, CaseTask, case_path, is_done, read_case_file
from .workers import run_tasks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        records: every row of ``results.csv``.
        summary: content of ``summary.json``.
        output: the folder.
        report: the HTML file.
    """

    records: tuple[StepRecord, ...]
    summary: dict[str, Any]
    output: Path
    report: Path


def run_evaluation(config: EvaluationConfig) -> EvaluationResult:
    """Measures models and writes the report.

    Args:
        config: what to measure, on what, and how.

    Returns:
        The results. A case that fails does not raise: it counts as zero, and ``summary["models"][name]["failures"]``
        lists it.

    Raises:
        ValueError: for a catalog, fold, model or setting that cannot be used, before any case is computed.
        OSError: if the output cannot be written.
    """
    specs = able_specs(parse_specs(config.model, config.device), config)
    cases = choose_cases(find_cases(config.catalog, config.fold, config.root), config)
    revisions = {spec.name: spec.revision() for spec in specs}
    output = Path(config.output)
    check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    with held(output):
        return _run(config, specs, cases, revisions)


def _run(
    config: EvaluationConfig,
    specs: Sequence[SegmenterSpec],
    cases: Sequence[EvaluationCase],
    revisions: Mapping[str, str],
) -> EvaluationResult:
    output = Path(config.output)
    code_before = prepare_folder(output, config, revisions)
    tasks = [
        CaseTask(
            spec,
            revisions[spec.name],
            case,
            config.settings(),
            str(output),
            tuple(absent_names(config.absent, getattr(case, "terms", ()))),
        )
        for spec in specs
        for case in cases
    ]
    waiting = [task for task in tasks if not is_done(task)]
    if len(waiting) < len(tasks):
        logger.info(
            "%d of %d cases are there already and are not computed again", len(tasks) - len(waiting), len(tasks)
        )
        if code_before not in ("", code_revision()):
            logger.warning(
                "-o %s: %d cases were made with promptseg %s and are kept, the others come from %s; "
                "--no-resume computes all of them with one",
                output,
                len(tasks) - len(waiting),
                code_before,
                code_revision(),
            )
    run_tasks(waiting, config.workers, config.threads)
    return write_results(config, specs, tasks)


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Holds a report's folder against other runs.

    Raises:
        ValueError: if another run has it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(output))
        except BlockingIOError as error:
            raise ValueError(
                f"-o {output}: another run is writing there; wait for it to end, or choose another folder"
            ) from error
        yield


def able_specs(specs: Sequence[SegmenterSpec], config: EvaluationConfig) -> list[SegmenterSpec]:
    """Those that understand the protocol's prompts; the others are named in a warning.

    Raises:
        ValueError: if none does.
    """
    kinds = choose_protocol(config.protocol, config.clicks).kinds
    able = [spec for spec in specs if spec.accepts(kinds)]
    wanted = ", ".join(sorted(kinds))
    for spec in specs:
        if spec not in able:
            logger.warning("%s is left out: it does not understand %s", spec.name, wanted)
    if not able:
        raise ValueError(
            f"--protocol {config.protocol}: none of {', '.join(s.name for s in specs)} understands {wanted}"
        )
    return able


def choose_cases(cases: Sequence[EvaluationCase], config: EvaluationConfig) -> list[EvaluationCase]:
    """At most ``max_cases`` of each data set, drawn with the seed; in their order."""
    if config.max_cases is None:
        return list(cases)
    by_dataset: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        by_dataset.setdefault(case.dataset, []).append(place)
    kept: list[int] = []
    for dataset, places in by_dataset.items():
        order = generator_for(config.seed, "cases", dataset).permutation(len(places))
        kept += [places[i] for i in order[: config.max_cases]]
    return [cases[place] for place in sorted(kept)]


def check_folder(output: Path) -> None:
    """Refuses a file, and a folder that is neither empty nor a report.

    Raises:
        ValueError: saying which.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"-o {output}: is a file, expected a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / "run.json").is_file():
        raise ValueError(f"-o {output}: not empty and not a report; choose another folder")


def prepare_folder(output: Path, config: EvaluationConfig, revisions: Mapping[str, str]) -> str:
    """Checks that what is in the output folder may be gone on with, and writes down what is added to it.

    Returns:
        The code that made what is in it, as of :func:`code_revision`; empty for a new folder.

    Raises:
        ValueError: for a folder of other settings or weights.
    """
    run_path = output / "run.json"
    before: dict[str, Any] = {}
    if run_path.is_file():
        if config.resume:
            before = json.loads(run_path.read_text(encoding="utf-8"))
            _refuse_other_settings(output, before, config, revisions)
        else:
            for name in ("cases", "masks", "npz", "npz_answers"):
                shutil.rmtree(output / name, ignore_errors=True)
    content = {
        "settings": config.settings(),
        "revisions": {**before.get("revisions", {}), **revisions},
        "code": code_revision(),
    }
    with atomic_path(run_path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return before.get("code", "")


def code_revision() -> str:
    """The package's version, and the commit of its checkout where it has one."""
    from .. import __version__

    return " ".join(filter(None, (__version__, git_revision())))


def _refuse_other_settings(
    output: Path, before: dict[str, Any], config: EvaluationConfig, revisions: Mapping[str, str]
) -> None:
    cure = "choose another folder with -o, or start afresh with --no-resume"
    now = config.settings()
    for name, value in {"absent": None, "click_depth": None, **before.get("settings", {})}.items():
        if now.get(name) != value:
            raise ValueError(f"-o {output}: made with {name}={value!r}, and now it is {now.get(name)!r}; {cure}")
    for name, revision in before.get("revisions", {}).items():
        if name in revisions and revisions[name] != revision:
            raise ValueError(f"-o {output}: {name} had other weights or parameters ({revision}) then; {cure}")


def write_results(
    config: EvaluationConfig, specs: Sequence[SegmenterSpec], tasks: Sequence[CaseTask]
) -> EvaluationResult:
    """Gathers the cases' files into ``results.csv``, ``summary.json`` and ``report.html``."""
    from .report import write_report
    from .summary import summarise

    output = Path(config.output)
    names = [spec.name for spec in specs]
    files = {task: read_case_file(case_path(task)) for task in tasks}
    files = {task: share_failure(content, task, files) for task, content in files.items()}
    unnamed = Counter(name for task, content in files.items() if task.spec == specs[0] for name in content.unnamed)
    if unnamed:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unnamed.items()))
        logger.warning("left out, as the vocabulary does not have their names: %s", listed)
    records = sorted_records((r for content in files.values() for r in content.records), names)
    write_csv(records, output / "results.csv")
    summary = summarise(
        records,
        specs=specs,
        config=config,
        environment=describe_environment(),
        skipped=sum(content.skipped for task, content in files.items() if task.spec == specs[0]),
        unnamed=unnamed,
        errors=[
            (task.spec.name, f"{task.case.dataset}/{task.case.name}", e) for task, c in files.items() for e in c.errors
        ],
        revisions={task.spec.name: task.revision for task in tasks},
    )
    with atomic_path(output / "summary.json") as partial:
        partial.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    report = write_report(output, records, summary, tasks, config)
    return EvaluationResult(tuple(records), summary, output, report)


def share_failure(content: CaseFile, task: CaseTask, files: Mapping[CaseTask, CaseFile]) -> CaseFile:
    """A case that a model could not compute at all, with a zero for each object that another model was given.

    As one object it would weigh less than what the others scored on it.
    """
    if {r.name for r in content.records} != {FAILED_CASE}:
        return content
    same = (other.records for key, other in files.items() if key.case == task.case)
    known = next((records for records in same if {r.name for r in records} != {FAILED_CASE}), ())
    zeros = {r.step: r for r in content.records}
    shared = tuple(
        replace(zeros[r.step], label=r.label, name=r.name, voxels=r.voxels, volume_ml=r.volume_ml)
        for r in known
        if r.repeat == 0 and not r.is_absent
    )
    return replace(content, records=shared or content.records)


def without_timing(record: StepRecord) -> StepRecord:
    """A record as it is in every run: without seconds and memory."""
    return replace(record, seconds=0.0, peak_memory_mb=0.0)
