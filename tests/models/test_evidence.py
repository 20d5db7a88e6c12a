"""Maps of where the intensities under a prompt occur, and what they connect to."""

from __future__ import annotations

import torch

from promptseg.models import PromptBatch, evidence
from promptseg.models.evidence import connectedness, gather_evidence, similarity


def _two_rooms(gap: bool) -> torch.Tensor:
    """A bright tile with a dark wall across the first axis, perhaps with a gap: (1, 1, 32, 32, 32)."""
    image = torch.full((1, 1, 32, 32, 32), 0.5)
    image[:, :, 14:18] = -0.5
    if gap:
        image[:, :, 14:18, 24:32, 24:32] = 0.5
    return image


def _marks(*, include: tuple[int, int, int], exclude: tuple[int, int, int] | None = None) -> torch.Tensor:
    """Dense maps (1, 1, 4, 32, 32, 32) with a small ball around each mark."""
    dense = torch.zeros(1, 1, 4, 32, 32, 32)
    for channel, centre in enumerate((include, exclude)):
        if centre is not None:
            i, j, k = centre
            dense[0, 0, channel, i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = 1
    return dense


def test_what_looks_like_the_mark_is_similar_and_what_does_not_is_not():
    alike, _ = gather_evidence(_two_rooms(gap=False), _marks(include=(6, 6, 6), exclude=(16, 6, 6)))
    wall = slice(14, 18)
    assert alike[0, 0, :14].min() > 0.99 and alike[0, 0, wall].max() < 0.01
    assert alike[0, 1, wall].min() > 0.99 and alike[0, 1, :14].max() < 0.01


def test_a_wall_cuts_the_connection_and_a_gap_restores_it():
    for gap in (False, True):
        alike, joined = gather_evidence(_two_rooms(gap), _marks(include=(6, 6, 6)))
        assert joined.shape == (1, 2, 16, 16, 16)
        assert alike[0, 0, 20:].min() > 0.99, "the other room looks the same"
        assert joined[0, 0, :7].min() > 0.99
        assert bool(joined[0, 0, 10:].min() > 0.99) is gap


def test_without_marks_there_is_no_evidence():
    alike, joined = gather_evidence(_two_rooms(gap=True), torch.zeros(1, 1, 4, 32, 32, 32))
    assert not alike.any() and not joined.any()


def test_several_marked_intensities_are_all_similar():
    image = torch.tensor([[-0.8, -0.8, 0.1, 0.1, 0.9, 0.9]])
    found = similarity(image, torch.tensor([[[1.0, 0, 0, 0, 1.0, 0]]]))[0, 0]
    assert torch.allclose(found, torch.tensor([1.0, 1, 0, 0, 1, 1]), atol=1e-3)


def test_what_a_gpu_counts_by_products_is_what_is_counted_voxel_by_voxel(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(evidence, "CHUNK", 100)
    index, marks = torch.randint(evidence.NUM_BINS, (2, 250)), torch.rand(2, 3, 250)
    counted = evidence._histogram(index, marks)
    assert torch.allclose(evidence._histogram_by_products(index, marks), counted, rtol=0.01)
    counts = (evidence._histogram_by_products(index, marks.round()), evidence._histogram(index, marks.round()))
    assert torch.equal(*counts)
    assert torch.allclose(counted.sum(dim=2), marks.sum(dim=2), rtol=1e-5)


def test_a_path_is_as_strong_as_its_weakest_cell():
    affinity = torch.tensor([0.9, 0.8, 0.3, 1.0]).reshape(1, 4, 1, 1)
    seeds = torch.zeros_like(affinity)
    seeds[0, 0] = 0.9
    assert torch.allclose(connectedness(affinity, seeds).flatten(), torch.tensor([0.9, 0.8, 0.3, 0.3]))


def test_objects_and_tiles_do_not_mix():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 32, 32, 32) * 2 - 1
    places = [(6, 6, 6), (20, 20, 20), (9, 22, 5), (25, 8, 16)]
    dense = torch.cat([_marks(include=p, exclude=(16, 16, 16)) for p in places]).reshape(2, 2, 4, 32, 32, 32)
    together = gather_evidence(images, dense)
    for tile in range(2):
        for number in range(2):
            alone = gather_evidence(images[tile : tile + 1], dense[tile : tile + 1, number : number + 1])
            for whole, part in zip(together, alone, strict=True):
                assert torch.allclose(whole[2 * tile + number], part[0], atol=1e-5)


def test_a_model_that_gives_the_evidence_no_weight_answers_as_one_without_it(make_model):
    plain, aware = make_model(), make_model(intensity_evidence=True)
    weights = plain.state_dict()
    stem = weights.pop("mask_decoder.prompt_stem.weight")
    wider = torch.zeros(len(stem), 8, 7)
    wider[:, :, :5] = stem.reshape(len(stem), 8, 5)
    weights["mask_decoder.prompt_stem.weight"] = torch.cat([wider.flatten(1), torch.zeros(len(stem), 2)], dim=1)
    missing = aware.load_state_dict(weights, strict=False).missing_keys
    assert missing == ["mask_decoder.evidence_prior"]
    click = PromptBatch(torch.full((1, 1, 1, 3), 12.0), torch.ones(1, 1, 1, dtype=torch.long))
    image, spacing = torch.rand(1, 1, 32, 32, 32), torch.ones(1, 3)
    with torch.no_grad():
        expected = plain(image, spacing, click).mask_logits
        assert torch.allclose(aware(image, spacing, click).mask_logits, expected, atol=1e-5)
        aware.mask_decoder.evidence_prior += 1
        assert (aware(image, spacing, click).mask_logits >= expected - 1e-5).all()
        assert not torch.allclose(aware(image, spacing, click).mask_logits, expected, atol=1e-2)
