"""One case with one model: read, play every object, and leave a file; what a worker does."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..io.atomic import atomic_path
from .boxes import slices
from .cases import EvaluationCase, EvaluationObject, LoadedCase, objects_of
from .environment import peak_memory_mb, reset_peak_memory
from .episode import Episode, EpisodeConfig, ask_for_absent, failed_case_records, play_object
from .kept_masks import KeptMask, write_masks
from .names import meaning_of, mirrored_names
from .prompts import ObjectPrompts
from .protocols import given_box, opening, protocol_of
from .records import StepRecord, record_from_dict, record_to_dict
from .registry import SegmenterSpec
from .segmenters import InteractiveSegmenter
from .simulation import generator_for

logger = logging.getLogger(__name__)

MAX_FILE_NAME = 200
"""Letters of a file's name without its ending: file systems take 255 bytes."""


@dataclass(frozen=True)
class CaseTask:
    """What a worker is given.

    Attributes:
        spec: the segmenter.
        revision: of it.
        case: the case.
        settings: of :meth:`EvaluationConfig.settings`.
        output: folder of the report.
        absent: names of structures that are not in the case, to be asked for.
    """

    spec: SegmenterSpec
    revision: str
    case: EvaluationCase
    settings: dict[str, Any]
    output: str
    absent: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((self.spec, self.case.dataset, self.case.name))


@dataclass(frozen=True)
class CaseFile:
    """What a worker leaves.

    Attributes:
        records: one per object, repeat and step.
        skipped: objects left out because they are too small.
        errors: one line for each object that failed, or for the case.
        unnamed: objects left out because they are asked for by name, and the vocabulary does not have it.
    """

    records: tuple[StepRecord, ...]
    skipped: int = 0
    errors: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()


def file_name(*names: str) -> str:
    """A file's name made of names, which may hold anything and be of any length."""
    name = "__".join(re.sub(r"[^A-Za-z0-9._-]", lambda m: f"%{ord(m[0]):x}", name) for name in names)
    if len(name) <= MAX_FILE_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name[: MAX_FILE_NAME - len(digest) - 1]}-{digest}"


def case_path(task: CaseTask) -> Path:
    """Where the results of a task are."""
    return (
        Path(task.output) / "cases" / file_name(task.spec.name) / f"{file_name(task.case.dataset, task.case.name)}.json"
    )


def masks_path(task: CaseTask) -> Path:
    """Where the last masks of a task are."""
    return (
        Path(task.output) / "masks" / file_name(task.spec.name) / f"{file_name(task.case.dataset, task.case.name)}.npz"
    )


def is_done(task: CaseTask) -> bool:
    """Whether a task has a result that stands: complete, without failure, of the same files, catalog and weights."""
    path = case_path(task)
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    same = content.get("files") == _file_stamps(task.case) and content.get("revision") == task.revision
    reading = task.case.reading
    return same and content.get("reading", reading) == reading and not content.get("errors")


