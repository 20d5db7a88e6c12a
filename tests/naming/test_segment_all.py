"""Several structures at once: a label map, its table, and each of them an object that clicks correct."""

from __future__ import annotations

import json
import logging
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from promptseg import Predictor, label_map, search, volume_checks
from promptseg.canvas import Canvas
from promptseg.label_map import render_labels
from promptseg.label_prediction import LabelPrediction
from promptseg.models import TextTerm
from promptseg.search import Finding
from promptseg.structures import Structure, parts_among, trained_structures, understand_all
from promptseg.text import encode_text
from promptseg.text_search import SIZE_WEIGHT, advantages
from promptseg.tiles import TileKey
from promptseg.volume import Volume

from .conftest import CONFIG, SHAPE, TERMS, MakePredictor, Oracle, dice, truth_of, wanted

Named = tuple[Predictor, Oracle]
NAMES = {1: "left kidney", 2: "right kidney", 3: "liver", 4: "spleen", 5: "liver tumor"}


def test_everything_the_weights_know_is_found_or_said_to_be_absent(named: Named, tmp_path: Path) -> None:
    predictor, _ = named
    result = predictor.segment_all()
    assert result.names == NAMES
    assert result.labels.shape == SHAPE
    assert result.labels.dtype == np.uint8
    for value in (1, 2, 3, 5):
        truth = wanted() == value
        assert dice(result.labels == value, truth) > 0.6, value
        assert result.presence[value] > 0.9
        assert result.scores[value] > 0.8
    assert not (result.labels == 4).any()
    assert result.presence[4] < 0.1
    assert result.scores[4] == result.volumes_ml()[4] == 0
    assert result.volumes_ml()[1] == pytest.approx((result.labels == 1).sum() * 0.002)
    saved: Any = nib.load(result.save(tmp_path / "labels.nii.gz"))
    assert np.array_equal(saved.affine, predictor.volume.affine)
    assert np.array_equal(np.asanyarray(saved.dataobj), result.labels)
    header = nib.Nifti1Header()
    header["descrip"] = b"scanner"
    placed = replace(result, volume=replace(predictor.volume, header=header))
    assert nib.load(placed.save(tmp_path / "again.nii")).header["descrip"] == b"scanner"  # type: ignore[attr-defined]
    content = json.loads(result.save_table(tmp_path / "labels.json").read_text())
    assert content["weights"] == "named"
    assert [row["name"] for row in content["labels"]] == list(NAMES.values())
    assert [row["found"] for row in content["labels"]] == [True, True, True, False, True]
    shown = [row["shown"] for row in content["labels"]]
    assert min(shown[:3]) > 0.9 and shown[4] == 1 and shown[3] == 0
    assert content["labels"][0]["volume_ml"] == pytest.approx(result.volumes_ml()[1], abs=1e-3)


def test_only_what_is_asked_for_once_and_in_that_order(named: Named) -> None:
    predictor, _ = named
    result = predictor.segment_all(["liver", "Ren dexter", "hepar"])
    assert result.names == {1: "liver", 2: "right kidney"}
    assert dice(result.labels == 1, truth_of("liver")) > 0.75
    assert predictor.segment_all("liver").names == {1: "liver"}
    with pytest.raises(ValueError, match="terms is empty"):
        predictor.segment_all([])
    with pytest.raises(ValueError, match="names no known structure"):
        predictor.segment_all(["liver", "dragon"])


def test_several_names_share_the_decoders_passes_and_the_embeddings(named: Named) -> None:
    predictor, oracle = named
    predictor.segment_all()
    assert oracle.passes[0] == (1, len(TERMS))  # all names on the tile that holds the volume
    assert [n for names in oracle.spoken[:1] for n in names] == [term.name for term in TERMS]
    encoded = predictor.encoder_calls
    tiles = sum(len(predictor.lattice.all_tiles(level)) for level in range(predictor.lattice.num_levels))
    assert encoded <= tiles
    again = predictor.segment_all()
    assert again.encoder_calls == 0
    assert predictor.encoder_calls == encoded


