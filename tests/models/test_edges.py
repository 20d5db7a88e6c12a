"""Logits that follow the image's edges."""

from __future__ import annotations

import pytest
import torch

from promptseg.models import PromptBatch
from promptseg.models.edges import LARGEST_LOGIT, follow_edges


def halves() -> torch.Tensor:
    """A tile that is dark up to plane 7 and bright from plane 8 on, with a little noise."""
    image = torch.full((1, 1, 16, 16, 16), -0.5)
    image[:, :, 8:] = 0.5
    return image + 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))


def test_what_no_edge_divides_is_outvoted_and_what_lies_beyond_one_is_not_heard() -> None:
    logits = torch.full((1, 1, 16, 16, 16), -2.0)
    logits[:, :, :8] = 2.0
    logits[0, 0, 4, 8, 8] = -2.0  # a hole among voxels that look alike
    logits[0, 0, 8, 8, 8] = 2.0  # and a voxel that was drawn beyond the edge
    followed = follow_edges(logits, halves())[0, 0]
    assert (followed[:8] > 0).all()
    assert (followed[8:] < 0).all()
    loud = logits.clone()
    loud[:, :, :8] = 6.0
    torch.testing.assert_close(follow_edges(loud, halves())[0, 0, 8:], followed[8:], rtol=0, atol=1e-3)


def test_a_mask_that_ends_beside_the_edge_is_drawn_up_to_it() -> None:
    planes = torch.tensor([3.0] * 6 + [-0.3] * 2 + [-3.0] * 8)  # unsure of the last two before the image's edge
    logits = planes[None, None, :, None, None].expand(1, 1, 16, 16, 16)
    followed = follow_edges(logits, halves())[0, 0]
    assert (followed[:8] > 0).all()
    assert (followed[8:] < 0).all()


def test_equal_logits_stay_equal_whatever_the_image_shows() -> None:
    image = 2 * torch.rand(2, 1, 8, 8, 8) - 1
    logits = torch.tensor([-1.5, 0.25, 30.0])[None, :, None, None, None].expand(2, 3, 8, 8, 8)
    bent = LARGEST_LOGIT * torch.tanh(logits / LARGEST_LOGIT)
    torch.testing.assert_close(follow_edges(logits, image), bent)


def test_its_gradient_is_that_of_its_steps() -> None:
    generator = torch.Generator().manual_seed(1)
    image = 0.2 * torch.rand(2, 1, 5, 6, 7, generator=generator)
    logits = (1e-3 * torch.randn(2, 3, 5, 6, 7, generator=generator)).requires_grad_()  # where bending is linear
    wanted = torch.randn(logits.shape, generator=generator)
    (gradient,) = torch.autograd.grad((follow_edges(logits, image) * wanted).sum(), logits)
    step = 1e-3 * torch.randn(logits.shape, generator=generator)
    difference = follow_edges(logits.detach() + step, image) - follow_edges(logits.detach(), image)
    torch.testing.assert_close((difference * wanted).sum(), (gradient * step).sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("multimask", [False, True])
def test_a_decoder_that_follows_edges_draws_each_object_as_if_it_were_alone(make_model, multimask) -> None:
    torch.manual_seed(0)
    model = make_model(follow_edges=True)
    image = torch.rand(2, 1, 32, 32, 32)
    points = torch.randint(4, 28, (2, 3, 1, 3)).float()
    labels = torch.ones(2, 3, 1, dtype=torch.long)
    with torch.no_grad():
        embedding = model.encode_image(image, torch.ones(2, 3))
        together = model.decode(embedding, PromptBatch(points, labels), multimask).mask_logits
        alone = model.decode(embedding[1], PromptBatch(points[1:, 2:], labels[1:, 2:]), multimask).mask_logits
        model.mask_decoder.follows_edges = False
        before = model.decode(embedding, PromptBatch(points, labels), multimask).mask_logits
    torch.testing.assert_close(together[1:, 2:], alone, rtol=1e-4, atol=1e-4)
    expected = torch.stack([follow_edges(before[:, :, m], image) for m in range(before.shape[2])], dim=2)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
