"""The mask that ``--mask`` names has to lie where the image does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from promptseg.cli.mask_file import read_mask
from promptseg.io import write_volume
from promptseg.volume import Volume


@pytest.mark.parametrize("axes", [[1, 0, 2], [2, 1, 0], [1, 2, 0]])
def test_exchanged_axes_of_a_cube_are_another_place(tmp_path: Path, axes: list[int]) -> None:
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-20, 30, 5]
    volume = Volume(np.random.default_rng(0).normal(size=(9, 9, 9)), affine)
    mask = np.zeros(volume.shape, np.uint8)
    mask[1:3, 4:8, 5] = 1
    assert np.array_equal(read_mask(str(write_volume(tmp_path / "same.nii", mask, affine)), volume), mask)
    exchanged = write_volume(tmp_path / "exchanged.nii", mask, affine[:, [*axes, 3]])
    with pytest.raises(ValueError, match=r"exchanged\.nii: it has the image's shape but lies up to 12 mm away"):
        read_mask(str(exchanged), volume)
