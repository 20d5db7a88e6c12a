"""Properties of the model that must hold for any weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.models import ImageEmbedding, ModelConfig, PromptableModel, PromptBatch
from promptseg.models.image_encoder import TOKEN_STRIDE
from promptseg.models.layers import depth_to_space, space_to_depth
from promptseg.models.position import token_centres

SMALL = ModelConfig(
    tile_size=32, stem_channels=(8, 16, 16), stem_depths=(1, 1, 1), embed_dim=24, depth=2, num_heads=2,
    decoder_channels=(8, 16, 16), num_levels=4, text_dim=6,
)  # fmt: skip
GRID = (32, 32, 32)


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    torch.manual_seed(0)
    return PromptableModel(SMALL).eval()


def random_prompts(tiles: int, objects: int, points: int, seed: int = 0) -> PromptBatch:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(tiles, objects, 1, 3, generator=generator) * 15
    return PromptBatch(
        torch.rand(tiles, objects, points, 3, generator=generator) * 31,
        torch.randint(0, 2, (tiles, objects, points), generator=generator),
        boxes=torch.cat([low, low + 12], dim=-1),
        strokes=(torch.rand(tiles, objects, 2, *GRID, generator=generator) > 0.99).float(),
        mask_logits=torch.randn(tiles, objects, *GRID, generator=generator),
        text=torch.randn(tiles, objects, 1, SMALL.text_dim, generator=generator),
        text_laterality=torch.randint(0, 4, (tiles, objects, 1), generator=generator),
        text_level=torch.randint(0, 4, (tiles, objects, 1), generator=generator),
    )


def random_embedding(model: PromptableModel, tiles: int) -> ImageEmbedding:
    image = torch.randn(tiles, 1, *GRID, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode_image(image, torch.tensor([[1.0, 1.5, 3.0]] * tiles))


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.tuples(*[st.integers(1, 4)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    where=st.floats(0, 1, exclude_max=True),
)
def test_point_at_token_centre_has_the_tokens_code(tokens, spacing, where):
    """Two of three published 3D ports of SAM fail this."""
    model = PromptableModel(SMALL)
    grid = tuple(n * TOKEN_STRIDE for n in tokens)
    spacing_mm = torch.tensor([spacing])
    centres = token_centres(grid, TOKEN_STRIDE, None)
    index = int(where * len(centres))
    prompts = PromptBatch(centres[index].expand(1, 1, 1, 3), torch.ones(1, 1, 1, dtype=torch.long))
    point_code = model.prompt_encoder.encode_points(prompts, grid, spacing_mm)[0, 0, 0]
    token_code = model.image_encoder.token_position_codes(grid, spacing_mm)[0, index]
    torch.testing.assert_close(point_code, token_code)


def test_position_codes_tell_axes_and_places_apart(model):
    codes = model.image_encoder.token_position_codes((64, 48, 32), torch.tensor([[1.0, 1.0, 1.0]]))[0]
    distances = torch.cdist(codes, codes) + torch.eye(len(codes)) * 1e3
    assert distances.min() > 1e-3


def test_position_code_is_physical(model):
    """Doubling the spacing of one axis and halving the coordinate's offset is the same place in millimetres."""
    code = model.prompt_encoder.position_code
    isotropic = code(torch.tensor([[[15.5 + 8, 15.5, 15.5]]]), GRID, torch.ones(1, 3))
    stretched = code(torch.tensor([[[15.5 + 4, 15.5, 15.5]]]), GRID, torch.tensor([[2.0, 1.0, 0.5]]))
    torch.testing.assert_close(isotropic, stretched)


