"""Features where points lie, and maps of where the image shows the like."""

from __future__ import annotations

import pytest
import torch

from promptseg.models import ImageEmbedding, PromptableModel, PromptBatch
from promptseg.models.point_features import PointFeatures, read_at_points
from promptseg.models.tokens import decode_with_tokens
from promptseg.training.initialisation import initialise


@pytest.fixture
def embedding() -> ImageEmbedding:
    """A tile of 32^3 whose lower half along the first axis has other features, at all strides, than the upper one."""
    torch.manual_seed(0)
    kinds = [torch.randn(2, channels) for channels in (8, 8, 8, 24)]
    maps = []
    for stride, (low, high) in zip((2, 4, 8, 16), kinds, strict=True):
        size = 32 // stride
        whole = torch.empty(1, len(low), size, size, size)
        whole[:, :, : size // 2], whole[:, :, size // 2 :] = low[:, None, None, None], high[:, None, None, None]
        maps.append(whole)
    return ImageEmbedding(maps[3], (maps[0], maps[1], maps[2]), torch.zeros(1, 1, 32, 32, 32), torch.ones(1, 3))


@pytest.fixture
def features(make_model) -> PointFeatures:
    torch.manual_seed(1)
    found = make_model(point_features=True).mask_decoder.point_features
    torch.nn.init.normal_(found.mlp.fc2.weight)
    return found


LOW, HIGH = (4.0, 9.0, 20.0), (27.0, 9.0, 20.0)


def _marks(*objects: list[tuple[tuple[float, float, float], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.tensor([[[point for point, _ in marks] for marks in objects]])
    return points, torch.tensor([[[label for _, label in marks] for marks in objects]])


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_a_value_is_read_at_a_cells_centre_and_interpolated_between(stride):
    size = 32 // stride
    centres = torch.arange(size) * stride + (stride - 1) / 2
    ramps = torch.stack(torch.meshgrid(centres, centres + 100, centres + 200, indexing="ij"))[None]
    points = torch.tensor([[[15.5, 15.5, 15.5], [stride, 2.0 * stride, 16.0 - stride], [-50.0, 15.5, 90.0]]])[None]
    found = read_at_points(ramps.float(), points[:, :, :2], stride)
    if size > 2:
        assert torch.allclose(found[0, 0], points[0, 0, :2] + torch.tensor([0.0, 100, 200]), atol=1e-3)
    assert torch.allclose(found[0, 0, 0], torch.tensor([15.5, 115.5, 215.5]), atol=1e-3)
    beyond = read_at_points(ramps.float(), points[:, :, 2:], stride)[0, 0, 0]
    assert torch.allclose(beyond, torch.stack([centres[0], torch.tensor(115.5), 200 + centres[-1]]), atol=1e-3)


def test_a_token_tells_what_its_point_lies_on_and_not_where(features, embedding):
    points, labels = _marks([(LOW, 1), ((6.0, 22.0, 7.0), 1), (HIGH, 1)])
    tokens, _ = features(embedding, points, labels)
    assert torch.allclose(tokens[0, 0, 0], tokens[0, 0, 1], atol=1e-5)
    assert not torch.allclose(tokens[0, 0, 0], tokens[0, 0, 2], atol=1e-2)


def test_cells_are_like_what_was_clicked_on_either_side(features, embedding):
    _, likeness = features(embedding, *_marks([(LOW, 1), (HIGH, 0)]))
    assert likeness.shape == (1, 4, 16, 16, 16)
    include, exclude = likeness[0].split(2)
    for maps, alike, other in ((include, slice(0, 6), slice(10, 16)), (exclude, slice(10, 16), slice(0, 6))):
        assert torch.allclose(maps[:, alike], torch.ones(()), atol=1e-4)
        assert (maps[:, other] < 0.9).all()


def test_a_side_without_points_and_an_absent_point_say_nothing(features, embedding):
    _, likeness = features(embedding, *_marks([(LOW, 1), (HIGH, -1)], [(LOW, -1), (HIGH, -1)]))
    _, alone = features(embedding, *_marks([(LOW, 1)]))
    assert torch.allclose(likeness[:1], alone, atol=1e-5)
    assert not likeness[0, 2:].any() and not likeness[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_box_without_points_is_answered_as_one_beside_a_point_that_is_absent(make_model, dtype):
    model = make_model(point_features=True, intensity_evidence=True).to(dtype)
    torch.nn.init.normal_(model.mask_decoder.point_features.mlp.fc2.weight)
    image = model.encode_image(torch.rand(2, 1, 32, 32, 32), torch.ones(2, 3))
    box = torch.tensor([4.0, 4, 4, 20, 20, 20]).expand(2, 1, 1, 6)
    outputs = [
        model.decode(image, PromptBatch(torch.zeros(2, 1, n, 3), torch.full((2, 1, n), -1), boxes=box), False)
        for n in (0, 1)
    ]
    assert outputs[0].mask_logits.dtype == outputs[1].mask_logits.dtype
    assert torch.allclose(outputs[0].mask_logits, outputs[1].mask_logits, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_the_most_alike_of_several_points_counts_and_objects_are_apart(features, embedding):
    marks = [(LOW, 1), (HIGH, 1)], [(HIGH, 0), (HIGH, 0)]
    _, likeness = features(embedding, *_marks(*marks))
    assert torch.allclose(likeness[0, :2, :6], torch.ones(()), atol=1e-4)
    assert torch.allclose(likeness[0, :2, 10:], torch.ones(()), atol=1e-4)
    for number, own in enumerate(marks):
        assert torch.allclose(features(embedding, *_marks(own))[1][0], likeness[number], atol=1e-5)


def _answer(model: PromptableModel, at: tuple[float, float, float]) -> torch.Tensor:
    image = torch.full((1, 1, 32, 32, 32), 0.5)
    image[:, :, 16:] = -0.5
    click = PromptBatch(*_marks([(at, 1)]))
    with torch.no_grad():
        embedding = model.encode_image(image, torch.ones(1, 3))
        plain = model.decode(embedding, click).mask_logits
        # with a token beside the points, these are still the first ones
        token = torch.zeros(1, 1, 1, model.config.embed_dim)
        absent = torch.zeros(1, 1, dtype=torch.bool)
        assert torch.allclose(decode_with_tokens(model, embedding, click, token, absent).mask_logits, plain, atol=1e-4)
    return plain


def test_earlier_weights_answer_as_before_until_the_features_are_trained(make_model, tmp_path):
    plain = make_model(intensity_evidence=True)
    plain.save_pretrained(tmp_path / "earlier")
    model = make_model(intensity_evidence=True, point_features=True)
    initialise(model, str(tmp_path / "earlier"), "prompted")
    assert torch.allclose(_answer(model, LOW), _answer(plain, LOW), atol=1e-5)
    stem = model.mask_decoder.prompt_stem.weight
    with torch.no_grad():
        stem[:, -4:] = 1.0
    assert not torch.allclose(_answer(model, LOW), _answer(plain, LOW), atol=1e-2)
    model.save_pretrained(tmp_path / "now")
    again = make_model(intensity_evidence=True, point_features=True)
    initialise(again, str(tmp_path / "now"), "prompted")
    assert torch.equal(_answer(again, LOW), _answer(model, LOW))


def test_features_learn_from_the_first_step(make_model):
    model = make_model(point_features=True)
    output = model(torch.rand(1, 1, 32, 32, 32) - 0.5, torch.ones(1, 3), PromptBatch(*_marks([(LOW, 1), (HIGH, 0)])))
    output.mask_logits.square().mean().backward()
    found = model.mask_decoder.point_features
    for parameter in (found.mlp.fc2.weight, found.projs[0].weight, found.projs[2].weight, found.sharpness):
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
