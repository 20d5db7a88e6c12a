"""Files that are cut off, have wrong bits or are something else are refused in words, never read as other voxels."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptseg.data.reading import read_grid
from promptseg.io import read_volume

from ..conftest import make_array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("damaged")


def save(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)  # type: ignore[attr-defined]
    return path


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_files_are_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    noise = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    content = save(path, noise).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="again") as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_a_wrong_bit_in_a_compressed_file_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    content = save(tmp_path / "image.nii.gz", noise).read_bytes()
    path = tmp_path / "copy.nii.gz"
    for place in (len(content) // 3, len(content) // 2, len(content) - 6):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        for read in (read_volume, read_grid):
            with pytest.raises(ValueError, match=r"copy\.nii\.gz.* copy"):
                read(path)
    path.write_bytes(content[:-4])
    with pytest.raises(ValueError, match="damaged or cut off"):
        read_volume(path)
    for behind in (bytes(1000), b"and what gzip ignores"):
        path.write_bytes(content + behind)
        assert np.array_equal(read_volume(path).array, noise)


@given(st.binary(min_size=1, max_size=600), st.booleans())
def test_garbage_is_refused(folder: Path, content: bytes, is_compressed: bool) -> None:
    path = folder / ("noise.nii.gz" if is_compressed else "noise.nii")
    path.write_bytes(gzip.compress(content) if is_compressed else content)
    with pytest.raises(ValueError, match="noise"):
        read_volume(path)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", make_array((2, 2, 2), "int16"))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([32000, 32000, 32000], dtype="<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ValueError, match="damaged"):
        read_volume(path)


def test_a_folder_and_a_link_to_nothing_name_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder without DICOM images, expected an image file .*image.nii.gz"):
        read_volume(tmp_path)
    link = tmp_path / "image.nii.gz"
    try:
        link.symlink_to(".git/annex/objects/image.nii.gz")
    except OSError:
        pytest.skip("links cannot be made here")
    with pytest.raises(ValueError, match=r"image\.nii\.gz: is a link to .*annex.*, which is not there; fetch it"):
        read_volume(link)