def test_permuting_points_changes_nothing(model):
    embedding, prompts = random_embedding(model, 1), random_prompts(1, 1, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = replace(prompts, points=prompts.points[:, :, order], labels=prompts.labels[:, :, order])
    with torch.no_grad():
        a, b = model.decode(embedding, prompts, True), model.decode(embedding, shuffled, True)
    torch.testing.assert_close(a.mask_logits, b.mask_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a.iou_logits, b.iou_logits, atol=1e-4, rtol=1e-4)


def test_absent_prompts_change_nothing(model):
    embedding, prompts = random_embedding(model, 1), random_prompts(1, 1, 2)
    plain = replace(prompts, boxes=None, text=None, mask_logits=None)
    padded = replace(
        prompts,
        points=torch.cat([prompts.points, torch.full((1, 1, 3, 3), 7.0)], dim=2),
        labels=torch.cat([prompts.labels, torch.full((1, 1, 3), -1)], dim=2),
        boxes_are_present=torch.zeros(1, 1, 1, dtype=torch.bool),
        masks_are_present=torch.zeros(1, 1, dtype=torch.bool),
        text_is_present=torch.zeros(1, 1, 1, dtype=torch.bool),
    )
    with torch.no_grad():
        a, b = model.decode(embedding, plain, True), model.decode(embedding, padded, True)
    torch.testing.assert_close(a.mask_logits, b.mask_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["points", "labels", "boxes", "strokes", "mask_logits", "text", "text_laterality"])
def test_each_prompt_matters(model, part):
    embedding, prompts = random_embedding(model, 1), random_prompts(1, 1, 2)
    value = getattr(prompts, part)
    changed = (value + 1) % 2 if part == "labels" else (value + 1) % 4 if part == "text_laterality" else value + 3
    with torch.no_grad():
        a = model.decode(embedding, prompts).mask_logits
        b = model.decode(embedding, replace(prompts, **{part: changed})).mask_logits
    assert (a - b).abs().max() > 1e-4


def test_batched_equals_one_by_one(model):
    embedding, prompts = random_embedding(model, 2), random_prompts(2, 3, 2)
    with torch.no_grad():
        together = model.decode(embedding, prompts, True).mask_logits
        for tile in range(2):
            for thing in range(3):
                names = ("points", "labels", "boxes", "strokes", "mask_logits", "text", "text_laterality", "text_level")
                one = PromptBatch(**{n: getattr(prompts, n)[tile : tile + 1, thing : thing + 1] for n in names})
                alone = model.decode(embedding[tile], one, True).mask_logits
                torch.testing.assert_close(alone[0, 0], together[tile, thing], atol=2e-4, rtol=1e-3)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = PromptableModel(SMALL)
    output = model(torch.randn(1, 1, *GRID), torch.ones(1, 3), random_prompts(1, 1, 2), multimask=True)
    (output.mask_logits.square().mean() + output.iou_logits.sum() + output.presence_logits.sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_bf16_is_close_to_fp32(model):
    prompts = random_prompts(1, 1, 3)
    image, spacing = torch.randn(1, 1, *GRID), torch.ones(1, 3)
    half = PromptableModel(SMALL).eval()
    half.load_state_dict(model.state_dict())
    half = half.to(torch.bfloat16).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        full_logits = model(image, spacing, prompts).mask_logits
        half_logits = half(image, spacing, prompts).mask_logits.float()
    error = (full_logits - half_logits).abs().mean() / full_logits.abs().mean()
    assert error < 0.05


def test_space_to_depth_loses_nothing():
    x = torch.randn(2, 3, 4, 6, 8)
    torch.testing.assert_close(depth_to_space(space_to_depth(x)), x)


def test_click_ball_is_round_in_millimetres(model):
    """On an anisotropic grid a click reaches as far in mm along each axis."""
    click = PromptBatch(torch.full((1, 1, 1, 3), 16.0), torch.ones(1, 1, 1, dtype=torch.long))
    ball = model.prompt_encoder.dense_maps(click, GRID, torch.tensor([[1.0, 1.0, 4.0]]))[0, 0, 0]
    assert torch.isclose(ball[20, 16, 16], ball[16, 16, 17])
    assert ball[16, 16, 16] == 1.0


def test_box_of_one_slice_marks_one_slice(model):
    box = torch.tensor([4.0, 5.0, 9.0, 20.0, 21.0, 10.0]).reshape(1, 1, 1, 6)
    prompts = PromptBatch(torch.zeros(1, 1, 0, 3), torch.zeros(1, 1, 0, dtype=torch.long), boxes=box)
    region = model.prompt_encoder.dense_maps(prompts, GRID, torch.ones(1, 3))[0, 0, 2]
    assert region.nonzero()[:, 2].unique().tolist() == [9]
    assert int(region.sum()) == 16 * 16


@pytest.mark.parametrize("shape", [(1, 1, 32, 32, 20), (1, 2, 32, 32, 32), (1, 1, 32, 32)])
def test_wrong_image_shape_is_refused(model, shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        model.encode_image(torch.zeros(shape), torch.ones(1, 3))


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_shipped_sizes_build(name):
    from pathlib import Path

    path = Path(__file__).parents[2] / "configs" / f"promptseg-{name}.yaml"
    config = ModelConfig.from_file(path)
    with torch.device("meta"):
        model = PromptableModel(config)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert {"tiny": 5, "small": 12, "base": 85}[name] < millions < {"tiny": 10, "small": 18, "base": 130}[name]
