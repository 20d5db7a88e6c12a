"""What a click costs: what is encoded, what is kept, and how much memory it takes."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from promptseg import Predictor
from promptseg.cache import HEADER_BYTES
from promptseg.models import PromptableModel
from promptseg.models.numerics import embedding_bytes
from promptseg.precompute import in_background

from ..conftest import make_affine
from .conftest import CONFIG, make_image, make_predictor


def test_a_second_click_nearby_encodes_nothing(ready: Predictor) -> None:
    ready.cache.clear()
    first = ready.predict(points=[(20, 18, 15)])
    assert first.encoder_calls >= 2  # every zoom level that can hold it
    calls = ready.encoder_calls
    for near in ((21, 18, 15), (20, 20, 16), (18, 17, 14)):
        result = ready.predict(points=[(20, 18, 15), near], labels=[1, 0])
        assert result.encoder_calls == 0
    assert ready.predict(points=[(20, 18, 15)]).encoder_calls == 0
    assert ready.encoder_calls == calls


def test_switching_between_images_encodes_each_once(predictor: Predictor) -> None:
    predictor.cache.clear()
    images = [make_image((30, 30, 30), seed) for seed in (1, 2)]
    calls = [predictor.set_image(i, spacing=1).predict([(15, 15, 15)]).encoder_calls for i in images]
    again = [predictor.set_image(i, spacing=1).predict([(15, 15, 15)]).encoder_calls for i in images]
    assert min(calls) > 0
    assert again == [0, 0]
    moved = predictor.set_image(images[0], affine=make_affine(origin=(1, 0, 0)))  # another place is another image
    assert moved.predict([(15, 15, 15)]).encoder_calls > 0


def test_embeddings_on_disk_serve_the_next_process_but_not_other_weights(tmp_path: Path) -> None:
    image = make_image((30, 30, 30))
    first = make_predictor(cache_dir=tmp_path).set_image(image, spacing=1).predict([(15, 15, 15)])
    second = make_predictor(cache_dir=tmp_path).set_image(image, spacing=1).predict([(15, 15, 15)])
    assert (first.encoder_calls > 0, second.encoder_calls) == (True, 0)
    assert np.array_equal(first.mask, second.mask)
    other = make_predictor(seed=1, cache_dir=tmp_path).set_image(image, spacing=1)
    assert other.predict([(15, 15, 15)]).encoder_calls > 0
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-50])
    third = make_predictor(cache_dir=tmp_path).set_image(image, spacing=1).predict([(15, 15, 15)])
    assert third.encoder_calls == first.encoder_calls
    assert np.array_equal(first.mask, third.mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_from_disk_lies_in_memory_as_one_that_was_just_made(tmp_path: Path, dtype: torch.dtype) -> None:
    """In bfloat16 the decoder rounds otherwise where channels lie otherwise."""
    tensors = []
    for _ in range(2):
        predictor = make_predictor(dtype=dtype, cache_dir=tmp_path).set_image(make_image((30, 30, 30)), spacing=1)
        assert predictor.cache.device == predictor.device
        (embedding,) = predictor._require_engine().embed([predictor.lattice.all_tiles(0)[0]])
        tensors.append(embedding.tensors())
    assert predictor.cache.stats.disk_hits == 1
    for name, made in tensors[0].items():
        assert torch.equal(made, tensors[1][name])
        assert made.stride() == tensors[1][name].stride(), name


def test_precompute_leaves_only_the_decoder(predictor: Predictor) -> None:
    predictor.set_image(make_image(seed=3), spacing=1)
    predictor.cache.clear()
    total = sum(len(predictor.lattice.all_tiles(level)) for level in range(predictor.lattice.num_levels))
    assert predictor.precompute(progress=False) == total
    assert predictor.encoder_calls == total
    for click in ((0, 0, 0), (49, 43, 39), (25, 20, 10)):
        assert predictor.predict(points=[click]).encoder_calls == 0


def test_precompute_in_the_background_lets_clicks_through(predictor: Predictor) -> None:
    predictor.set_image(make_image(seed=4), spacing=1)
    predictor.cache.clear()
    future = predictor.precompute(background=True)
    assert not isinstance(future, int)
    result = predictor.predict(points=[(20, 20, 20)])
    assert result.mask[20, 20, 20] == 1
    assert future.result(timeout=300) == len(predictor.cache)
    assert predictor.predict(points=[(40, 40, 30)]).encoder_calls == 0


def test_precompute_stops_when_the_image_changes(predictor: Predictor) -> None:
    predictor.set_image(make_image((90, 90, 90), seed=5), spacing=1)
    predictor.cache.clear()
    future = predictor.precompute(background=True)
    assert not isinstance(future, int)
    predictor.set_image(make_image((20, 20, 20)), spacing=1)
    assert future.result(timeout=300) < 125
    assert predictor.predict(points=[(8, 8, 8)]).mask[8, 8, 8] == 1


def test_precompute_in_the_background_ends_with_the_program() -> None:
    code = """
        import time
        from tests.predictor.conftest import make_image, make_predictor
        predictor = make_predictor().set_image(make_image((90, 90, 90)), spacing=1)
        encode = predictor.model.encode_image
        def encode_slowly(*arguments):
            time.sleep(0.5)
            print("encoded", flush=True)
            return encode(*arguments)
        predictor.model.encode_image = encode_slowly
        predictor.precompute(background=True)
        time.sleep(0.1)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("encoded") <= 2


