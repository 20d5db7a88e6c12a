"""Everything that can be put in the table: promptseg's weights, a MONAI network, nnInteractive, a factory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from promptseg.evaluation import EvaluationConfig, run_evaluation
from promptseg.evaluation.monai_adapter import NetworkSegmenter
from promptseg.evaluation.nninteractive_adapter import CHECKPOINT, NnInteractiveSegmenter
from promptseg.evaluation.predictor_adapter import PredictorSegmenter, accepted_prompts
from promptseg.evaluation.prompts import ObjectPrompts, Stroke
from promptseg.evaluation.registry import parse_spec, parse_specs
from promptseg.evaluation.segmenters import InteractiveSegmenter, SegmenterImage

from .conftest import ball, make_image

SHAPE = (20, 18, 12)
IMAGE = make_image(np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32), (1.0, 1.0, 2.0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with random weights."""
    import torch

    from promptseg.models import ModelConfig, PromptableModel
    from promptseg.models.pretrained import save_pretrained

    config = ModelConfig(
        name="random", tile_size=32, stem_channels=(8, 16, 16), stem_depths=(1, 1, 1), embed_dim=24, depth=2,
        num_heads=2, decoder_channels=(8, 16, 16), num_levels=4, text_dim=6,
    )  # fmt: skip
    torch.manual_seed(0)
    return save_pretrained(PromptableModel(config), tmp_path_factory.mktemp("weights") / "random")


def test_promptseg_weights_run_in_the_benchmark(weights: Path, pool: Path, tmp_path: Path) -> None:
    config = EvaluationConfig(
        str(pool), str(tmp_path), (str(weights),), clicks=2, max_cases=1, max_objects=1, jitter_repeats=1, bootstrap=5
    )
    result = run_evaluation(config)
    found = result.summary["models"]["random"]
    assert found["failures"] == []
    assert not found["is_baseline"]
    assert found["revision"]
    assert found["clicks_respected"]["all"] == 1.0  # the predictor's contract
    assert found["encoder_calls"]["first"] >= 1
    assert found["calibration"]["count"] >= 2
    assert all(0 <= r.predicted_iou <= 1 for r in result.records if not r.is_carried)
    assert found["peak_memory_mb"] > 10


