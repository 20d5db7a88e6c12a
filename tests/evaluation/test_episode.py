"""Whole episodes whose scores are known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from promptseg.evaluation.episode import Episode, EpisodeConfig, play_object
from promptseg.evaluation.prompts import ObjectPrompts
from promptseg.evaluation.protocols import PROTOCOLS, Protocol, choose_protocol
from promptseg.evaluation.records import StepRecord
from promptseg.evaluation.runner import without_timing
from promptseg.evaluation.segmenters import (
    ClickedVoxelsSegmenter,
    EmptySegmenter,
    InteractiveSegmenter,
    OracleSegmenter,
    SegmenterAnswer,
    SegmenterImage,
)

from .conftest import MemoryCase, ball, make_image, make_target

CUBE = np.zeros((11, 11, 11), bool)
CUBE[4:7, 4:7, 4:7] = True


class Flipper:
    """Starts from a mask and does nothing but set each clicked voxel as it was clicked."""

    accepts = frozenset({"points"})

    def __init__(self, start: np.ndarray) -> None:
        self.start = start

    def set_image(self, image: SegmenterImage) -> None:
        """Needs none."""

    def start_object(self) -> None:
        """Nothing to forget."""

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """The mask with the clicked voxels set."""
        mask = self.start.copy()
        mask[tuple(prompts.points.T)] = prompts.labels.astype(bool)
        return SegmenterAnswer(mask)


def play(
    segmenter: InteractiveSegmenter, mask: np.ndarray, protocol: str | Protocol = "clicks", **options: int
) -> Episode:
    image = make_image(np.zeros(mask.shape, np.float32))
    segmenter.set_image(image)
    config = EpisodeConfig(choose_protocol(protocol) if isinstance(protocol, str) else protocol, **options)
    return play_object("model", segmenter, MemoryCase(), image, make_target(mask), config)


def main_records(episode: Episode) -> list[StepRecord]:
    return [r for r in episode.records if r.repeat == 0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_oracle_scores_one_after_its_first_prompt_in_every_protocol(protocol: str) -> None:
    records = main_records(play(OracleSegmenter(), CUBE, protocol))
    first = 1 if protocol == "mask" else 0  # whose step 0 is the mask that is handed over
    assert all((r.dice, r.iou, r.nsd, r.hd95_mm, r.lesion_f1) == (1, 1, 1, 0, 1) for r in records[first:])
    assert all(r.is_carried and r.prompt == "" and math.isnan(r.seconds) for r in records[first + 1 :])
    assert len(records) == PROTOCOLS[protocol].num_corrections + (0 if PROTOCOLS[protocol].opens_with_click else 1)


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"mask"}))
def test_an_empty_model_scores_zero_in_every_protocol(protocol: str) -> None:
    records = main_records(play(EmptySegmenter(), CUBE, protocol))
    assert all((r.dice, r.iou, r.nsd, r.lesion_f1, r.volume_error) == (0, 0, 0, 0, -1) for r in records)
    assert not any(r.is_carried or r.is_failed for r in records)
    assert all(r.newest_respected == 0 for r in records if r.prompt.startswith("click"))


def test_clicked_voxels_alone_give_the_dice_of_counting_them() -> None:
    records = main_records(play(ClickedVoxelsSegmenter(), CUBE))
    assert [r.dice for r in records] == pytest.approx([2 * n / (27 + n) for n in range(1, 11)])
    assert [r.volume_error for r in records] == pytest.approx([n / 27 - 1 for n in range(1, 11)])
    assert all(r.prompt == "click+" and r.all_respected == 1 for r in records)


def test_a_model_that_only_flips_the_clicked_voxel_behaves_as_computed_by_hand() -> None:
    start = CUBE.copy()
    start[5, 5, 8:11] = True  # three superfluous voxels in a row, apart from the cube
    records = main_records(play(Flipper(start), CUBE))
    assert [r.prompt for r in records[:5]] == ["click+", "click-", "click-", "click-", ""]
    assert [(r.ras_x, r.ras_y, r.ras_z) for r in records[:2]] == [(5, 5, 5), (5, 5, 9)]
    assert {(r.ras_x, r.ras_y, r.ras_z) for r in records[2:4]} == {(5, 5, 8), (5, 5, 10)}
    assert [r.dice for r in records[:4]] == pytest.approx([54 / 57, 54 / 56, 54 / 55, 1.0])
    assert [r.lesion_f1 for r in records[:4]] == pytest.approx([2 / 3, 2 / 4, 2 / 3, 1])
    assert [r.dice for r in records[4:]] == [1.0] * 6
    assert all(r.is_carried for r in records[4:])


def test_a_user_who_is_not_exact_clicks_elsewhere_and_stays_in_the_error() -> None:
    mask = ball((24, 20, 18), (11, 10, 9), 6)
    exact, loose, again = (
        main_records(play(EmptySegmenter(), mask, choose_protocol("clicks", None, depth))) for depth in (1.0, 0.3, 0.3)
    )
    assert repr([without_timing(r) for r in loose]) == repr([without_timing(r) for r in again])
    assert {(r.ras_x, r.ras_y, r.ras_z) for r in exact} == {(11, 10, 9)}
    places = {(r.ras_x, r.ras_y, r.ras_z) for r in loose}
    assert len(places) > 5
    assert all(mask[tuple(int(v) for v in place)] for place in places)


def test_every_protocol_is_deterministic_under_a_seed() -> None:
    mask = ball((24, 20, 18), (11, 10, 9), 6)
    for protocol in PROTOCOLS:
        plays = [
            [
                without_timing(r)
                for r in play(ClickedVoxelsSegmenter(), mask, protocol, seed=s, jitter_repeats=2).records
            ]
            for s in (0, 0, 1)
        ]
        assert repr(plays[0]) == repr(plays[1])
        if protocol in ("mask", "cvpr25", "clicks"):
            assert repr(plays[0]) != repr(plays[2])  # the corruption; the box's shift; the jitter


def test_jittered_repeats_give_the_first_prompt_elsewhere_and_leave_the_main_run_alone() -> None:
    mask = ball((24, 20, 18), (11, 10, 9), 6)
    without = play(ClickedVoxelsSegmenter(), mask)
    with_jitter = play(ClickedVoxelsSegmenter(), mask, jitter_repeats=3)
    shaken = [r for r in with_jitter.records if r.repeat]
    assert [r.repeat for r in shaken] == [1, 2, 3]
    assert all(r.step == 1 and r.prompt == "click+" and r.dice > 0 for r in shaken)
    assert any((r.ras_x, r.ras_y, r.ras_z) != (11, 10, 9) for r in shaken)
    main = [without_timing(r) for r in main_records(with_jitter)]
    assert repr(main) == repr([without_timing(r) for r in without.records])


class Fragile(ClickedVoxelsSegmenter):
    """Fails at the third click."""

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """Raises from the third click on."""
        if len(prompts.points) == 3:
            raise RuntimeError("third click")
        return super().predict(prompts)


class Misshapen(ClickedVoxelsSegmenter):
    """Answers on another grid."""

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """A mask of another shape."""
        return SegmenterAnswer(super().predict(prompts).mask[:-1])


@pytest.mark.parametrize(
    ("segmenter", "words"), [(Fragile(), "third click"), (Misshapen(), "expected the image's grid")]
)
def test_an_object_on_which_a_model_fails_counts_as_zero_at_every_step(
    segmenter: InteractiveSegmenter, words: str
) -> None:
    episode = play(segmenter, CUBE)
    assert words in episode.error
    assert [r.step for r in episode.records] == list(range(1, 11))
    assert all(r.is_failed and r.dice == 0 and r.nsd == 0 for r in episode.records)
    assert all(r.hd95_mm == pytest.approx(11 * math.sqrt(3)) for r in episode.records)


def test_a_mask_of_numbers_is_taken_as_what_is_not_zero() -> None:
    class Numbers(OracleSegmenter):
        def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
            return SegmenterAnswer(self._truth.astype(np.float32) * 7)

    assert play(Numbers(), CUBE).records[0].dice == 1


def test_the_time_of_an_answer_that_was_looked_up_is_not_counted() -> None:
    """It was computed with an earlier one; as zero seconds it would make the median of all answers zero."""

    class Finder(OracleSegmenter):
        found = False

        def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
            answer = SegmenterAnswer(self._truth, is_looked_up=self.found)
            self.found = True
            return answer

    finder, truth = Finder(), ball((9, 9, 9), (4, 4, 4), 3)
    seconds = [play(finder, truth, "auto").records[0].seconds for _ in range(3)]
    assert np.isfinite(seconds).tolist() == [True, False, False]


def test_the_mask_protocol_starts_at_a_dice_of_seven_tenths() -> None:
    mask = ball((28, 28, 28), (14, 14, 14), 9)
    records = main_records(play(ClickedVoxelsSegmenter(), mask, "mask"))
    assert records[0].prompt == "mask"
    assert records[0].dice == pytest.approx(0.7, abs=0.02)
    assert all(later.dice > earlier.dice for earlier, later in zip(records, records[1:], strict=False))


def test_a_challenge_case_without_a_box_starts_with_nothing() -> None:
    image = make_image(np.zeros(CUBE.shape, np.float32))
    segmenter = OracleSegmenter()
    config = EpisodeConfig(choose_protocol("cvpr25"), keeps_steps=True)
    episode = play_object("m", segmenter, MemoryCase(), image, make_target(CUBE), config, None, has_boxes=False)
    assert [r.dice for r in episode.records] == [0, 1, 1, 1, 1, 1]
    assert [r.prompt for r in episode.records][:2] == ["", "click+"]
    assert [int(m.part.sum()) for m in episode.masks] == [0, 27, 27, 27, 27, 27]
