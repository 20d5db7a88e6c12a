"""Fine-tuning: a folder of images and label maps in, an adapter of a few MB out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..adapters import Adapter
from ..adapters.adapter import CONFIG_NAME
from ..cards import CardFacts, Measurement, TrainingData
from ..io.locks import locked
from ..models import PromptableModel
from ..models.pretrained import foreign_architecture, load_pretrained, write_text
from ..models.registry import list_models, resolve
from .finetune_config import FinetuneConfig
from .finetune_data import find_cases, load_case, patients_of, split_cases
from .finetune_labels import choose_names, label_names
from .finetune_loop import Finetuner, Progress
from .signals import calling_on_signals

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
LEFT_OUT = ("images", "labels", "output", "overwrite")
"""Options that say where files are, which the report does not repeat."""


def finetune(config: FinetuneConfig, progress: Progress | None = None) -> Path:
    """Tunes weights to two folders, and writes the adapter with its report.

    SIGINT and SIGTERM end the training as if its time were over: the best state so far is kept. The adapter is written
    before it is measured, so that nothing is lost where the report is cut short.

    Args:
        config: of the run.
        progress: told how far it is.

    Returns:
        The adapter's folder; ``report.json`` in it has what was measured, and the names of the cases, which
        ``push_to_hub`` leaves out.

    Raises:
        ValueError: for folders or files that cannot be used, and for an output folder that is not empty, cannot be
            written, or belongs to another run, before any training.
        ImportError: for ``lora`` and ``dora`` without peft.
    """
    from .finetune_report import make_report

    output = Path(config.output)
    if not config.output or output.is_file():
        raise ValueError(f"output={config.output!r}: expected a folder to write the adapter into")
    check_is_free(output, config)
    cases = find_cases(config.images, config.labels)
    names = label_names(config.labels, config.names)
    folder = resolve(config.model)
    if (foreign := foreign_architecture(folder)) is not None:
        raise ValueError(f"model={config.model!r}: weights of {foreign} cannot be tuned here; choose promptseg's own")
    model, _ = load_pretrained(folder)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device=device, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    preprocessing = model.config.preprocessing
    volumes = {case.name: load_case(case, preprocessing) for case in cases}
    training_names, validation_names = split_cases(
        list(volumes), config.validation_share, config.seed, patients_of(volumes)
    )
    training, validation = ([volumes[n] for n in chosen] for chosen in (training_names, validation_names))
    if not validation_names:
        logger.warning("no case is held out: training goes on to the end of its budget, and nothing is reported")
    named = choose_names(names, training, validation, is_stated=config.names is not None)
    is_local = Path(config.model).is_dir() or config.model in list_models()
    commit = "" if is_local else folder.name  # the Hub's cache names a snapshot by its commit
    base = (base_name(config.model, model), commit, model.weights_digest or "")
    tuner = Finetuner(config, model, base, training, validation, named)
    with kept_for_this_run(output, config):
        started = time.monotonic()
        adapter = _fit(tuner, progress)
        seconds = time.monotonic() - started
        tuner.trainable.remove()
        report = {
            "options": {k: v for k, v in dataclasses.asdict(config).items() if k not in LEFT_OUT},
            "training_cases": training_names,
            "validation_cases": validation_names,
            "steps": tuner.step,
            "seconds": round(seconds, 1),
            "history": [{k: round(v, 4) for k, v in row.items()} for row in tuner.history],
            "measured": [],
        }
        _write(output, adapter, report)
        by_name = {case.name: case for case in cases}
        shown = [volume.case for volume in validation if any(v in volume.objects for v in tuner.values)]
        held_out = [by_name[n] for n in shown[: config.report_cases]]
        try:
            report["measured"] = make_report(model, adapter, held_out, probe=config.probe, device=device)
        except BaseException:
            logger.warning("%s holds the adapter; what it gained was not measured", output)
            raise
        _write(output, adapter, report)
    return output


def check_is_free(output: Path, config: FinetuneConfig) -> None:
    """Refuses a folder with something in it, unless it may be overwritten.

    Raises:
        ValueError: with the cure.
    """
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        what = "holds an adapter" if (output / CONFIG_NAME).exists() else "is there already and not empty"
        raise ValueError(
            f"output={config.output!r}: {what}: choose another folder, or allow overwriting it (--overwrite, or "
            "overwrite=True)"
        )


@contextlib.contextmanager
def kept_for_this_run(output: Path, config: FinetuneConfig) -> Iterator[None]:
    """Makes the output folder, and keeps it for one run; one that was made and stays empty is removed again.

    Raises:
        ValueError: if it cannot be written, or another run writes there.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not output.is_dir():
                output.mkdir(parents=True, exist_ok=True)
                stack.callback(_remove_empty, output)
            tempfile.TemporaryFile(dir=output).close()
            stack.enter_context(locked(output))
        except BlockingIOError as error:
            raise ValueError(
                f"output={config.output!r}: another run writes there; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(
                f"output={config.output!r}: cannot be written ({reason}); choose another folder"
            ) from error
        check_is_free(output, config)  # what another run may have written meanwhile
        yield


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        folder.rmdir()


def _fit(tuner: Finetuner, progress: Progress | None) -> Adapter:
    """Trains; signals, which only the main thread may catch, end it early."""
    stop = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    with calling_on_signals(stop.set) if is_main else contextlib.nullcontext():
        return tuner.fit(progress, stop.is_set)


def _write(output: Path, adapter: Adapter, report: dict[str, Any]) -> None:
    adapter.save_pretrained(output, card_facts(adapter, report))
    write_text(output / REPORT_NAME, json.dumps(report, indent=1) + "\n")


def base_name(given: str, model: PromptableModel) -> str:
    """What the base is called: a Hub id or a shipped name as given, a folder by the name in its configuration."""
    return model.config.name if Path(given).is_dir() else given


def card_facts(adapter: Adapter, report: dict[str, Any]) -> CardFacts:
    """The card of an adapter that was just tuned."""
    what = ", ".join(adapter.config.names.values())
    measured = [
        Measurement(f"{row['what']} ({row['cases']})", f"{row['adapter']:.3f} (base {row['base']})", row["how"])
        for row in report["measured"]
    ]
    data = TrainingData("the maker's own images and label maps", "not stated", len(report["training_cases"]))
    return CardFacts(f"Tuned to find: {what}.", "", (data,), tuple(measured))


def read_report(folder: str | Path) -> dict[str, Any]:
    """What :func:`finetune` measured, from an adapter's folder."""
    return json.loads((Path(folder) / REPORT_NAME).read_text(encoding="utf-8"))
