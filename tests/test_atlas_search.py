"""What is named is drawn where the atlas among the weights says, in images that show all of it, however they lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from promptseg import Predictor, atlas_search
from promptseg.atlas_search import draw_by_atlas, members_of, registered
from promptseg.data.atlas_building import build_atlas
from promptseg.interaction import Interaction
from promptseg.models import ModelConfig, PromptableModel
from promptseg.models.atlas import Atlas, AtlasConfig
from promptseg.models.pretrained import load_pretrained, save_pretrained
from promptseg.prompts import PromptSet
from promptseg.registration import Registration
from promptseg.structures import Structure
from promptseg.text import encode_text
from promptseg.training.initialisation import initialise

from .conftest import make_affine
from .phantom_head import NAMES, SPACING_MM, intensities, label_map, pose, training_volume

CONFIG = ModelConfig(
    name="tiny", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8),
)  # fmt: skip


def _structure(name: str) -> Structure:
    return Structure(encode_text(name), 40.0, 3)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return build_atlas([training_volume(seed) for seed in range(4)], "heads", SPACING_MM)


@pytest.fixture(scope="module")
def model(atlas: Atlas) -> PromptableModel:
    torch.manual_seed(0)
    model = PromptableModel(CONFIG)
    model.atlases = nn.ModuleList([atlas])
    model.config = dataclasses.replace(CONFIG, atlases=(atlas.config,))
    return model.eval()


@pytest.fixture
def handed_over(monkeypatch) -> list[PromptSet]:
    """The prompts that the decoder is given; it draws nothing."""
    given: list[PromptSet] = []
    start = Interaction.start

    def record(self: Interaction, prompts: PromptSet):
        given.append(prompts)
        return start(self, prompts)

    monkeypatch.setattr(Interaction, "start", record)
    return given


def _interaction(model: PromptableModel, image: np.ndarray, affine: np.ndarray) -> Interaction:
    predictor = Predictor(model, device="cpu").set_image(image, affine)
    return Interaction(predictor._require_engine())


def _overlap(prompts: PromptSet, truth: np.ndarray) -> float:
    assert prompts.mask is not None
    mask = np.zeros(truth.shape, dtype=bool)
    low, high = prompts.mask_low, prompts.mask_low + prompts.mask.shape
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = prompts.mask
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize(("name", "values"), [
    ("left putamen", [10]), ("right putamen", [11]), ("thalamus", [8, 9]), ("both thalamus", [8, 9]),
    ("brainstem", [5]),
])  # fmt: skip
def test_the_decoder_is_handed_the_structures_mask(model, handed_over, name, values):
    assert [NAMES[v] for v in values][0].endswith(name.removeprefix("both "))
    labels = label_map(*pose(21))
    interaction = _interaction(model, intensities(labels, 21), np.diag([SPACING_MM] * 3 + [1]))
    draw_by_atlas(interaction, [_structure(name)])
    (prompts,) = handed_over
    assert _overlap(prompts, np.isin(labels, values)) > 0.6
    assert prompts.mask_box is not None and len(prompts.boxes) == 1
    assert (prompts.boxes[0][0] == prompts.mask_low).all()


def test_the_array_may_lie_any_way_and_be_thick(model, handed_over):
    labels = label_map(*pose(22))
    thick = (slice(None, None, -1), slice(None, None, -1), slice(1, None, 2))  # to the left, to the back, upwards
    affine = make_affine("LPS", (SPACING_MM, SPACING_MM, 2 * SPACING_MM))
    interaction = _interaction(model, intensities(labels, 22)[thick], affine)
    draw_by_atlas(interaction, [_structure("left hippocampus"), _structure("right hippocampus")])
    assert len(handed_over) == 2
    for prompts, value in zip(handed_over, (12, 13), strict=True):
        assert NAMES[value].endswith("hippocampus")
        assert _overlap(prompts, labels[:, :, 1::2] == value) > 0.5


@pytest.mark.parametrize(("degrees", "is_tried_upright"), [(0, False), (3, False), (30, True), (-30, True)])
def test_a_tilted_slab_is_tried_along_itself_and_upright_in_the_scanner(model, monkeypatch, degrees, is_tried_upright):
    turn, angle = np.eye(3), np.radians(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = np.eye(4)
    affine[:3, :3] = SPACING_MM * turn @ np.diag([-1, 1, 1])  # the first axis runs to the left
    tried = []

    def register(*_, frame=None):
        tried.append(frame)
        return Registration(np.eye(3), np.zeros(3), 0.5 if frame is None else 0.4, 1.0)

    monkeypatch.setattr(atlas_search, "register", register)
    found = registered(_interaction(model, intensities(label_map(), 1), affine).engine, 0)
    assert tried[0] is None and len(tried) == 1 + is_tried_upright
    assert found is not None and found[0].mismatch == (0.4 if is_tried_upright else 0.5)
    if is_tried_upright:
        np.testing.assert_allclose(turn @ tried[1], np.eye(3), atol=1e-6)


def test_nothing_is_said_where_the_atlas_does_not_fit(model, handed_over):
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    interaction = _interaction(model, noise, np.diag([SPACING_MM] * 3 + [1]))
    assert draw_by_atlas(interaction, [_structure("left putamen")]) == {}
    assert not handed_over and interaction.engine.registrations == {("", 0): None}


def test_each_set_of_adapters_has_an_estimate_of_its_own(model, monkeypatch):
    monkeypatch.setattr(atlas_search, "_register", lambda engine, atlas: (engine.weights, 0.5))
    engine = _interaction(model, intensities(label_map(), 1), np.diag([SPACING_MM] * 3 + [1])).engine
    tuned = dataclasses.replace(engine, weights="tuned")
    assert [registered(e, 0) for e in (engine, tuned, engine)] == [("", 0.5), ("tuned", 0.5), ("", 0.5)]


def test_structures_outside_the_atlas_do_not_have_it_registered(model):
    interaction = _interaction(model, intensities(label_map(), 1), np.diag([SPACING_MM] * 3 + [1]))
    assert draw_by_atlas(interaction, [_structure("liver"), _structure("left kidney")]) == {}
    assert interaction.engine.registrations == {}


def test_an_image_is_registered_once_and_a_new_one_anew(model):
    interaction = _interaction(model, intensities(label_map(*pose(23)), 23), np.diag([SPACING_MM] * 3 + [1]))
    first = registered(interaction.engine, 0)
    assert first is not None and registered(interaction.engine, 0) is first
    other = _interaction(model, intensities(label_map(*pose(24)), 24), np.diag([SPACING_MM] * 3 + [1]))
    second = registered(other.engine, 0)
    assert second is not None and np.abs(second[0].offset_mm - first[0].offset_mm).max() > 1


def test_members_are_of_the_side_that_was_named(atlas):
    def names(text: str) -> list[str]:
        return [atlas.config.terms[n] for n in members_of(atlas.config, _structure(text))]

    assert names("left thalamus") == ["left thalamus"]
    assert names("thalamus") == names("both thalamus") == ["left thalamus", "right thalamus"]
    assert names("brainstem") == ["brainstem"] and names("liver") == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_keeps_its_atlas(model, tmp_path, dtype):
    save_pretrained(model, tmp_path / "saved", dtype=dtype)
    loaded, _ = load_pretrained(tmp_path / "saved")
    assert loaded.config.atlases == model.config.atlases
    assert torch.equal(loaded.atlases[0].shares, model.atlases[0].shares)
    assert loaded.atlases[0].shares.dtype == torch.uint8


def test_training_starts_from_weights_with_an_atlas(model, tmp_path):
    save_pretrained(model, tmp_path / "saved")
    fresh = PromptableModel(CONFIG)
    initialise(fresh, str(tmp_path / "saved"), "prompted")
    assert not fresh.atlases
    assert torch.equal(fresh.image_encoder.state_dict()["norm.weight"], model.image_encoder.state_dict()["norm.weight"])


def test_an_atlas_without_terms_or_with_a_flat_grid_is_refused():
    with pytest.raises(ValueError, match="has no terms"):
        AtlasConfig("heads", (), (4, 4, 4), (0, 0, 0), 4.0)
    with pytest.raises(ValueError, match="three positive integers"):
        AtlasConfig("heads", ("brainstem",), (4, 0, 4), (0, 0, 0), 4.0)


def test_names_lie_right_in_a_real_head(data_root: Path):
    folder = data_root / "mricron_atlases"
    image = nibabel.load(folder / "images" / "ch2_aal.nii.gz")
    truth = np.asarray(nibabel.load(folder / "labels" / "ch2_aal.nii.gz").dataobj)
    predictor = Predictor.from_pretrained("promptseg-tiny").set_image(image)
    for name, value in (("left thalamus", 77), ("right thalamus", 78), ("left hippocampus", 37)):
        mask = predictor.predict(text=name).mask
        assert 2 * ((mask > 0) & (truth == value)).sum() / ((mask > 0).sum() + (truth == value).sum()) > 0.4, name