def test_an_error_of_precompute_in_the_background_is_told(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.set_image(make_image(seed=7), spacing=1)
    predictor.cache.clear()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(predictor.model, "encode_image", fail)
    future = predictor.precompute(background=True)
    assert not isinstance(future, int)
    with pytest.raises(RuntimeError, match="out of memory"):
        future.result(timeout=300)


def test_work_in_the_background_is_not_cancelled_before_its_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result would then be refused, with an error in the thread."""
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    assert not in_background(lambda: 1).cancel()


def test_precompute_chooses_levels_and_counts(predictor: Predictor) -> None:
    predictor.set_image(make_image(seed=6), spacing=1)
    predictor.cache.clear()
    top = predictor.lattice.num_levels - 1
    assert predictor.precompute(levels=[top], progress=False) == 1
    assert predictor.precompute(levels=[0], max_tiles=3, progress=False) == 3
    assert predictor.precompute(levels=[], progress=False) == 0
    with pytest.raises(ValueError, match=rf"levels=\[{top + 1}\]: this image has levels 0 to {top}"):
        predictor.precompute(levels=[0, top + 1])


def test_precompute_says_what_the_cache_could_keep() -> None:
    torch.manual_seed(0)
    size = embedding_bytes(PromptableModel(CONFIG))
    predictor = make_predictor(cache_bytes=int(3.5 * size)).set_image(make_image(), spacing=1)
    assert predictor.precompute(progress=False) == 3  # all that fit, the coarsest first
    assert predictor.precompute(levels=[0], progress=False) == 3  # more were asked for than fit
    assert predictor.cache.num_bytes <= predictor.cache.max_bytes


def test_precompute_encodes_no_more_than_the_disk_keeps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = embedding_bytes(PromptableModel(CONFIG)) + HEADER_BYTES
    options = {"cache_dir": tmp_path, "cache_dir_bytes": int(6.5 * size), "cache_bytes": 2 * size}
    predictor = make_predictor(**options).set_image(make_image(), spacing=1)
    assert predictor.precompute(progress=False) == 6
    assert predictor.encoder_calls == 6
    again = make_predictor(**options).set_image(make_image(), spacing=1)
    again.precompute(levels=[again.lattice.num_levels - 1], progress=False)
    assert again.encoder_calls == 0  # the coarsest was not displaced


def test_the_size_of_an_embedding_is_known_before(ready: Predictor) -> None:
    ready.cache.clear()
    ready.precompute(levels=[0], max_tiles=2, progress=False)
    assert ready.cache.num_bytes == pytest.approx(2 * embedding_bytes(ready.model), rel=0.01)


def test_nothing_of_the_images_size_is_held_in_float(predictor: Predictor) -> None:
    image = np.zeros((400, 300, 300), dtype=np.int16)
    image[100:150, 100:150, 100:150] = 100
    model = copy.deepcopy(predictor.model)
    with torch.no_grad():
        for weights in model.mask_decoder.mask_weights:  # a small object: masks are held in bytes
            weights.fc2.bias[-1] = -20.0
    predictor = Predictor(model)
    tracemalloc.start()
    predictor.set_image(image, spacing=1)
    predictor.predict(points=[(120, 120, 120)])
    predictor.predict(points=[(120, 120, 120), (170, 60, 60)], labels=[1, 0])
    peak = tracemalloc.get_traced_memory()[1]  # numpy's, which all that is read passes through
    tracemalloc.stop()
    assert peak < image.nbytes / 2
