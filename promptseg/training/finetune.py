"""Fine-tuning: a folder of images and label maps in, an adapter of a few MB out."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from ..adapters import Adapter
from ..adapters.adapter import CONFIG_NAME
from ..cards import CardFacts, Measurement, TrainingData
from ..models import PromptableModel
from ..models.pretrained import foreign_architecture, load_pretrained, write_text
from ..models.registry import list_models, resolve
from .finetune_config import FinetuneConfig
from .finetune_data import find_cases, label_names, load_case, split_cases
from .finetune_loop import Finetuner, Progress

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
LEFT_OUT = ("images", "labels", "output", "overwrite")
"""Options that say where files are, which the report does not repeat."""


def finetune(config: FinetuneConfig, progress: Progress | None = None) -> Path:
    """Tunes weights to two folders, and writes the adapter with its report.

    Args:
        config: of the run.
        progress: told how far it is.

    Returns:
        The adapter's folder; ``report.json`` in it has what was measured, and the names of the cases, which
        ``push_to_hub`` leaves out.

    Raises:
        ValueError: for folders or files that cannot be used, and for an output folder that is not empty, before any
            training.
        ImportError: for ``lora`` and ``dora`` without peft.
    """
    from .finetune_report import make_report

    output = Path(config.output)
    if not config.output or output.is_file():
        raise ValueError(f"output={config.output!r}: expected a folder to write the adapter into")
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        what = "holds an adapter" if (output / CONFIG_NAME).exists() else "is there already and not empty"
        raise ValueError(
            f"output={config.output!r}: {what}: choose another folder, or allow overwriting it (--overwrite, or "
            "overwrite=True)"
        )
    cases = find_cases(config.images, config.labels)
    names = label_names(config.labels, config.names)
    training_names, validation_names = split_cases([c.name for c in cases], config.validation_share, config.seed)
    if not validation_names:
        logger.warning("no case is held out: training goes on to the end of its budget, and nothing is reported")
    folder = resolve(config.model)
    if (foreign := foreign_architecture(folder)) is not None:
        raise ValueError(f"model={config.model!r}: weights of {foreign} cannot be tuned here; choose promptseg's own")
    model, _ = load_pretrained(folder)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device=device, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    by_name = {case.name: case for case in cases}
    preprocessing = model.config.preprocessing
    training = [load_case(by_name[n], preprocessing) for n in training_names]
    validation = [load_case(by_name[n], preprocessing) for n in validation_names]
    named = names if any(v in names for volume in training for v in volume.objects) else {}
    is_local = Path(config.model).is_dir() or config.model in list_models()
    commit = "" if is_local else folder.name  # the Hub's cache names a snapshot by its commit
    base = (base_name(config.model, model), commit, model.weights_digest or "")
    tuner = Finetuner(config, model, base, training, validation, named)
    started = time.monotonic()
    adapter = tuner.fit(progress)
    seconds = time.monotonic() - started
    tuner.trainable.remove()
    report = {
        "options": {k: v for k, v in dataclasses.asdict(config).items() if k not in LEFT_OUT},
        "training_cases": training_names,
        "validation_cases": validation_names,
        "steps": tuner.step,
        "seconds": round(seconds, 1),
        "history": [{k: round(v, 4) for k, v in row.items()} for row in tuner.history],
    }
    held_out = [by_name[n] for n in validation_names[: config.report_cases]]
    report["measured"] = make_report(model, adapter, held_out, probe=config.probe, device=device)
    adapter.save_pretrained(output, card_facts(adapter, report))
    write_text(output / REPORT_NAME, json.dumps(report, indent=1) + "\n")
    return output


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
