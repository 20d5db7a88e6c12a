"""One object from the first prompt to the last: the simulated user and a segmenter take turns."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .boxes import VoxelBox
from .cases import EvaluationCase, EvaluationObject
from .kept_masks import MaskCrop
from .metrics import Scores, TrueObject
from .prompts import ObjectPrompts
from .protocols import Given, Protocol, correction, jittered, opening
from .records import FAILED_CASE, StepRecord
from .segmenters import InteractiveSegmenter, SeesTruth, SegmenterAnswer, SegmenterImage
from .simulation import generator_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeConfig:
    """How an object is played.

    Attributes:
        protocol: the simulated user.
        seed: of its random choices.
        jitter_repeats: how often the first prompt is given again, jittered.
        jitter: by how much; see :func:`.protocols.jittered`.
        keeps_steps: keep the mask of every step, not only the last.
    """

    protocol: Protocol
    seed: int = 0
    jitter_repeats: int = 0
    jitter: float = 0.5
    keeps_steps: bool = False


@dataclass(frozen=True)
class Episode:
    """What happened.

    Attributes:
        records: one per step, and per jittered repeat.
        masks: of the steps that were kept, the last one last; empty after a failure.
        prompts: all that was given.
        error: what went wrong, or empty.
    """

    records: tuple[StepRecord, ...]
    masks: tuple[MaskCrop, ...]
    prompts: ObjectPrompts
    error: str = ""


def play_object(
    model: str,
    segmenter: InteractiveSegmenter,
    case: EvaluationCase,
    image: SegmenterImage,
    target: EvaluationObject,
    config: EpisodeConfig,
    box: VoxelBox | None = None,
    has_boxes: bool = True,
) -> Episode:
    """Plays one object. A segmenter that raises scores zero at every step.

    Args:
        model: name of the segmenter in the results.
        segmenter: its image is set already.
        case: for the names.
        image: of the case.
        target: the object.
        config: the user.
        box: that comes with the case.
        has_boxes: False where the case gives this object no box.
    """
    player = _Player(model, segmenter, case, image, target, config)
    try:
        if isinstance(segmenter, SeesTruth):
            segmenter.set_truth(target.truth.crop(np.zeros(3, dtype=int), np.array(image.array.shape)))
        return player.play(box, has_boxes)
    except Exception as error:  # a benchmark has to survive whatever a segmenter raises; the case counts as zero
        logger.warning("%s failed on %s/%s, %s: %s", model, case.dataset, case.name, target.name, error, exc_info=True)
        return Episode(tuple(player.failed()), (), ObjectPrompts(), f"{type(error).__name__}: {error}")


class _Player:
    def __init__(
        self,
        model: str,
        segmenter: InteractiveSegmenter,
        case: EvaluationCase,
        image: SegmenterImage,
        target: EvaluationObject,
        config: EpisodeConfig,
    ) -> None:
        self.segmenter, self.image, self.target, self.config = segmenter, image, target, config
        self.generator = generator_for(
            config.seed, config.protocol.name, case.dataset, case.name, target.label, target.name
        )
        self.blank = blank_record(model, case, target)

    def play(self, box: VoxelBox | None, has_boxes: bool) -> Episode:
        config, protocol, truth = self.config, self.config.protocol, self.target.truth
        records: list[StepRecord] = []
        masks: list[MaskCrop] = []
        shape = self.image.array.shape
        self.segmenter.start_object()
        given = first = opening(protocol, truth, self.target.name, box, has_boxes, self.generator)
        prompts = ObjectPrompts()
        answer = SegmenterAnswer(np.zeros(shape, dtype=bool))
        crops = truth.union_crops(answer.mask)
        scores = truth.score_crops(*crops)
        for step in range(protocol.first_step, protocol.num_corrections + 1):
            if step > protocol.first_step:
                given = correction(protocol, truth, *crops, prompts, self.generator)
            if given is None and not len(records):  # a case without a box: scored as nothing, as the challenge does
                records.append(replace(self.blank, step=step, **_zero_scores(truth.worst_mm)))
            elif given is None:
                carried = replace(records[-1], step=step, prompt="", is_carried=True, seconds=math.nan)
                records.append(replace(carried, encoder_calls=math.nan, newest_respected=math.nan))
            else:
                prompts = given.prompts
                is_mask_alone = given.kind == "mask"
                seconds = math.nan
                if is_mask_alone:
                    assert prompts.mask is not None
                    answer = SegmenterAnswer(prompts.mask)
                else:
                    answer, seconds = self._ask(prompts)
                crops = truth.union_crops(answer.mask)
                scores = truth.score_crops(*crops)
                records.append(self._record(step, 0, given, answer, scores, seconds))
            if config.keeps_steps:
                masks.append(MaskCrop.from_mask(answer.mask))
        masks = masks or [MaskCrop.from_mask(answer.mask)]
        records += self._jittered(first)
        return Episode(tuple(records), tuple(masks), prompts)

    def _jittered(self, first: Given | None) -> Iterator[StepRecord]:
        truth = self.target.truth
        for repeat in range(1, self.config.jitter_repeats + 1):
            other = None if first is None else jittered(first, truth, self.config.jitter, self.generator)
            if other is None:
                return
            self.segmenter.start_object()
            answer, seconds = self._ask(other.prompts)
            yield self._record(
                self.config.protocol.first_step, repeat, other, answer, truth.score(answer.mask), seconds
            )

    def _ask(self, prompts: ObjectPrompts) -> tuple[SegmenterAnswer, float]:
        answer, seconds = timed_answer(self.segmenter, prompts)
        mask = np.asarray(answer.mask)
        if mask.dtype != bool:
            mask = mask != 0
        return replace(answer, mask=mask), seconds

    def _record(
        self, step: int, repeat: int, given: Given, answer: SegmenterAnswer, scores: Scores, seconds: float
    ) -> StepRecord:
        points, labels = given.prompts.points, given.prompts.labels
        respected = answer.mask[tuple(points.T)] == labels.astype(bool) if len(points) else np.zeros(0, dtype=bool)
        ras = self.image.affine[:3, :3] @ given.place + self.image.affine[:3, 3]
        return replace(
            self.blank,
            step=step,
            repeat=repeat,
            prompt=given.kind,
            ras_x=float(ras[0]),
            ras_y=float(ras[1]),
            ras_z=float(ras[2]),
            dice=scores.dice,
            iou=scores.iou,
            nsd=scores.nsd,
            hd95_mm=scores.hd95_mm,
            volume_error=scores.volume_error,
            lesion_f1=scores.lesion_f1,
            newest_respected=float(respected[-1]) if given.kind.startswith("click") else math.nan,
            all_respected=float(respected.mean()) if len(respected) else math.nan,
            predicted_iou=math.nan if answer.score is None else float(answer.score),
            seconds=seconds,
            encoder_calls=math.nan if answer.encoder_calls is None else float(answer.encoder_calls),
            presence=math.nan if answer.presence is None else float(answer.presence),
            other_side=self._other_side(answer.mask),
        )

    def _other_side(self, mask: np.ndarray) -> float:
        if self.target.mirrored is None:
            return math.nan
        own, other = self.target.truth.count_inside(mask), self.target.mirrored.count_inside(mask)
        return other / (own + other) if own + other else math.nan

    def failed(self) -> Iterator[StepRecord]:
        """The worst scores at every step."""
        protocol = self.config.protocol
        for step in range(protocol.first_step, protocol.num_corrections + 1):
            yield replace(self.blank, step=step, is_failed=True, **_zero_scores(self.target.truth.worst_mm))


def timed_answer(segmenter: InteractiveSegmenter, prompts: ObjectPrompts) -> tuple[SegmenterAnswer, float]:
    """An answer and the seconds it took; NaN for one that was only looked up."""
    started = time.perf_counter()
    answer = segmenter.predict(prompts)
    seconds = time.perf_counter() - started
    return answer, math.nan if answer.is_looked_up else seconds


def ask_for_absent(
    model: str,
    segmenter: InteractiveSegmenter,
    case: EvaluationCase,
    image: SegmenterImage,
    names: Sequence[str],
    protocol: Protocol,
) -> tuple[list[StepRecord], list[str]]:
    """Asks for structures that are not in the image.

    Returns:
        One record for each name, and what went wrong.
    """
    records, errors = [], []
    for name in names:
        nothing = TrueObject(np.zeros((1, 1, 1), dtype=bool), image.spacing_mm.tolist(), (0, 0, 0), image.array.shape)
        target = EvaluationObject(0, name, nothing)
        blank = replace(blank_record(model, case, target), is_absent=True, step=protocol.first_step)
        try:
            if isinstance(segmenter, SeesTruth):
                segmenter.set_truth(np.zeros(image.array.shape, dtype=bool))
            given = opening(protocol, nothing, name, None, True, generator_for(0))
            assert given is not None
            segmenter.start_object()
            answer, seconds = timed_answer(segmenter, given.prompts)
        except Exception as error:  # as in play_object
            logger.warning("%s failed on %s/%s, %s: %s", model, case.dataset, case.name, name, error, exc_info=True)
            records.append(replace(blank, is_failed=True, dice=0.0))
            errors.append(f"{name}: {type(error).__name__}: {error}")
            continue
        records.append(
            replace(
                blank,
                prompt=given.kind,
                dice=0.0 if np.any(answer.mask) else 1.0,
                seconds=seconds,
                presence=math.nan if answer.presence is None else float(answer.presence),
            )
        )
    return records, errors


def _zero_scores(worst_mm: float) -> dict[str, float]:
    return {"dice": 0.0, "iou": 0.0, "nsd": 0.0, "hd95_mm": worst_mm, "volume_error": -1.0, "lesion_f1": 0.0}


def blank_record(model: str, case: EvaluationCase, target: EvaluationObject | None) -> StepRecord:
    """A record with names and nothing measured; ``target`` None for a case that could not be read."""
    nan = math.nan
    voxel_ml = 0.0 if target is None else float(np.prod(target.truth.spacing_mm)) / 1000
    voxels = 0 if target is None else target.truth.num_voxels
    return StepRecord(
        model=model,
        dataset=case.dataset,
        case=case.name,
        patient=case.patient,
        modality=case.modality,
        label=0 if target is None else target.label,
        name=FAILED_CASE if target is None else target.name,
        voxels=voxels,
        volume_ml=voxels * voxel_ml,
        step=0,
        repeat=0,
        prompt="",
        ras_x=nan,
        ras_y=nan,
        ras_z=nan,
        dice=nan,
        iou=nan,
        nsd=nan,
        hd95_mm=nan,
        volume_error=nan,
        lesion_f1=nan,
        newest_respected=nan,
        all_respected=nan,
        predicted_iou=nan,
        seconds=nan,
        encoder_calls=nan,
        peak_memory_mb=nan,
        is_carried=False,
        is_failed=False,
    )


def failed_case_records(model: str, case: EvaluationCase, protocol: Protocol) -> list[StepRecord]:
    """Rows of a case that could not be read: the worst scores at every step of one nameless object."""
    blank = blank_record(model, case, None)
    steps = range(protocol.first_step, protocol.num_corrections + 1)
    return [replace(blank, step=step, is_failed=True, **_zero_scores(math.nan)) for step in steps]
