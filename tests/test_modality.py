"""The guessed modality, on arrays that have what it goes by."""

from __future__ import annotations

import numpy as np
import pytest

from promptseg.modality import guess_modality

GENERATOR = np.random.default_rng(0)
BALL = ((np.indices((40, 40, 40)) - 20) ** 2).sum(axis=0) < 15**2


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.where(BALL, GENERATOR.normal(50, 20, BALL.shape), -1000).astype(np.int16), "CT"),
        (np.where(BALL, GENERATOR.normal(400, 60, BALL.shape), 5).clip(0).astype(np.uint16), "MR"),
        ((GENERATOR.gamma(0.4, 1.0, BALL.shape) ** 3).astype(np.float32), "PET"),
        (BALL.astype(np.uint8), "label map"),
        (BALL * 3.0 + np.roll(BALL, 9, 0), "label map"),
    ],
)
def test_guesses(array: np.ndarray, expected: str) -> None:
    guess = guess_modality(array)
    assert guess.name == expected
    assert guess.reason
    assert guess_modality(np.ascontiguousarray(array.T)).name == expected


def test_one_slice_is_enough() -> None:
    assert guess_modality(GENERATOR.normal(0, 400, (1, 50, 60))).name == "CT"
