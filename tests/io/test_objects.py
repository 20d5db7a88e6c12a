"""Images that are in memory already: each kind is recognised, shared where it can be, and refused in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from promptseg.io.objects import volume_from_object
from promptseg.volume import Volume

from ..conftest import make_affine, make_array


def test_paths_are_text_or_path_objects(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    nib.save(nib.Nifti1Image(make_array(), make_affine("LPS")), path)  # type: ignore[attr-defined]
    for name in (str(path), path):
        volume = volume_from_object(name)
        assert np.array_equal(volume.array, make_array())
        assert volume.source == str(path)


def test_a_volume_is_passed_on_as_it_is() -> None:
    volume = Volume(make_array(), np.eye(4))
    assert volume_from_object(volume) is volume


def test_memory_is_shared_where_it_can_be() -> None:
    array = make_array()
    backwards = array[::-1, :, ::-1].transpose(2, 0, 1)
    for given, owner in (
        (array, array),
        (backwards, array),
        (torch.from_numpy(array), array),
        (nib.Nifti1Image(array, np.eye(4)), array),  # type: ignore[attr-defined]
    ):
        arguments = {} if hasattr(given, "dataobj") else {"spacing": 1}
        assert np.shares_memory(volume_from_object(given, **arguments).array, owner)


def test_anything_with_an_array_is_an_array() -> None:
    class Wrapped:
        """As other packages' arrays."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return make_array(dtype="int16")

    volume = volume_from_object(Wrapped(), spacing=(1, 2, 3))
    assert np.array_equal(volume.array, make_array(dtype="int16"))
    assert volume.source == "<numpy array>"


def test_big_endian_and_wide_floats_are_made_the_machines() -> None:
    for array in (make_array().astype(">f4"), make_array().astype(np.longdouble)):
        volume = volume_from_object(array, spacing=1)
        assert volume.array.dtype.isnative
        assert volume.array.dtype.itemsize <= 8
        assert np.array_equal(volume.array, make_array())


@pytest.mark.parametrize(
    ("image", "arguments", "expected"),
    [
        (17, {}, "a int is not an image"),
        ({"image": 1}, {}, "a dict is not an image"),
        (nib.Nifti1Header(), {}, "a Nifti1Header is not an image"),
        (sitk.Image([2, 2, 2], sitk.sitkInt16), {"affine": np.eye(4)}, "this SimpleITK image brings its own"),
        (Volume(make_array(), np.eye(4)), {"spacing": 1}, "this volume brings its own"),
        ("image.nii", {"spacing": 1}, "this path brings its own"),
        (torch.zeros(2, 3, dtype=torch.float32), {"spacing": 1}, r"shape \(2, 3\) has 2 axes"),
        (torch.zeros(1, 2, 3, 4), {"spacing": 1}, r"shape \(1, 2, 3, 4\) has 4 axes.*image\[0\]"),
        (torch.zeros(2, 3, 4, dtype=torch.complex64), {"spacing": 1}, "complex"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        volume_from_object(image, **arguments)


def test_no_package_is_imported_to_tell_kinds_apart() -> None:
    code = """
import sys, numpy as np
from promptseg.io.objects import volume_from_object
volume_from_object(np.zeros((2, 3, 4)), spacing=1)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "SimpleITK"} & set(done.stdout.split())
