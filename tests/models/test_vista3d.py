"""VISTA3D behind our interfaces: what MONAI's own network gives, from features that are computed once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from promptseg import Predictor
from promptseg.models import PromptBatch
from promptseg.models.convert import convert_vista3d
from promptseg.models.vista3d import Vista3DConfig, Vista3DModel
from promptseg.models.vista3d.classes import find_classes
from promptseg.models.vista3d.labels import CLASS_NAMES, SUBCLASSES, UNSUPPORTED_CLASSES
from promptseg.models.vista3d.model import build_network
from promptseg.models.vista3d.predictor import Vista3DPredictor

SMALL = Vista3DConfig(
    tile_size=32, feature_size=8, blocks_down=(1, 1, 1), num_classes=40, last_supported=30,
    class_names=CLASS_NAMES[:30],
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """MONAI's network, small, with random weights."""
    torch.manual_seed(0)
    return build_network(SMALL).eval()


@pytest.fixture(scope="module")
def folder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights, published as the bundle does, and converted."""
    root = tmp_path_factory.mktemp("vista3d")
    torch.save(network.state_dict(), root / "model.pt")
    return convert_vista3d(root / "model.pt", root / "vista3d", config=SMALL)


@pytest.fixture
def model(folder: Path) -> Vista3DModel:
    return Vista3DModel.from_pretrained(folder)


def tile(seed: int = 0) -> Tensor:
    return torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(seed))


def spacing(count: int = 1) -> Tensor:
    return torch.full((count, 3), 1.5)


@torch.no_grad()
@pytest.mark.parametrize("prompt_class", [None, 3, 23, 33])
def test_clicks_give_what_the_whole_network_gives(network: Any, model: Vista3DModel, prompt_class: int | None) -> None:
    points = torch.tensor([[[3.0, 20.0, 11.0], [16.25, 8.0, 30.0]]])
    labels = torch.tensor([[1, 0]])
    special = labels + 2 if prompt_class == 23 else labels
    rows = None if prompt_class is None else torch.tensor([prompt_class])
    expected = network(tile(), point_coords=points, point_labels=special, prompt_class=rows)[0, 0]
    text = None if prompt_class is None else torch.full((1, 1, 1, 1), float(prompt_class))
    prompts = PromptBatch(points[None], labels[None], text=text)
    found = model.decode(model.encode_image(tile(), spacing()), prompts).mask_logits[0, 0, 0]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert float(expected.std()) > 1e-3


@torch.no_grad()
def test_names_give_what_the_whole_network_gives(network: Any, model: Vista3DModel) -> None:
    expected = network(tile(), class_vector=torch.tensor([[1], [7]]))[:, 0]
    found = model.decode_classes(model.encode_classes(tile(), spacing()), [1, 7])[0]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    one = model.decode_classes(model.encode_classes(tile(), spacing()), [7])[0, 0]
    assert torch.allclose(one, expected[1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_clicks_beside_a_mask_follow_the_published_rule(network: Any, model: Vista3DModel) -> None:
    points, labels = torch.tensor([[[10.0, 10.0, 10.0]]]), torch.tensor([[1]])
    before = model.decode_classes(model.encode_classes(tile(), spacing()), [1])
    alone = network(tile(), point_coords=points, point_labels=labels)
    expected = network.connected_components_combine(
        before[0].clone()[:, None], alone, points, labels, torch.tensor([True])
    )
    prompts = PromptBatch(points[None], labels[None], mask_logits=before)
    found = model.decode(model.encode_image(tile(), spacing()), prompts).mask_logits[0, 0, 0]
    assert torch.allclose(found, expected[0, 0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_tiles_and_objects_are_independent_and_clicks_outside_do_not_count(model: Vista3DModel) -> None:
    images = torch.cat([tile(1), tile(2)])
    points = torch.tensor([[[[5.0, 6, 7]], [[20.0, 21, 22]]], [[[9.0, 9, 9]], [[40.0, 5, 5]]]])
    output = model.decode(model.encode_image(images, spacing(2)), PromptBatch(points, torch.ones(2, 2, 1).long()))
    assert output.mask_logits.shape == (2, 2, 1, 32, 32, 32)
    assert output.iou_logits.shape == (2, 2, 1)
    assert output.presence_logits.shape == (2, 2)
    alone = model.decode(
        model.encode_image(images[:1], spacing()), PromptBatch(points[:1, 1:], torch.ones(1, 1, 1).long())
    )
    assert torch.allclose(output.mask_logits[0, 1], alone.mask_logits[0, 0], rtol=1e-3, atol=1e-4)
    assert float(output.mask_logits[1, 1].max()) < 0
    assert torch.isfinite(output.mask_logits).all()


def test_boxes_are_refused(model: Vista3DModel) -> None:
    prompts = PromptBatch(
        torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1).long(), boxes=torch.tensor([[[[0.0] * 3 + [9] * 3]]])
    )
    with torch.no_grad(), pytest.raises(ValueError, match="boxes"):
        model.decode(model.encode_image(tile(), spacing()), prompts)


def scan(shape: tuple[int, int, int] = (40, 30, 20)) -> np.ndarray:
    """Hounsfield units of noise and a bright block."""
    image = np.random.default_rng(0).normal(0, 200, shape)
    image[10:20, 10:20, 5:15] += 600
    return image.astype(np.float32)


@pytest.mark.parametrize("diagonal", [(1.0, 1.0, 2.0), (-0.8, 1.2, 1.5)])
def test_the_predictor_answers_on_the_images_own_grid(folder: Path, diagonal: tuple[float, float, float]) -> None:
    predictor = Predictor.from_pretrained(folder)
    assert isinstance(predictor, Vista3DPredictor)
    predictor.set_image(scan(), affine=np.diag([*diagonal, 1.0]))
    first = predictor.predict(points=[(15, 15, 10)])
    assert first.mask.shape == (40, 30, 20)
    assert first.mask[15, 15, 10] == 1
    count = predictor.encoder_calls
    second = predictor.predict(points=[(15, 15, 10), (2, 2, 2)], labels=[1, 0])
    assert second.mask[15, 15, 10] == 1
    assert second.mask[2, 2, 2] == 0
    assert predictor.encoder_calls == count  # kept


def test_a_name_is_looked_for_everywhere_and_clicks_correct_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor.from_pretrained(folder)
    predictor.set_image(scan((70, 30, 20)), affine=np.diag([1.5, 1.5, 1.5, 1.0]))
    assert len(predictor.lattice.all_tiles(0)) > 1
    assert predictor.precompute(progress=False) == len(predictor.lattice.all_tiles(0))
    predictor.set_image(scan((70, 30, 20)), affine=np.diag([1.5, 1.5, 1.5, 1.0]))
    named = predictor.predict(text="Liver")
    assert named.mask.shape == (70, 30, 20)
    count = predictor.encoder_calls
    assert count == len(predictor.lattice.all_tiles(0))
    assert not np.array_equal(predictor.predict(text="aorta").mask, named.mask)
    assert predictor.encoder_calls <= 2 * count  # from the cache, but for what a small one dropped
    inside = tuple(int(n) for n in np.argwhere(named.mask > 0)[0]) if named.mask.any() else (3, 3, 3)
    corrected = predictor.predict(text="Liver", points=[inside], labels=[0])
    assert corrected.mask[inside] == 0
    with pytest.raises(ValueError, match="near it: .*left adrenal gland"):
        predictor.predict(text="adrenal gland left")
    with pytest.raises(ValueError, match="alone, or with clicks"):
        predictor.predict(text="liver", box=((0, 0, 0), (5, 5, 5)))


def test_tiles_are_scaled_as_the_bundle_scales_them(folder: Path) -> None:
    predictor = Predictor.from_pretrained(folder)
    image = np.full((40, 40, 40), 45.0, dtype=np.float32)
    image[:20] = 3000.0
    predictor.set_image(image, affine=np.diag([1.5, 1.5, 1.5, 1.0]))
    engine = predictor._require_engine()
    values = engine.read_tile(engine.lattice.nearest(np.array([20.0, 20, 20]), 0))
    assert float(values.max()) == 1.0
    inside = (45 - SMALL.low_intensity) / (SMALL.high_intensity - SMALL.low_intensity)
    assert torch.isclose(values, torch.tensor(inside, dtype=torch.float32), atol=1e-5).any()


def test_the_table_of_classes_is_the_bundles() -> None:
    assert len(CLASS_NAMES) == 132
    places = {1: "liver", 32: "right lung lower lobe", 33: "vertebrae L5", 38: "vertebrae T12", 50: "vertebrae C7"}
    places |= {56: "vertebrae C1", 57: "trachea", 63: "left rib 1", 75: "right rib 1", 87: "left humerus"}
    places |= {95: "left hip", 97: "sacrum", 98: "left gluteus maximus", 107: "right iliopsoas", 115: "heart"}
    places |= {121: "spinal cord", 128: "bone lesion", 132: "airway"}
    assert {n: CLASS_NAMES[n - 1] for n in places} == places
    assert {CLASS_NAMES[n - 1] for n in SUBCLASSES} == {"kidney", "lung", "bone"}
    assert {CLASS_NAMES[n - 1] for n in SUBCLASSES[20]} == {n for n in CLASS_NAMES if "lobe" in n}
    assert len(set(CLASS_NAMES)) == 132
    assert set(UNSUPPORTED_CLASSES) <= set(range(1, 133))
    assert find_classes(Vista3DConfig(), ["vertebra L5", "liver", "liver"]) == [33, 1]


def test_the_published_sizes_are_monais() -> None:
    from monai.networks.nets.vista3d import vista3d132

    with torch.device("meta"):
        expected = vista3d132(in_channels=1).state_dict()
        found = build_network(Vista3DConfig()).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


class RunsCode:
    """Unpickled the ordinary way, this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_checkpoints_are_data(network: nn.Module, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1), "extra": RunsCode(tmp_path / "marker")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="Nothing was executed"):
        convert_vista3d(tmp_path / "evil.pt", tmp_path / "out", config=SMALL)
    assert not (tmp_path / "marker").exists()
    weights = dict(network.state_dict())
    weights.pop("point_head.mask_tokens.weight")
    torch.save(weights, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"point_head\.mask_tokens\.weight"):
        convert_vista3d(tmp_path / "short.pt", tmp_path / "out", config=SMALL)
    assert not (tmp_path / "out").exists()
