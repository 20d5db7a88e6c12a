"""A 2D transformer in the 3D encoder: same weights, same answer on volumes that are constant along an axis."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from promptseg.models import ModelConfig, PromptableModel
from promptseg.models.inflate import PLAIN_MODELS, inflate_patch_embedding, inflate_sam, inflate_transformer
from promptseg.training.initialisation import initialise

SIZES = {"stem_channels": (8, 8, 8), "stem_depths": (1, 1, 1), "decoder_channels": (8, 8, 8), "num_heads": 2}


def make_vit(depth: int = 3, **changes) -> nn.Module:
    """An untrained timm transformer whose biases and norms are not trivial."""
    timm_vit = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": depth, "num_heads": 2, "num_classes": 0}
    vit = timm_vit.VisionTransformer(**{**sizes, **changes})
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit.eval()


def make_encoder(depth: int = 2, **changes):
    torch.manual_seed(1)
    return PromptableModel(ModelConfig(**{**SIZES, "embed_dim": 24, "depth": depth, **changes})).eval().image_encoder


@pytest.mark.parametrize("init_values", [None, 0.1])
def test_a_volume_constant_along_an_axis_gives_the_2d_answer_in_every_slice(init_values):
    vit, encoder = make_vit(init_values=init_values), make_encoder(depth=3)
    inflate_transformer(encoder, vit)
    tokens = torch.randn(1, 4, 24)  # of one slice
    slices = 3
    volume = tokens.repeat(1, slices, 1)
    with torch.no_grad():
        expected, found = tokens, volume
        for block in vit.blocks:
            expected = block(expected)
        for block in encoder.blocks:
            found = block(found)
        expected, found = vit.norm(expected), encoder.norm(found)
    for part in found.split(4, dim=1):
        torch.testing.assert_close(part, expected, atol=2e-4, rtol=1e-3)


def test_shapes_stay_and_statistics_come_over():
    vit, encoder = make_vit(), make_encoder()
    shapes = {k: v.shape for k, v in encoder.state_dict().items()}
    stem = encoder.stem.weight.clone()
    last = encoder.norm.weight.clone()
    assert inflate_transformer(encoder, vit) == "2 of 3 blocks, 24 wide"
    assert {k: v.shape for k, v in encoder.state_dict().items()} == shapes
    ours = torch.cat([getattr(encoder.blocks[0].attention, n).weight for n in ("query", "key", "value")])
    assert torch.equal(ours, vit.blocks[0].attn.qkv.weight)
    assert encoder.blocks[1].mlp.fc1.weight.std() == vit.blocks[1].mlp.fc1.weight.std()
    assert torch.equal(encoder.stem.weight, stem) and torch.equal(encoder.norm.weight, last), "what does not map stays"


def test_a_patch_embedding_gives_the_2d_answer_on_grey_slices():
    weight = torch.randn(5, 3, 8, 8)
    image = torch.randn(1, 1, 16, 16)
    expected = nn.functional.conv2d(image.expand(-1, 3, -1, -1), weight, stride=8)
    volume = image[:, :, None].expand(-1, -1, 16, -1, -1)
    found = nn.functional.conv3d(volume, inflate_patch_embedding(weight, 8), stride=8)
    for slab in found.unbind(dim=2):
        torch.testing.assert_close(slab, expected, atol=1e-4, rtol=1e-4)
    two = inflate_patch_embedding(weight, 8, in_channels=2)
    torch.testing.assert_close(two.sum(dim=1, keepdim=True), inflate_patch_embedding(weight, 8))


@pytest.mark.parametrize(
    ("vit", "encoder", "message"),
    [
        ({"depth": 1}, {}, "1 blocks, the encoder 2"),
        ({"embed_dim": 48}, {}, "set model.embed_dim=48"),
        ({"mlp_ratio": 2.0}, {}, "set model.mlp_ratio to 2"),
        ({"qk_norm": True}, {}, "normalises queries"),
        ({"act_layer": "quick_gelu"}, {}, "QuickGELU in place of GELU"),
        ({"act_layer": nn.SiLU}, {}, "SiLU in place of GELU"),
    ],
)
def test_other_sizes_are_refused_with_both_named(vit, encoder, message):
    with pytest.raises(ValueError, match=message):
        inflate_transformer(make_encoder(**encoder), make_vit(**vit))


def test_other_models_are_refused_by_name_with_ones_that_work():
    with pytest.raises(ValueError, match=r"is a Linear and not .* that can: vit_base_patch16_224"):
        inflate_transformer(make_encoder(), nn.Linear(1, 1))


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_224",
        "beit_base_patch16_224",
        "vit_relpos_small_patch16_224",
        "vit_base_patch32_clip_quickgelu_224",
        "vit_small_patch16_18x2_224",
    ],
)
def test_models_whose_blocks_compute_something_else_are_refused_whatever_their_sizes(name):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with torch.device("meta"):
        source = timm.create_model(name)
        encoder = PromptableModel(ModelConfig(**{**SIZES, "embed_dim": 24, "depth": 1})).image_encoder
    with pytest.raises(ValueError, match=f"^{name} .*models that can: vit_base_patch16_224"):
        inflate_transformer(encoder, source)


@pytest.mark.parametrize("name", [*PLAIN_MODELS, "deit_tiny_distilled_patch16_224", "vit_base_patch16_siglip_224"])
def test_the_models_that_errors_name_are_taken(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        source = timm.create_model(name)
        sizes = {"embed_dim": source.embed_dim, "num_heads": source.blocks[0].attn.num_heads, "depth": 1}
        encoder = PromptableModel(ModelConfig(**{**SIZES, **sizes})).image_encoder
    assert inflate_transformer(encoder, source) == f"1 of 12 blocks, {source.embed_dim} wide"


def make_sam(depth: int = 3, dim: int = 24, heads: int = 2, prefix: str = "image_encoder.") -> dict[str, torch.Tensor]:
    """A random state dict in Segment Anything's published layout, of a whole model."""
    torch.manual_seed(2)
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 4, 4, dim), "patch_embed.proj.weight": (dim, 3, 16, 16)}
    for number in range(depth):
        block = f"blocks.{number}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (dim,), f"{block}{norm}.bias": (dim,)}
        for axis in "hw":
            shapes[f"{block}attn.rel_pos_{axis}"] = (2 * (14 if number % 2 else 4) - 1, dim // heads)
        for name, size in (("attn.qkv", 3 * dim), ("attn.proj", dim), ("mlp.lin1", 4 * dim)):
            shapes |= {f"{block}{name}.weight": (size, dim), f"{block}{name}.bias": (size,)}
        shapes |= {f"{block}mlp.lin2.weight": (dim, 4 * dim), f"{block}mlp.lin2.bias": (dim,)}
    shapes |= {"neck.0.weight": (16, dim, 1, 1), "neck.1.weight": (16,)}
    tensors = {prefix + key: 0.2 * torch.randn(shape) for key, shape in shapes.items()}
    return {**tensors, "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 16)} if prefix else tensors


def sam_block(x: torch.Tensor, tensors: dict[str, torch.Tensor], prefix: str, heads: int) -> torch.Tensor:
    """Segment Anything's block with global attention, relative positions left out: x (1, N, C)."""
    functional = nn.functional
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    def linear(values: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(values: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(values, values.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    q, k, v = linear(norm(x, "norm1"), "attn.qkv").reshape(1, -1, 3, heads, x.shape[-1] // heads).permute(2, 0, 3, 1, 4)
    attended = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
    x = x + linear(attended.transpose(1, 2).flatten(2), "attn.proj")
    return x + linear(functional.gelu(linear(norm(x, "norm2"), "mlp.lin1")), "mlp.lin2")


@pytest.mark.parametrize("prefix", ["image_encoder.", ""])
def test_sam_blocks_give_their_2d_answer_without_relative_positions(prefix):
    tensors, encoder = make_sam(prefix=prefix), make_encoder()
    stem, last = encoder.stem.weight.clone(), encoder.norm.weight.clone()
    assert inflate_sam(encoder, tensors) == "2 of 3 blocks, 24 wide"
    expected = found = torch.randn(1, 6, 24)
    with torch.no_grad():
        for number, block in enumerate(encoder.blocks):
            expected = sam_block(expected, tensors, f"{prefix}blocks.{number}.", 2)
            found = block(found)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert torch.equal(encoder.stem.weight, stem) and torch.equal(encoder.norm.weight, last), "what does not map stays"


def test_sam_of_other_sizes_or_another_file_is_refused():
    with pytest.raises(ValueError, match=r"24 wide with 4 heads.*num_heads=4"):
        inflate_sam(make_encoder(), make_sam(heads=4))
    with pytest.raises(ValueError, match="1 blocks"):
        inflate_sam(make_encoder(), make_sam(depth=1))
    with pytest.raises(ValueError, match="not a checkpoint of Segment Anything"):
        inflate_sam(make_encoder(), {"blocks.0.attn.qkv.weight": torch.zeros(72, 24)})
    damaged = make_sam()
    del damaged["image_encoder.blocks.1.mlp.lin2.weight"]
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.lin2\.weight is missing"):
        inflate_sam(make_encoder(), damaged)


def test_a_run_starts_from_a_published_sam_file(tmp_path):
    torch.save(make_sam(), tmp_path / "sam.pth")
    torch.manual_seed(1)
    model = PromptableModel(ModelConfig(**SIZES, embed_dim=24, depth=2))
    initialise(model, f"sam2d:{tmp_path / 'sam.pth'}", "prompted")
    taken = model.image_encoder.blocks[1].mlp.fc1.weight
    assert torch.equal(taken, make_sam()["image_encoder.blocks.1.mlp.lin1.weight"])
