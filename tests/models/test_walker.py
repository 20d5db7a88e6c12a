"""What clicks say of a tile by its edges alone."""

from __future__ import annotations

import pytest
import torch

from promptseg.models import PromptBatch
from promptseg.models.walker import DOUBT_WEIGHT, LARGEST_VOTE, vote

HALF = torch.full((1, 1), 0.5)


def halves() -> torch.Tensor:
    """A tile that is dark up to plane 15 and bright from plane 16 on, with a little noise."""
    image = torch.full((1, 1, 32, 32, 32), -0.5)
    image[:, :, 16:] = 0.5
    return image + 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))


def clicks(include: tuple[int, int, int] | None, exclude: tuple[int, int, int] | None) -> torch.Tensor:
    """Marks of three voxels a side around each click: (1, 1, 2, 32, 32, 32)."""
    marks = torch.zeros(1, 1, 2, 32, 32, 32)
    for channel, click in enumerate((include, exclude)):
        if click is not None:
            marks[(0, 0, channel, *(slice(c - 1, c + 2) for c in click))] = 1.0
    return marks


def test_all_on_a_clicks_side_of_an_edge_is_voted_for_and_all_beyond_it_against() -> None:
    undecided = torch.zeros(1, 1, 32, 32, 32)
    votes = vote(undecided, halves(), clicks((8, 16, 16), (24, 16, 16)), HALF)[0, 0]
    inner = slice(6, 26)
    assert (votes[4:14, inner, inner] > 0).all()
    assert (votes[18:28, inner, inner] < 0).all()
    swapped = vote(undecided, halves(), clicks((24, 16, 16), (8, 16, 16)), HALF)[0, 0]
    torch.testing.assert_close(swapped.flip(0)[inner, inner, inner], votes[inner, inner, inner], rtol=0, atol=0.05)


def test_what_the_network_drew_at_the_border_meets_the_walker() -> None:
    image = torch.zeros(1, 1, 32, 32, 32)
    marks = clicks((16, 16, 16), (16, 16, 4))
    outside, inside = (vote(torch.full_like(image, level), image, marks, HALF)[0, 0] for level in (-8.0, 8.0))
    assert inside[:, :, 20:].mean() > outside[:, :, 20:].mean() + 0.5


def test_votes_are_bounded_and_objects_and_tiles_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    image = 2 * torch.rand(2, 1, 16, 16, 16, generator=generator) - 1
    logits = 4 * torch.randn(2, 3, 16, 16, 16, generator=generator)
    marks = (torch.rand(2, 3, 2, 16, 16, 16, generator=generator) > 0.995).float()
    doubt = torch.rand(2, 3, generator=generator)
    votes = vote(logits, image, marks, doubt)
    most = DOUBT_WEIGHT * LARGEST_VOTE * doubt[..., None, None, None]
    assert votes.isfinite().all() and (votes.abs() <= most + 1e-5).all()
    alone = vote(logits[1:, 2:], image[1:], marks[1:, 2:], doubt[1:, 2:])
    torch.testing.assert_close(votes[1:, 2:], alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_a_decoder_walks_from_the_second_click_on(make_model, count) -> None:
    torch.manual_seed(0)
    model = make_model(walk_from_clicks=True)
    image = torch.randn(1, 1, 32, 32, 32).clamp(-1, 1)
    points = torch.tensor([[[[8.0, 8, 8], [24.0, 24, 24]]]])[:, :, :count]
    prompts = PromptBatch(points, torch.tensor([[[1, 0]]])[:, :, :count])
    with torch.no_grad():
        embedding = model.encode_image(image, torch.ones(1, 3))
        walked = model.decode(embedding, prompts)
        candidates = model.decode(embedding, prompts, multimask=True)
        model.mask_decoder.walks_from_clicks = False
        plain = model.decode(embedding, prompts)
    assert torch.equal(walked.mask_logits, plain.mask_logits) is (count == 1)
    torch.testing.assert_close(candidates.mask_logits[:, :, 0], plain.mask_logits[:, :, 0])


def test_the_less_the_network_thinks_of_its_mask_the_more_the_walker_counts(make_model) -> None:
    torch.manual_seed(0)
    model = make_model(walk_from_clicks=True)
    decoder, image = model.mask_decoder, torch.randn(1, 1, 32, 32, 32).clamp(-1, 1)
    prompts = PromptBatch(torch.tensor([[[[8.0, 8, 8], [24.0, 24, 24]]]]), torch.tensor([[[1, 0]]]))
    changes = []
    with torch.no_grad():
        embedding = model.encode_image(image, torch.ones(1, 3))
        decoder.iou_head.fc2.weight.zero_()
        for bias in (-8.0, 0.0, 8.0):  # it expects nothing, half, all
            decoder.iou_head.fc2.bias.fill_(bias)
            decoder.walks_from_clicks = False
            plain = model.decode(embedding, prompts).mask_logits
            decoder.walks_from_clicks = True
            changes.append(float((model.decode(embedding, prompts).mask_logits - plain).abs().mean()))
    assert changes[0] > 1.5 * changes[1] > 0 and changes[2] < 0.01 * changes[1]
