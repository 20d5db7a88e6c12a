"""A name as a prompt: it is looked for in the whole image, stays with the object, and combines with clicks."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from promptseg import InteractionConfig, Predictor, text_search
from promptseg.search import Finding

from .conftest import CONFIG, SHAPE, MakePredictor, Oracle, dice, truth_of, wanted

Named = tuple[Predictor, Oracle]


def test_a_structure_is_found_in_the_whole_image_by_its_name(named: Named) -> None:
    predictor, _ = named
    assert predictor.understands_text
    for name, text in (("left kidney", "Ren sinister"), ("liver", "liver"), ("right kidney", "kidney_right")):
        result = predictor.predict(text=text)
        assert result.mask.shape == SHAPE
        assert dice(result.mask > 0, truth_of(name)) > 0.75, name
        assert result.name == name
        assert result.presence > 0.9
        assert result.score > 0.8


def test_small_structures_are_drawn_finer_than_large_ones(named: Named) -> None:
    predictor, _ = named
    assert predictor.predict(text="left kidney").level_spacing_mm == 1
    assert predictor.predict(text="liver").level_spacing_mm == 1  # in parts that each tile shows one of
    predictor.interaction_config = InteractionConfig(late_span=1.0)
    predictor.set_image(predictor.volume)
    assert predictor.predict(text="liver").level_spacing_mm == 2


def test_what_is_absent_gives_an_empty_mask_a_warning_and_a_low_presence(
    named: Named, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, _ = named
    with caplog.at_level(logging.WARNING):
        result = predictor.predict(text="spleen")
    assert not result.mask.any()
    assert result.mask.shape == SHAPE
    assert result.presence < 0.1
    assert result.score == 0
    assert "'spleen' was not found (presence 0.0" in caplog.text
    assert "add a point on it" in caplog.text


def test_a_click_after_an_empty_answer_says_where_to_begin(named: Named) -> None:
    predictor, _ = named
    predictor.predict(text="spleen")
    result = predictor.predict(text="spleen", points=[(30, 20, 20)])
    assert result.mask[30, 20, 20] == 1
    at_once = predictor.set_image(wanted().astype(np.float32), affine=predictor.volume.affine)
    assert np.array_equal(at_once.predict(text="spleen", points=[(30, 20, 20)]).mask, result.mask)


def test_a_click_goes_on_from_what_the_name_found_and_keeps_the_name(named: Named) -> None:
    predictor, oracle = named
    first = predictor.predict(text="liver")
    oracle.forget()
    points, labels = [(20, 43, 20), (14, 8, 10)], [1, 0]
    second = predictor.predict(text="liver", points=points[:1], labels=labels[:1])
    assert {name for names in oracle.spoken for name in names} == {"liver"}
    assert second.mask[20, 43, 20] == 1
    assert second.mask[first.mask > 0].mean() > 0.95  # what was found stays
    third = predictor.predict(text="Hepar", points=points, labels=labels)  # the same structure in other words
    assert third.mask[14, 8, 10] == 0
    assert third.mask[20, 43, 20] == 1
    assert dice(third.mask > 0, first.mask > 0) > 0.9
    assert {name for names in oracle.spoken for name in names} == {"liver"}


def test_other_words_begin_another_object(named: Named) -> None:
    predictor, _ = named
    predictor.predict(text="left kidney", points=[(9, 56, 11)])
    result = predictor.predict(text="right kidney", points=[(9, 56, 11), (30, 56, 11)])
    assert dice(result.mask > 0, truth_of("right kidney")) > 0.7


def test_a_click_beside_a_name_says_where_and_the_name_what(named: Named) -> None:
    predictor, oracle = named
    result = predictor.predict(text="liver", points=[(18, 15, 15)])
    assert dice(result.mask > 0, truth_of("liver")) > 0.75
    assert len(oracle.passes) <= 4
    assert {name for names in oracle.spoken for name in names} == {"liver"}
    assert all(len(names) == 1 for names in oracle.spoken)
    bare = predictor.predict(points=[(18, 15, 15)])
    assert dice(bare.mask > 0, truth_of("liver")) < 0.5  # the word made the difference
    assert bare.name is None


def test_a_name_combines_with_a_box_and_with_a_mask(named: Named) -> None:
    predictor, oracle = named
    for prompt in ({"box": (4, 50, 7, 15, 61, 15)}, {"mask": truth_of("left kidney")}):
        oracle.forget()
        result = predictor.predict(text="left kidney", **prompt)
        assert dice(result.mask > 0, truth_of("left kidney")) > 0.7
        assert {name for names in oracle.spoken for name in names} == {"left kidney"}


def test_only_excluding_clicks_are_allowed_beside_a_name(named: Named) -> None:
    predictor, _ = named
    result = predictor.predict(text="left kidney", points=[(9, 56, 10)], labels=[0])
    assert result.mask[9, 56, 10] == 0
    assert dice(result.mask > 0, truth_of("left kidney")) > 0.5


def test_logits_that_are_handed_back_keep_the_name(named: Named) -> None:
    predictor, oracle = named
    first = predictor.predict(text="liver")
    predictor.predict(text="left kidney")
    oracle.forget()
    result = predictor.predict(mask=first, points=[(20, 43, 20)])
    assert {name for names in oracle.spoken for name in names} == {"liver"}
    assert result.name == "liver"
    assert result.mask[20, 43, 20] == 1
    assert result.mask[first.mask > 0].mean() > 0.95


def test_a_second_search_encodes_nothing(named: Named) -> None:
    predictor, _ = named
    first = predictor.predict(text="liver")
    assert first.encoder_calls > 0
    assert predictor.predict(text="left kidney").encoder_calls <= 40  # its own place at the finest level, five times
    assert predictor.predict(text="liver").encoder_calls == 0


def test_no_name_no_word_in_the_decoder(named: Named) -> None:
    predictor, oracle = named
    predictor.predict(points=[(18, 15, 15)])
    assert {name for names in oracle.spoken for name in names} == {""}


def test_a_structure_that_was_not_trained_on_is_warned_of_and_answered(
    named: Named, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, oracle = named
    with caplog.at_level(logging.WARNING):
        result = predictor.predict(text="pancreas")
    assert "weights 'named' were not trained to find 'pancreas'" in caplog.text
    assert "left kidney, right kidney, liver, spleen" in caplog.text
    assert result.name == "pancreas"
    assert oracle.passes
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        predictor.predict(text="pancreas", points=[(20, 20, 20)])
    assert "not trained" not in caplog.text  # said once for an object
    with caplog.at_level(logging.WARNING):
        predictor.predict(text="kidneys")
    assert "they were trained on left kidney, right kidney\n" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        predictor.predict(text="liver")
    assert not caplog.text


def test_unknown_words_are_an_error_with_the_nearest_terms(named: Named) -> None:
    predictor, _ = named
    with pytest.raises(ValueError, match="names no known structure; the nearest known terms"):
        predictor.predict(text="hepatic dragon")
    with pytest.raises(ValueError, match="an object has one name; ask for several objects with segment_all"):
        predictor.predict(text=["liver", "spleen"])
    with pytest.raises(ValueError, match="expected a word"):
        predictor.predict(text=" ")


def test_weights_of_another_sentence_encoder_refuse_words(make_predictor: MakePredictor) -> None:
    predictor, _ = make_predictor(replace(CONFIG, name="elsewhere", text_encoder="f" * 64))
    with pytest.raises(ValueError, match="weights 'elsewhere' were trained with the embeddings .* ffffffffffff"):
        predictor.predict(text="liver")
    with pytest.raises(ValueError, match="all terms: weights 'elsewhere'"):
        predictor.segment_all()


def test_weights_without_text_name_themselves_and_the_cure(make_predictor: MakePredictor) -> None:
    predictor, _ = make_predictor(replace(CONFIG, name="mute", text_terms=(), text_encoder=""))
    assert not predictor.understands_text
    with pytest.raises(ValueError, match="text='liver': weights 'mute' were not trained with text; give a point"):
        predictor.predict(text="liver")
    with pytest.raises(ValueError, match="all terms: weights 'mute' were not trained with text"):
        predictor.segment_all()


@pytest.mark.parametrize(("presence", "is_drawn"), [(0.95, True), (0.5, False)])
def test_what_is_seen_and_not_drawn_is_pointed_at_where_it_is_seen(
    named: Named, monkeypatch: pytest.MonkeyPatch, presence: float, is_drawn: bool
) -> None:
    predictor, _ = named
    truth = truth_of("left kidney")
    middle = np.argwhere(truth).mean(axis=0)
    canonical = np.array([SHAPE[0] - 1 - middle[0], SHAPE[1] - 1 - middle[1], middle[2]])  # the image is LPS
    seen = Finding(presence=presence, place_vox=canonical, reach_vox=np.full(3, 4.0))
    monkeypatch.setattr(text_search, "find_structures", lambda *_: [seen])
    monkeypatch.setattr(text_search, "place_of", lambda engine, finding, *_: finding.place_vox)
    result = predictor.predict(text="left kidney")
    assert (dice(result.mask > 0, truth) > 0.7) is is_drawn
    assert result.presence == pytest.approx(presence)


def test_a_side_in_an_image_of_unknown_orientation_is_warned_of_once(
    named: Named, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, _ = named
    predictor.predict(text="left kidney")
    assert "orientation" not in caplog.text
    predictor.set_image(wanted().astype(np.float32), spacing=(1, 1, 2))
    caplog.clear()
    for text, times in (("liver", 0), ("both kidney", 0), ("left kidney", 1), ("left kidney", 1), ("right kidney", 2)):
        predictor.predict(text=text, points=[(10, 10, 10)])
        assert caplog.text.count("the orientation of the image is unknown") == times, text
    assert "left kidney: " in caplog.text
    assert "may be the other side" in caplog.text


def test_an_answer_handed_over_with_its_name_alone_is_refused(named: Named) -> None:
    predictor, _ = named
    found = predictor.predict(text="liver")
    with pytest.raises(ValueError, match="alone changes nothing; add a point"):
        predictor.predict(mask=found, text="liver", points=[])
