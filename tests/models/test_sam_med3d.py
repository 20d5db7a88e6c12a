"""SAM-Med3D behind our interfaces.

Golden numbers: ``sam_med3d_state_dict.json`` holds the keys and shapes of the published ``vit_b_ori`` state dict, and
``sam_med3d_reference.json`` samples and norms of what the published code (github.com/uni-medical/SAM-Med3D) returns, in
float32 on a CPU, for the weights that :func:`recipe_weights` makes.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from promptseg.models import ImageEmbedding, PromptBatch
from promptseg.models.sam_med3d import SamMed3DConfig, SamMed3DModel, normalise_tile
from promptseg.models.sam_med3d.image_encoder import RelativeAttention

from .tiny_sam_med3d import TINY

HERE = Path(__file__).parent
KEYS: dict[str, list[int]] = json.loads((HERE / "sam_med3d_state_dict.json").read_text())
REFERENCE = json.loads((HERE / "sam_med3d_reference.json").read_text())


def recipe_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights from a random generator seeded by each key."""
    weights = {}
    for key, shape in shapes.items():
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
        if "pos_embed" in key or "rel_pos" in key:
            z = 0.02 * z
        elif "gaussian_matrix" not in key:
            if len(shape) > 1:
                z = z / math.sqrt(math.prod(shape[1:]))
            else:
                z = 1 + 0.1 * z if key.endswith("weight") else 0.02 * z
        weights[key] = torch.from_numpy(z.astype(np.float32))
    return weights


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def outputs() -> dict[str, Tensor]:
    """What our network returns for the recipe's weights and inputs."""
    with torch.no_grad():
        model = SamMed3DModel().eval()
        model.load_state_dict(recipe_weights(KEYS), assign=True)
        points, labels = torch.tensor(REFERENCE["points"]), torch.tensor(REFERENCE["labels"])
        previous = normal(8, 1, 1, 32, 32, 32)
        embedding = model.encode_image(normal(7, 1, 1, 128, 128, 128), torch.full((1, 3), 1.5)).tokens
        sparse, dense = model.encode_prompts(points, labels, previous)
        found = {
            "image_embedding": embedding,
            "sparse": sparse,
            "dense": dense[..., :2, :2, :2],
            "dense_pe": model.prompt_encoder.dense_position_code(),
        }
        for multimask in (False, True):
            logits, quality = model.decode_lowres(embedding, points, labels, previous, multimask)
            found[f"mask_logits_multimask_{multimask}"] = logits
            found[f"iou_multimask_{multimask}"] = quality
    return found


@pytest.fixture(scope="module")
def tiny() -> SamMed3DModel:
    model = SamMed3DModel(TINY).eval()
    model.load_state_dict(recipe_weights({k: list(v.shape) for k, v in model.state_dict().items()}))
    for name, table in model.named_parameters():
        if "rel_pos" in name:
            table.data.mul_(25)  # large enough that a wrong position term shows
    return model


def test_state_dict_has_the_published_keys_and_shapes_in_order() -> None:
    with torch.device("meta"):
        found = {key: list(value.shape) for key, value in SamMed3DModel().state_dict().items()}
    assert list(found.items()) == list(KEYS.items())
    assert sum(math.prod(s) for s in found.values()) == pytest.approx(100.5e6, rel=0.01)  # as published


@pytest.mark.parametrize("name", REFERENCE["outputs"])
def test_outputs_agree_with_the_published_code(outputs: dict[str, Tensor], name: str) -> None:
    expected = REFERENCE["outputs"][name]
    found = outputs[name]
    assert list(found.shape) == expected["shape"]
    assert float(found.double().norm()) == pytest.approx(expected["norm"], rel=1e-3)
    values = torch.tensor(expected["values"])
    error = (found.flatten()[torch.tensor(expected["indices"])] - values).norm() / values.norm()
    assert float(error) < 1e-3


@pytest.mark.skipif("PROMPTSEG_ORACLES" not in os.environ, reason="PROMPTSEG_ORACLES is not set")
def test_all_values_agree_with_the_published_code(outputs: dict[str, Tensor]) -> None:
    folder = Path(os.environ["PROMPTSEG_ORACLES"]) / "sam_med3d"
    with np.load(folder / "sam_med3d_reference.npz") as reference:
        for name, found in outputs.items():
            expected = torch.from_numpy(reference[name])
            assert float((found - expected).norm() / expected.norm()) < 1e-3, name
            assert float((found - expected).abs().max() / expected.abs().max()) < 1e-3, name


@pytest.mark.parametrize(("side", "extent"), [(4, 7), (3, 4), (2, 6)])
def test_folded_padding_equals_computed_padding(side: int, extent: int) -> None:
    torch.manual_seed(side)
    attention = RelativeAttention(24, 2, extent).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, side, side, side, 24, dtype=torch.float64, requires_grad=True)
    results = []
    for fold in (True, False):
        attention.fold_padding = fold
        y = attention(x)
        gradient = torch.autograd.grad(y.square().sum(), [x, *attention.parameters()])
        results.append([y.detach(), *gradient])
    for folded, computed in zip(*results, strict=True):
        torch.testing.assert_close(folded, computed, rtol=1e-9, atol=1e-9)