def test_many_names_are_decoded_a_bounded_number_at_a_time(named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, oracle = named
    expected = predictor.segment_all().labels
    monkeypatch.setattr(search, "BATCH_MASKS", 2)
    monkeypatch.setattr(search, "MAX_MASKS", 3)
    oracle.forget()
    result = predictor.segment_all()
    assert max(tiles * objects for tiles, objects in oracle.passes) <= 2
    assert np.array_equal(result.labels, expected)


def test_the_coarser_mask_is_handed_down(named: Named) -> None:
    predictor, oracle = named
    predictor.segment_all(["left kidney"])
    assert (oracle.spacings[0], oracle.has_mask[0]) == (4.0, False)
    assert all(has for spacing, has in zip(oracle.spacings, oracle.has_mask, strict=True) if spacing < 2)


def test_an_object_of_the_map_is_whole_and_corrected_by_clicks(named: Named) -> None:
    predictor, oracle = named
    result = predictor.segment_all()
    liver = result.object("liver")
    assert dice(liver.mask > 0, truth_of("liver")) > dice(result.labels == 3, truth_of("liver"))
    assert np.array_equal(result.object(3).mask, liver.mask)
    oracle.forget()
    click = (20, 60, 20)
    corrected = predictor.predict(mask=liver, points=[click])
    assert {name for names in oracle.spoken for name in names} == {"liver"}
    assert corrected.mask[click] == 1
    assert corrected.mask[liver.mask > 0].mean() > 0.95
    again = predictor.predict(text="liver", points=[click, (14, 8, 10)], labels=[1, 0])
    assert again.mask[14, 8, 10] == 0
    assert again.mask[click] == 1
    assert dice(again.mask > 0, truth_of("liver")) > dice(liver.mask > 0, truth_of("liver"))  # it is drawn finer
    with pytest.raises(ValueError, match="'pancreas' is not in this label map; it holds left kidney"):
        result.object("pancreas")


def test_an_absent_object_of_the_map_is_an_empty_mask_that_a_click_begins(named: Named) -> None:
    predictor, oracle = named
    spleen = predictor.segment_all().object("spleen")
    assert not spleen.mask.any()
    oracle.forget()
    result = predictor.predict(mask=spleen, points=[(30, 20, 20)])
    assert result.mask[30, 20, 20] == 1
    assert {name for names in oracle.spoken for name in names} == {"spleen"}


def test_an_image_smaller_than_a_tile(make_predictor: MakePredictor) -> None:
    predictor, _ = make_predictor(image=wanted()[:20, 40:, 4:20])
    result = predictor.segment_all()
    assert (result.labels == 1).any()
    assert not (result.labels == 3).any()


def test_untrained_names_are_warned_of_and_keep_their_place(named: Named, caplog: pytest.LogCaptureFixture) -> None:
    predictor, _ = named
    with caplog.at_level(logging.WARNING):
        result = predictor.segment_all(["pancreas", "liver"])
    assert result.names == {1: "pancreas", 2: "liver"}
    assert "were not trained to find 'pancreas'" in caplog.text
    assert dice(result.labels == 2, truth_of("liver")) > 0.7


# ------------------------------------------------------------------------------------------------------ overlaps


def canvases_of(predictor: Predictor, *logits: torch.Tensor) -> dict[int, Canvas]:
    tile = TileKey(2, (0, 0, 0))
    return {v: Canvas.from_tiles(predictor.lattice, [tile], x[None]) for v, x in enumerate(logits, 1)}


@pytest.mark.parametrize("slab", [3, 32])
def test_overlaps_go_to_the_larger_logit_but_to_a_part_before_its_whole(
    named: Named, monkeypatch: pytest.MonkeyPatch, slab: int
) -> None:
    predictor, _ = named
    monkeypatch.setattr(label_map, "SLAB", slab)
    first, second = torch.full((32, 32, 32), 2.0), torch.full((32, 32, 32), 1.0)
    second[16:] = 3.0
    canvases = canvases_of(predictor, first, second)
    shape = predictor.volume.canonical_shape
    by_logit, sizes = render_labels(shape, canvases)
    assert (by_logit[0] == 1).all()
    assert (by_logit[-1] == 2).all()
    assert sizes[1] == sizes[2] == by_logit.size, "each of them fills the volume, whoever is in front"
    second[:13] = -1.0
    canvases = canvases_of(predictor, first, second, torch.full((32, 32, 32), 1.5))
    with_part, sizes = render_labels(shape, canvases, {1: (2,)})
    assert set(np.unique(with_part)) == {1, 2, 3}
    assert sizes[1] == sizes[3] == with_part.size > sizes[2] > (with_part == 2).sum()
    assert (with_part[0] == 1).all()  # no part is here, and the whole is surer than the third
    assert (with_part[-1] == 2).all()
    assert (with_part[15] == 3).all()  # the part takes the whole away, and the third is surer than the part


def test_a_better_score_wins_an_overlap_but_makes_nothing_larger(named: Named) -> None:
    predictor, _ = named
    first, second = torch.full((32, 32, 32), 2.0), torch.full((32, 32, 32), 1.0)
    second[:13] = -1.0
    canvases = canvases_of(predictor, first, second)
    shape = predictor.volume.canonical_shape
    found, _ = render_labels(shape, canvases, advantages={1: 0.0, 2: 2.0})
    assert (found[-1] == 2).all() and (found[0] == 1).all()
    assert (render_labels(shape, canvases)[0][-1] == 1).all()


def test_trust_rises_with_score_presence_and_training_cases(named: Named) -> None:
    predictor, _ = named
    canvas = canvases_of(predictor, torch.full((32, 32, 32), 2.0))[1]

    def trust(*rows: tuple[float, float, int | None]) -> dict[int, float]:
        structures = [Structure(encode_text("liver"), 1.0, cases) for _, _, cases in rows]
        return advantages(structures, [Finding(canvas, presence, score) for score, presence, _ in rows])

    assert trust() == {} and trust((0.5, 0.9, 3), (0.5, 0.9, 3)) == {1: 0, 2: 0}
    assert trust((0.5, 0.9, None), (0.5, 0.9, 1)) == {1: 0, 2: 0}
    for better in ((0.7, 0.9, 3), (0.5, 0.99, 3), (0.5, 0.9, 30)):
        found = trust((0.5, 0.9, 3), better)
        assert found[1] == 0 and found[2] > 0.5
    assert trust((0.0, 0.0, 3), (1.0, 1.0, 3))[2] < 100, "finite"
    nothing = advantages([Structure(encode_text("liver"), 1.0, 3)], [Finding(None, 0.9, 0.0)])
    assert nothing == {}, "what was not found takes no part"


def test_asking_for_everything_asks_for_no_pair_twice() -> None:
    terms = tuple(TextTerm(name, 50.0, 3) for name in ("kidney", "both kidney", "left kidney", "both lung", "liver"))
    asked = [s.name for s in understand_all(replace(CONFIG, text_terms=terms), None)]
    assert asked == ["kidney", "left kidney", "both lung", "liver"]


def test_values_above_255_need_two_bytes(named: Named) -> None:
    predictor, _ = named
    canvases = {300: canvases_of(predictor, torch.full((32, 32, 32), 2.0))[1]}
    found, _ = render_labels(predictor.volume.canonical_shape, canvases)
    assert found.dtype == np.uint16
    assert (found == 300).all()
    assert render_labels((3, 4, 5), {})[0].dtype == np.uint8


def test_what_is_part_of_what() -> None:
    names = (
        "liver",
        "liver tumor",
        "left kidney",
        "right kidney",
        "kidney",
        "hippocampus",
        "left hippocampus",
        "brain",
        "anterior hippocampus",
    )
    structures = [Structure(encode_text(name), 1.0) for name in names]
    parts = {names[whole]: {names[n] for n in numbers} for whole, numbers in parts_among(structures).items()}
    assert parts == {
        "liver": {"liver tumor"},
        "kidney": {"left kidney", "right kidney"},
        "hippocampus": {"left hippocampus", "anterior hippocampus"},
        "left hippocampus": {"anterior hippocampus"},
        "brain": {"hippocampus", "left hippocampus", "anterior hippocampus"},
    }


def test_terms_of_weights_are_understood_or_refused_by_name() -> None:
    (kidney,) = trained_structures((TextTerm("left kidney", 110.0, 7),))
    assert (kidney.extent_mm, kidney.cases, kidney.is_trained) == (110.0, 7, True)
    with pytest.raises(ValueError, match="the weights' term 'flux capacitor' is not in this release's vocabulary"):
        trained_structures((TextTerm("flux capacitor", 1.0, 1),))
    with pytest.raises(ValueError, match="flux capacitor"):
        from promptseg.structures import understand

        understand(replace(CONFIG, text_terms=(TextTerm("flux capacitor", 1.0, 1),)), "liver")


def test_a_small_structure_lies_in_front_of_the_one_around_it(named: Named) -> None:
    predictor, _ = named
    small = torch.full((32, 32, 32), -2.0)
    small[12:20, 12:20, 12:20] = 2.0
    canvases = canvases_of(predictor, torch.full((32, 32, 32), 2.5), small)
    structures = [Structure(encode_text("liver"), 1.0, 3)] * 2
    trusted = advantages(structures, [Finding(canvas, 0.9, 0.5) for canvas in canvases.values()])
    ratio = canvases[1].volume_ml / canvases[2].volume_ml
    assert ratio == pytest.approx(4.0**3)
    assert trusted == {1: 0.0, 2: pytest.approx(SIZE_WEIGHT * np.log(ratio))}
    drawn, _ = render_labels(predictor.volume.canonical_shape, canvases, advantages=trusted)
    assert set(np.unique(drawn)) == {1, 2}


def test_a_label_map_is_a_key_and_one_line(named: Named) -> None:
    predictor, _ = named
    first, second = (predictor.segment_all(["left kidney", "spleen"]) for _ in range(2))
    assert {first: 1, second: 2}[first] == 1
    assert first != second
    assert repr(first) == f"LabelPrediction(1 of 2 labels, of {' x '.join(map(str, SHAPE))} voxels)"
    assert repr(first.object("left kidney")).startswith("Prediction('left kidney', ")


def test_counting_the_voxels_of_a_large_label_map_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_checks, "BLOCK_BYTES", 2**16)
    labels = np.zeros((100, 100, 200), dtype=np.uint8)
    labels[:50], labels[50:60] = 2, 3
    volume = Volume(labels, np.diag([1.0, 1.0, 2.0, 1.0]))
    result = LabelPrediction(volume, labels[::-1, :, ::-1], {1: "a", 2: "b", 3: "c"}, {}, {}, 0.0, 0)
    tracemalloc.start()
    volumes_ml = result.volumes_ml()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volumes_ml == {1: 0.0, 2: pytest.approx(2000.0), 3: pytest.approx(400.0)}
    assert peak < labels.nbytes
