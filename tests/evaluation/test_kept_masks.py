"""Masks that are kept: small in memory, and the same when they are read again."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from promptseg.evaluation.cases import LoadedCase
from promptseg.evaluation.config import EvaluationConfig
from promptseg.evaluation.kept_masks import KeptMask, MaskCrop, read_mask, write_masks
from promptseg.evaluation.registry import parse_spec
from promptseg.evaluation.segmenters import EmptySegmenter, SegmenterAnswer
from promptseg.evaluation.work import CaseTask, file_name, masks_path, run_case

from .conftest import MemoryCase, ball, make_image, smooth_mask


@pytest.mark.parametrize("mask", [smooth_mask((9, 8, 7), 3), np.zeros((5, 6, 7), bool), np.ones((5, 6, 7), bool)])
def test_a_mask_comes_back_as_it_was(mask: np.ndarray, tmp_path: Path) -> None:
    whole, crop = np.zeros(mask.shape, dtype=int), MaskCrop.from_mask(mask)
    crop.paste(whole, 3)
    np.testing.assert_array_equal(whole, 3 * mask)
    points, labels = np.array([[1, 2, 3]]), np.array([1])
    kept = [KeptMask(n, name, crop, points, labels) for n, name in ((1, "one"), (2, "Größe"))]
    write_masks(tmp_path / "folder" / "masks.npz", kept)
    found = read_mask(tmp_path / "folder" / "masks.npz", 2, "Größe")
    np.testing.assert_array_equal(found.mask.part, crop.part)
    np.testing.assert_array_equal(found.mask.low, crop.low)
    np.testing.assert_array_equal(found.points, points)
    with pytest.raises(KeyError, match="no mask of two"):
        read_mask(tmp_path / "folder" / "masks.npz", 2, "two")


class Everything(EmptySegmenter):
    """Answers with the whole image, as a model does that has lost its way."""

    def predict(self, prompts: object) -> SegmenterAnswer:
        """All voxels."""
        return SegmenterAnswer(np.ones(self._shape, dtype=bool))


def test_memory_does_not_grow_with_the_number_of_objects(tmp_path: Path) -> None:
    """A clinical label map has a hundred; neither answers nor surfaces of all of them fit."""
    shape, peaks = (56, 40, 36), []
    for count in (1, 2, 10):
        labels = np.zeros(shape, dtype=np.uint8)
        for value in range(1, count + 1):
            labels[ball(shape, (4 + 5 * value, 20, 18), 2)] = value
        objects = tuple(((value,), f"label {value}") for value in range(1, count + 1))
        case = MemoryCase(LoadedCase(make_image(labels), labels, objects), name=f"of {count}")
        config = EvaluationConfig("c", "o", model=("empty",), clicks=1, jitter_repeats=0)
        task = CaseTask(parse_spec("empty"), "", case, config.settings(), str(tmp_path))
        if count > 1:  # what is imported and read once was so with the first
            tracemalloc.start()
        result = run_case(task, Everything())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(result.records) == count
        assert not result.errors
        assert read_mask(masks_path(task), count, f"label {count}").mask.part.all()
    assert peaks[2] < peaks[1] + np.prod(shape)


def test_names_of_any_length_and_letters_become_names_of_files(tmp_path: Path) -> None:
    long = "影像" * 40
    names = [file_name("set", long), file_name("set", long + "1"), file_name("set", "a/b"), file_name("set", "a b")]
    assert len(set(names)) == 4
    for name in names:
        (tmp_path / f"{name}.json").touch()
    assert file_name("alpha", "a1") == "alpha__a1"