def test_padding_takes_part_in_the_attention() -> None:
    """A window larger than the grid changes the result, as in the published weights; masking it would be a mistake."""
    torch.manual_seed(0)
    attention = RelativeAttention(24, 2, extent=4)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 3, 3, 3, 24)
    with torch.no_grad():
        padded = attention(x)
        for axis in "dhw":
            table = attention.get_parameter(f"rel_pos_{axis}")
            setattr(attention, f"rel_pos_{axis}", torch.nn.Parameter(table[1:-1]))
        attention.extent = 3
        assert not torch.allclose(attention(x), padded, atol=1e-2)


def test_a_point_matches_its_own_token_only_where_the_first_two_axes_agree(tiny: SamMed3DModel) -> None:
    """The published position codes of tokens have two axes exchanged; kept, since the weights were trained with it."""
    encoder = tiny.prompt_encoder
    grid, stride = TINY.grid_size, TINY.patch_size
    axes = [torch.arange(grid) * stride + (stride - 1) / 2] * 3
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)
    codes = encoder.embed_points(centres, torch.ones(centres.shape[:2], dtype=torch.long))[0, :-1]
    codes = (codes - encoder.point_embeddings[1].weight).reshape(grid, grid, grid, -1)  # type: ignore[operator]
    dense = encoder.dense_position_code()[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(dense.transpose(0, 1), codes, rtol=1e-3, atol=1e-4)
    equal = torch.isclose(dense, codes, atol=1e-3).all(dim=-1)
    d, h, _ = torch.meshgrid(*[torch.arange(grid)] * 3, indexing="ij")
    assert torch.equal(equal, d == h)


def embed(model: SamMed3DModel, batch: int = 1) -> ImageEmbedding:
    side = model.config.tile_size
    return model.encode_image(normal(1, batch, 1, side, side, side), torch.full((batch, 3), 1.5))


def clicks(*rows: list[tuple[float, float, float, int]]) -> PromptBatch:
    """One tile, one object a row, each click as d, h, w, label."""
    values = torch.tensor(rows, dtype=torch.float32)
    return PromptBatch(values[None, ..., :3], values[None, ..., 3].long())


@torch.no_grad()
def test_decode_replays_clicks_each_beside_the_logits_of_the_one_before(tiny: SamMed3DModel) -> None:
    embedding = embed(tiny)
    found = tiny.decode(embedding, clicks([(3, 9, 20, 1), (25, 9, 4, 0)]))
    zeros = torch.zeros(1, 1, *[TINY.lowres_size] * 3)
    first, _ = tiny.decode_lowres(embedding.tokens, torch.tensor([[[3.0, 9, 20]]]), torch.tensor([[1]]), zeros)
    second, _ = tiny.decode_lowres(embedding.tokens, torch.tensor([[[25.0, 9, 4]]]), torch.tensor([[0]]), first)
    side = TINY.tile_size
    expected = torch.nn.functional.interpolate(second, size=(side,) * 3, mode="trilinear")
    assert found.mask_logits.shape == (1, 1, 1, side, side, side)
    torch.testing.assert_close(found.mask_logits[0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-2)


@torch.no_grad()
def test_with_a_previous_mask_only_the_last_click_is_new(tiny: SamMed3DModel) -> None:
    embedding = embed(tiny)
    side = TINY.tile_size
    previous = torch.nn.functional.interpolate(normal(2, 1, 1, 4, 4, 4), size=(side,) * 3, mode="trilinear")
    both, last = clicks([(3, 9, 20, 1), (25, 9, 4, 0)]), clicks([(25, 9, 4, 0)])
    found = [
        tiny.decode(embedding, PromptBatch(p.points, p.labels, mask_logits=previous)).mask_logits for p in (both, last)
    ]
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], tiny.decode(embedding, last).mask_logits, atol=1e-2)