class Recorder:
    """Stands for a predictor and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.cleared = 0

    def clear(self) -> None:
        """Counts."""
        self.cleared += 1

    def set_image(self, array: np.ndarray, affine: np.ndarray) -> None:
        """Notes."""
        self.shape = array.shape

    def predict(self, **prompts: Any) -> Any:
        """Notes, and answers with something like a Prediction."""
        self.asked = prompts
        answer = ModuleType("prediction")
        answer.mask, answer.score, answer.encoder_calls = np.ones(self.shape, np.uint8), 0.4, 3  # type: ignore[attr-defined]
        return answer


def test_every_kind_of_prompt_reaches_the_predictor_as_it_takes_them() -> None:
    predictor = Recorder()
    segmenter = PredictorSegmenter(predictor)
    segmenter.set_image(IMAGE)
    assert predictor.cleared == 1
    answer = segmenter.predict(ObjectPrompts(text="liver"))
    assert (answer.score, answer.encoder_calls) == (0.4, 3)
    assert {k: v for k, v in predictor.asked.items() if v is not None} == {"text": "liver"}
    mask = np.zeros(SHAPE, bool)
    prompts = ObjectPrompts(box=(np.array([1, 2, 3]), np.array([4, 5, 6])), mask=mask).with_point((1, 2, 3), 0)
    segmenter.predict(prompts.with_stroke(Stroke(np.array([[1, 1, 1], [2, 2, 2]]), 1)))
    asked = predictor.asked
    assert (asked["points"].tolist(), asked["labels"].tolist()) == ([[1, 2, 3]], [0])
    assert asked["mask"].dtype == np.uint8
    assert asked["scribbles"][0].label == 1
    assert "text" not in accepted_prompts("anything")


@pytest.fixture(scope="module")
def network() -> Any:
    """A small untrained MONAI network, three channels in and two out."""
    pytest.importorskip("monai")
    import torch
    from monai.networks.nets.basic_unet import BasicUNet

    torch.manual_seed(0)
    return BasicUNet(3, 3, 2, features=(4, 4, 8, 8, 8, 4))


def test_a_monai_network_answers_on_the_images_grid(network: Any) -> None:
    segmenter = NetworkSegmenter(network, roi_size=(32, 32, 32), spacing_mm=(2.0, 2.0, 2.0), device="cpu")
    assert isinstance(segmenter, InteractiveSegmenter)
    assert segmenter.accepts == {"points", "scribbles"}
    assert not network.training
    segmenter.set_image(IMAGE)
    prompts = ObjectPrompts(np.array([[3, 4, 5]]), np.array([1]))
    first = segmenter.predict(prompts).mask
    assert first.shape == SHAPE
    assert first.dtype == bool
    np.testing.assert_array_equal(first, segmenter.predict(prompts).mask)


def test_the_maps_that_a_network_sees_have_their_peaks_at_the_clicks() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")

    class Channel(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            return x[:, 1:2] - 0.5  # inside where the map of including clicks is above a half

    segmenter = NetworkSegmenter(Channel(), roi_size=(16, 16, 16), click_sigma_mm=2.0, device="cpu")
    segmenter.set_image(IMAGE)
    prompts = ObjectPrompts(np.array([[6, 7, 5], [15, 12, 9]]), np.array([1, 0]))
    reach = 2.0 * np.sqrt(2 * np.log(2))
    expected = ball(SHAPE, (6, 7, 5), reach, (1, 1, 2))
    np.testing.assert_array_equal(segmenter.predict(prompts).mask, expected)


def test_a_network_with_a_mask_channel_sees_its_own_last_answer_and_forgets_it_with_the_object() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")

    class Grow(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.max_pool3d(x[:, :1], 3, 1, 1) - 0.5

    segmenter = NetworkSegmenter(Grow(), ("mask",), roi_size=(16, 16, 16), device="cpu")
    assert segmenter.accepts == {"mask"}
    segmenter.set_image(IMAGE)
    start = np.zeros(SHAPE, bool)
    start[9, 9, 6] = True
    sizes = [int(segmenter.predict(ObjectPrompts(mask=start)).mask.sum()) for _ in range(2)]
    assert sizes == [27, 125]
    segmenter.start_object()
    assert int(segmenter.predict(ObjectPrompts(mask=start)).mask.sum()) == 27


class FakeSession:
    """The part of nnInteractive's session that the adapter calls, with the signatures of version 2.6.

    It stands for a package that is not installed and weights that are not here: it checks what it is given as the real
    one does, notes it, and answers with the clicked voxels.
    """

    def __init__(self, device: Any, torch_n_threads: int, do_autozoom: bool, enable_undo: bool) -> None:
        self.threads = torch_n_threads
        self.calls: list[tuple[Any, ...]] = []
        self.knows_3d_boxes = False

    def initialize_from_trained_model_folder(
        self, model_training_output_dir: str, use_fold: str | None = None, checkpoint_name: str = "checkpoint_final.pth"
    ) -> None:
        assert (Path(model_training_output_dir) / f"fold_{use_fold}" / checkpoint_name).is_file()

    def _is_interaction_supported(self, interaction_name: str) -> bool:
        return interaction_name != "bbox3d" or self.knows_3d_boxes

    def set_image(self, image: np.ndarray, image_properties: dict[str, Any] | None = None) -> None:
        assert image.ndim == 4
        self.shape = image.shape[1:]

    def set_target_buffer(self, target_buffer: np.ndarray) -> None:
        assert target_buffer.ndim == 3
        self.target = target_buffer

    def reset_interactions(self) -> None:
        self.calls.append(("reset",))

    def add_bbox_interaction(self, bbox_coords: Any, include_interaction: bool, run_prediction: bool = True) -> None:
        sizes = [b - a for a, b in bbox_coords]
        assert self.knows_3d_boxes or 1 in sizes
        self.calls.append(("box", bbox_coords, include_interaction, run_prediction))

    def add_point_interaction(self, coordinates: Any, include_interaction: bool, run_prediction: bool = True) -> None:
        self.calls.append(("point", coordinates, include_interaction, run_prediction))
        self.target[coordinates] = include_interaction

    def add_scribble_interaction(
        self, scribble_image: np.ndarray, include_interaction: bool, run_prediction: bool = True
    ) -> None:
        assert scribble_image.shape == self.shape
        self.calls.append(("scribble", int(scribble_image.sum()), include_interaction, run_prediction))

    def add_initial_seg_interaction(self, initial_seg: np.ndarray, run_prediction: bool = False) -> None:
        assert initial_seg.shape == self.shape
        self.calls.append(("mask", int(initial_seg.sum()), run_prediction))
        self.target[:] = initial_seg


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NnInteractiveSegmenter:
    """The adapter around :class:`FakeSession`."""
    for name in ("nnInteractive", "nnInteractive.inference", "nnInteractive.inference.inference_session"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module = sys.modules["nnInteractive.inference.inference_session"]
    module.nnInteractiveInferenceSession = FakeSession  # type: ignore[attr-defined]
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / CHECKPOINT).write_bytes(b"weights")
    segmenter = NnInteractiveSegmenter(tmp_path, device="cpu")
    segmenter.set_image(IMAGE)
    return segmenter


def test_nninteractive_is_told_each_prompt_once_and_predicts_after_the_last(peer: NnInteractiveSegmenter) -> None:
    session = peer.session
    assert isinstance(peer, InteractiveSegmenter)
    session.calls.clear()
    box = (np.array([2, 3, 2]), np.array([8, 9, 7]))
    prompts = ObjectPrompts(box=box)
    peer.predict(prompts)
    prompts = prompts.with_point((4, 5, 3), 1)
    mask = peer.predict(prompts).mask
    assert mask.dtype == bool
    assert mask.sum() == 1
    prompts = prompts.with_stroke(Stroke(np.array([[1, 1, 1], [1, 2, 1]]), 0)).with_point((4, 5, 3), 0)
    assert peer.predict(prompts).mask.sum() == 0
    assert session.calls == [
        ("box", [[2, 8], [3, 9], [4, 5]], True, True),  # on the middle slice: the weights know no 3D boxes
        ("point", (4, 5, 3), True, True),
        ("scribble", 2, False, False),
        ("point", (4, 5, 3), False, True),
    ]


def test_nninteractive_starts_each_object_afresh_and_takes_masks_and_3d_boxes(peer: NnInteractiveSegmenter) -> None:
    session = peer.session
    peer.predict(ObjectPrompts().with_point((1, 1, 1), 1))
    session.calls.clear()
    session.knows_3d_boxes = True
    peer.start_object()
    mask = np.zeros(SHAPE, bool)
    mask[3:5] = True
    prompts = ObjectPrompts(mask=mask, box=(np.array([2, 3, 2]), np.array([8, 9, 7])))
    answer = peer.predict(prompts.with_point((0, 0, 0), 1)).mask
    assert not answer[1, 1, 1]
    assert answer.sum() == mask.sum() + 1
    assert session.calls == [
        ("reset",),
        ("mask", int(mask.sum()), False),
        ("box", [[2, 8], [3, 9], [2, 7]], True, False),
        ("point", (0, 0, 0), True, True),
    ]


def test_nninteractive_computes_with_as_many_threads_as_the_others(
    peer: NnInteractiveSegmenter, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    assert peer.session.threads == before
    try:
        torch.set_num_threads(before + 1)
        assert NnInteractiveSegmenter(tmp_path, device="cpu").session.threads == before + 1
    finally:
        torch.set_num_threads(before)


def test_what_nninteractive_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fold_"):
        parse_spec(f"nninteractive:{tmp_path}").revision()
    (tmp_path / "fold_all").mkdir()
    (tmp_path / "fold_all" / CHECKPOINT).write_bytes(b"weights")
    assert len(parse_spec(f"nninteractive:{tmp_path}").revision()) == 24
    if "nnInteractive" not in sys.modules:
        with pytest.raises(ValueError, match="pip install nnInteractive"):
            parse_spec(f"nninteractive:{tmp_path}").build()


def test_names_on_the_command_line() -> None:
    assert parse_spec("new=runs/step_9000").name == "new"
    assert parse_spec("runs/step_9000/").name == "step_9000"
    assert parse_spec("my.module:factory").kind == "factory"
    assert parse_spec("nninteractive:a/b").argument == "a/b"
    for bad in ("", "=x", "new="):
        with pytest.raises(ValueError, match="expected MODEL or NAME=MODEL"):
            parse_spec(bad)
    with pytest.raises(ValueError, match="oracle is there twice"):
        parse_specs(("oracle", "oracle"))
    assert [s.name for s in parse_specs(("oracle", "again=oracle"))] == ["oracle", "again"]


@pytest.mark.parametrize(("architecture", "knows_names"), [("vista3d", True), ("sam-med3d", False)])
def test_weights_of_others_are_asked_for_all_that_they_understand(
    architecture: str, knows_names: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}), encoding="utf-8")
    accepted = accepted_prompts(str(tmp_path))
    assert {"points", "mask"} <= accepted
    assert ("text" in accepted) == knows_names
    assert not {"box", "automatic"} & accepted


def test_a_factory_must_make_a_segmenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made_here.py").write_text("def wrong(): return 7\n")
    with pytest.raises(ValueError, match="it made a int, expected an InteractiveSegmenter"):
        parse_spec("made_here:wrong").build()
    with pytest.raises(ValueError, match="cannot import it"):
        parse_spec("made_here:missing").build()
    with pytest.raises(ValueError, match="cannot import it"):
        parse_spec("not_there_at_all:x").build()


def test_an_image_knows_its_spacing_whatever_its_orientation() -> None:
    affine = np.array([[0, -2.0, 0, 0], [0.5, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(SegmenterImage(np.zeros((2, 2, 2)), affine).spacing_mm, [0.5, 2, 3])