def _file_stamps(case: EvaluationCase) -> list[list[Any]]:
    """Name, size and time of each file of a case."""
    stamps = []
    for path in case.files:
        try:
            status = path.stat()
            stamps.append([path.name, status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([path.name, -1, -1])
    return stamps


def read_case_file(path: Path) -> CaseFile:
    """Reads what :func:`run_case` left."""
    content = json.loads(path.read_text(encoding="utf-8"))
    records = tuple(record_from_dict(r) for r in content["records"])
    return CaseFile(records, content["skipped"], tuple(content["errors"]), tuple(content.get("unnamed", ())))


def write_case_file(task: CaseTask, result: CaseFile) -> None:
    """Writes a result; it appears when it is complete."""
    path = case_path(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "revision": task.revision,
        "files": _file_stamps(task.case),
        "reading": task.case.reading,
        "skipped": result.skipped,
        "errors": result.errors,
        "unnamed": result.unnamed,
        "records": [record_to_dict(r) for r in result.records],
    }
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def failed_case(task: CaseTask, reason: str) -> CaseFile:
    """The result of a case that could not be computed at all."""
    protocol = protocol_of(task.settings)
    return CaseFile(tuple(failed_case_records(task.spec.name, task.case, protocol)), 0, (reason,))


def run_case(task: CaseTask, segmenter: InteractiveSegmenter) -> CaseFile:
    """Plays every object of a case, and writes the files.

    Args:
        task: which case, and how.
        segmenter: the task's; may have seen other cases.

    Returns:
        The result. Whatever the case or the segmenter raises is in it; nothing is raised but KeyboardInterrupt and
        errors of the output folder.
    """
    reset_peak_memory()
    try:
        loaded = task.case.load()
    except Exception as error:  # a benchmark has to survive whatever is wrong with a file; the case counts as zero
        logger.warning("%s/%s cannot be read: %s", task.case.dataset, task.case.name, error)
        result = failed_case(task, f"{type(error).__name__}: {error}")
        write_case_file(task, result)
        return result
    result = _play(task, segmenter, loaded)
    write_case_file(task, result)
    return result


def _play(task: CaseTask, segmenter: InteractiveSegmenter, loaded: LoadedCase) -> CaseFile:
    settings, case = task.settings, task.case
    protocol = protocol_of(settings)
    config = EpisodeConfig(
        protocol, settings["seed"], settings["jitter_repeats"], settings["jitter"], keeps_steps=settings["npz"]
    )
    present = _with_other_sides(list(objects_of(loaded, settings["tolerance_mm"])))
    unnamed = tuple(t.name for t in present if meaning_of(t.name) is None) if protocol.speaks else ()
    targets, skipped = _choose_objects([t for t in present if t.name not in unnamed], task)
    error = ""
    try:
        segmenter.set_image(loaded.image)
    except Exception as caught:  # as above
        logger.warning("%s failed on %s/%s: %s", task.spec.name, case.dataset, case.name, caught, exc_info=True)
        error = f"set_image: {type(caught).__name__}: {caught}"
    episodes: list[Episode] = []
    for target in targets:
        box, has_boxes = given_box(loaded.boxes, target.label)
        player = _Broken(error) if error else segmenter
        episodes.append(play_object(task.spec.name, player, case, loaded.image, target, config, box, has_boxes))
        target.truth.forget_surface()
    asked: list[StepRecord] = []
    errors = [f"{t.name}: {e.error}" for t, e in zip(targets, episodes, strict=True) if e.error]
    if protocol.asks_for_absent and not error:
        names = _absent_of(task, loaded)
        asked, wrong = ask_for_absent(task.spec.name, segmenter, case, loaded.image, names, protocol)
        errors += wrong
    peak = peak_memory_mb()
    played = [r for episode in episodes for r in episode.records]
    records = tuple(replace(r, peak_memory_mb=peak) for r in (*played, *asked))
    _write_masks(task, targets, episodes)
    if settings["npz"]:
        _write_npz(task, loaded, targets, episodes)
    return CaseFile(records, skipped, (error,) if error else tuple(errors), unnamed)


def _absent_of(task: CaseTask, loaded: LoadedCase) -> list[str]:
    """Names to ask for in vain, each meaning once: those the data set would label, then those that were asked for."""
    there = {meaning_of(name) for _, name in loaded.objects} - {meaning_of(name) for name in loaded.absent}
    found = {m: name for name in (*loaded.absent, *task.absent) if (m := meaning_of(name)) is not None}
    return [name for meaning, name in found.items() if meaning not in there]


def _with_other_sides(found: Sequence[EvaluationObject]) -> list[EvaluationObject]:
    """Objects with the ground truth of their other sides."""
    truths = {target.name: target.truth for target in found}
    other = mirrored_names(list(truths))
    return [replace(t, mirrored=truths[other[t.name]]) if t.name in other else t for t in found]


class _Broken:
    """Stands for a segmenter that could not take the image: fails on every object."""

    accepts = frozenset()

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def set_image(self, image: Any) -> None:
        """Nothing."""

    def start_object(self) -> None:
        """Nothing."""

    def predict(self, prompts: ObjectPrompts) -> Any:
        """Says why."""
        raise RuntimeError(self.reason)


def _choose_objects(found: Sequence[EvaluationObject], task: CaseTask) -> tuple[list[EvaluationObject], int]:
    """Objects that are large enough, at most ``max_objects`` of them; and how many were too small.

    The challenge's objects are the values of a label map, so its protocol leaves out what is made of several.
    """
    settings = task.settings
    if settings["protocol"] == "cvpr25":
        found = [target for target in found if not target.is_union]
    large = [target for target in found if target.truth.num_voxels >= settings["min_voxels"]]
    skipped = len(found) - len(large)
    if settings["max_objects"] is not None and len(large) > settings["max_objects"]:
        order = generator_for(settings["seed"], "objects", task.case.dataset, task.case.name).permutation(len(large))
        large = [large[i] for i in sorted(order[: settings["max_objects"]])]
    return large, skipped


def _write_masks(task: CaseTask, targets: Sequence[EvaluationObject], episodes: Sequence[Episode]) -> None:
    """Keeps the last masks and all clicks, for the report's pictures."""
    played = ((t, e) for t, e in zip(targets, episodes, strict=True) if e.masks)
    write_masks(
        masks_path(task), (KeptMask(t.label, t.name, e.masks[-1], *e.prompts.marked_voxels()) for t, e in played)
    )


def _write_npz(
    task: CaseTask, loaded: LoadedCase, targets: Sequence[EvaluationObject], episodes: Sequence[Episode]
) -> None:
    """Writes case and answers as the challenge keeps them; where objects overlap, the larger label has the voxel."""
    from .npz import write_answer, write_case

    protocol = protocol_of(task.settings)
    order = sorted(range(len(targets)), key=lambda n: targets[n].label)
    dtype = np.uint8 if max((target.label for target in targets), default=0) < 256 else np.uint16
    labels = np.zeros(loaded.labels.shape, dtype=dtype)
    steps = [np.zeros_like(labels) for _ in range(protocol.num_corrections + 1)]
    boxes = {}
    for number in order:
        target, episode = targets[number], episodes[number]
        labels[slices(target.truth.low, target.truth.high)][target.truth.mask] = target.label
        for step, mask in enumerate(episode.masks):
            mask.paste(steps[step], target.label)
        generator = generator_for(
            task.settings["seed"], protocol.name, task.case.dataset, task.case.name, target.label, target.name
        )
        given = opening(protocol, target.truth, target.name, *given_box(loaded.boxes, target.label), generator)
        if given is not None and given.prompts.box is not None:
            boxes[target.label] = given.prompts.box
    folder, name = Path(task.output), f"{file_name(task.case.dataset, task.case.name)}.npz"
    every = len(boxes) == len(targets)
    case = folder / "npz" / name
    write_case(case, loaded.image.array, labels, loaded.image.spacing_mm.tolist(), boxes if every else None)
    write_answer(folder / "npz_answers" / file_name(task.spec.name) / name, steps)