@torch.no_grad()
def test_a_mask_alone_is_redrawn_as_in_training(tiny: SamMed3DModel) -> None:
    embedding = embed(tiny)
    side = TINY.tile_size
    coarse = normal(2, 1, 1, *[TINY.lowres_size] * 3)
    previous = torch.nn.functional.interpolate(coarse, size=(side,) * 3, mode="trilinear")
    outside = clicks([(3, 9, 99, 1)])
    found = tiny.decode(embedding, PromptBatch(outside.points, outside.labels, mask_logits=previous)).mask_logits
    seen = torch.nn.functional.interpolate(previous, size=coarse.shape[2:], mode="trilinear")
    expected, _ = tiny.decode_lowres(embedding.tokens, None, None, seen)
    expected = torch.nn.functional.interpolate(expected, size=(side,) * 3, mode="trilinear")
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_objects_and_tiles_do_not_see_each_other(tiny: SamMed3DModel) -> None:
    embedding = embed(tiny, batch=2)
    absent = (0.0, 0.0, 0.0, -1)
    rows = [[(3, 9, 20, 1), absent], [(25, 9, 4, 1), (7, 7, 7, 0)]]
    one = clicks(*rows)
    together = tiny.decode(embedding, PromptBatch(one.points.expand(2, -1, -1, -1), one.labels.expand(2, -1, -1)))
    for tile in range(2):
        alone = tiny.decode(embedding[tile], clicks([(3, 9, 20, 1)]))
        torch.testing.assert_close(together.mask_logits[tile, 0], alone.mask_logits[0, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.iou_logits[tile, 0], alone.iou_logits[0, 0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_click_outside_the_tile_does_not_count(tiny: SamMed3DModel) -> None:
    embedding = embed(tiny)
    inside = tiny.decode(embedding, clicks([(3, 9, 20, 1)])).mask_logits
    beside = tiny.decode(embedding, clicks([(3, 9, 20, 1), (3, 9, 40, 0), (-2, 9, 0, 1)])).mask_logits
    torch.testing.assert_close(inside, beside)
    nothing = tiny.decode(embedding, clicks([(3, 9, 40, 1)]))
    assert (nothing.mask_logits < 0).all()
    assert float(nothing.iou_scores) < 0.01


@torch.no_grad()
@pytest.mark.parametrize("kind", ["boxes", "text"])
def test_prompts_the_weights_do_not_know_are_refused(tiny: SamMed3DModel, kind: str) -> None:
    point = clicks([(3, 9, 20, 1)])
    values = {kind: torch.zeros(1, 1, 1, 6)}
    with pytest.raises(ValueError, match=rf"{kind}.*points"):
        tiny.decode(embed(tiny), PromptBatch(point.points, point.labels, **values))


@torch.no_grad()
def test_scores_are_expected_overlaps(tiny: SamMed3DModel) -> None:
    out = tiny.decode(embed(tiny), clicks([(3, 9, 20, 1)], [(25, 9, 4, 1)]))
    assert ((out.iou_scores > 0) & (out.iou_scores < 1)).all()
    assert (out.presence_scores > 0.99).all()


def test_wrong_tile_shape_and_far_spacing_are_named(tiny: SamMed3DModel, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 16, 32, 32\).*32"):
        tiny.encode_image(torch.zeros(1, 1, 16, 32, 32), torch.ones(1, 3))
    with torch.no_grad(), caplog.at_level("WARNING"):
        tiny.encode_image(torch.zeros(1, 1, 32, 32, 32), torch.full((1, 3), 5.0))
    assert "1.5 mm" in caplog.text and "5.0" in caplog.text


@pytest.mark.parametrize(
    ("values", "why"),
    [([-1000.0, -900.0, -950.0], "air only"), ([0.0, 0.0, 7.0], "one value above zero"), ([3.0, 3.0, 3.0], "constant")],
)
def test_normalise_tile_is_never_nan(values: list[float], why: str) -> None:
    out = normalise_tile(torch.tensor(values).reshape(1, 1, 1, 1, -1))
    assert torch.isfinite(out).all(), why


def test_normalise_tile_measures_the_foreground_of_each_tile_alone() -> None:
    tiles = torch.stack([normal(3, 1, 6, 6, 6) * 50 + 20, normal(4, 1, 6, 6, 6) * 3 + 500])
    out = normalise_tile(tiles)
    for tile, normalised in zip(tiles, out, strict=True):
        assert float(normalised[tile > 0].mean()) == pytest.approx(0, abs=1e-4)
        assert float(normalised[tile > 0].std()) == pytest.approx(1, abs=1e-4)
    ct = torch.tensor([-1024.0, 3000.0, 1000.0, 0.0, 100.0]).reshape(1, 1, 1, 1, -1)
    assert float(normalise_tile(ct)[..., 1]) == float(normalise_tile(ct)[..., 2])


@torch.no_grad()
def test_bf16_stays_close(tiny: SamMed3DModel) -> None:
    half = SamMed3DModel(TINY).eval()
    half.load_state_dict(tiny.state_dict())
    half.to(torch.bfloat16)
    prompts = clicks([(3, 9, 20, 1)])
    expected = tiny.decode(embed(tiny), prompts).mask_logits
    found = half.decode(embed(half), prompts).mask_logits
    assert float((found - expected).norm() / expected.norm()) < 0.1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tile_size": 100}, ["tile_size=100", "patch_size=16"]),
        ({"tile_size": 256}, ["window_size=14", "tile_size=256"]),
        ({"embed_dim": 770}, ["embed_dim=770", "num_heads=12"]),
        ({"prompt_dim": 100}, ["prompt_dim=100"]),
        ({"global_blocks": (12,)}, ["global_blocks", "depth=12"]),
        ({"architecture": "sam"}, ["'sam'", "sam-med3d"]),
    ],
)
def test_contradicting_sizes_are_refused_by_name(fields: dict, named: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        SamMed3DConfig(**fields)
    assert all(word in str(error.value) for word in named)
