"""read_volume and write_volume: which reader and writer a file name needs, and checks that all formats share."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..volume import Volume
from ..volume_checks import check_affine, check_array
from .atomic import atomic_path

NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz")
"""File names that nibabel reads; SimpleITK is tried on all others."""

ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
"""File names that SimpleITK writes."""

WRITABLE_SUFFIXES = (".nii", ".nii.gz", *ITK_SUFFIXES)
"""File names that :func:`write_volume` takes."""

SEGMENTATION_SUFFIX = ".dcm"
"""File name that :func:`write_labels` takes beside these."""

_GZIP_MAGIC = b"\x1f\x8b"


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Reads a 3D image.

    Args:
        path: NIfTI-1 or NIfTI-2 (``.nii``, ``.nii.gz``), or any file that SimpleITK reads (``.nrrd``, ``.mha``,
            ``.mhd``; needs the extra ``promptseg[itk]``), or a DICOM series: its folder, or one of its files.

    Returns:
        The image in the file's own orientation, as nibabel indexes it. Integers stay integers; a scale factor in the
        header (scl_slope) is applied and makes them float32.

    Raises:
        ValueError: if the file is missing, damaged, not an image, or not 3D, or a folder holds none or several; the
            message says what to do.
        ImportError: if the format needs SimpleITK and that is not installed.
    """
    path = Path(path)
    if path.is_dir():
        from .dicom import read_dicom_folder

        return read_dicom_folder(path)
    _check_readable(path)
    if path.name.lower().endswith(NIBABEL_SUFFIXES):
        from .nifti import read_with_nibabel

        return read_with_nibabel(path)
    from .itk import read_with_itk

    return read_with_itk(path)


def write_volume(
    path: str | os.PathLike[str],
    array: Any,
    affine: Any,
    dtype: Any = None,
    reference: Volume | str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a 3D array as an image; the file appears under its name only when it is complete.

    Args:
        path: a name with one of :data:`WRITABLE_SUFFIXES`, which chooses the format.
        array: (I, J, K) bool, integers or real numbers.
        affine: (4, 4) voxel indices to RAS mm.
        dtype: to store; None for the array's own (bool and float16 become uint8 and float32).
        reference: the volume, or its file, on whose grid the array lies: its header is repeated, so that the affine
            is the same to the last bit (in ``.nrrd``, which stores products of it, to the last but one). A file that
            has gone, or lies elsewhere, is ignored. Without one, NIfTI-1 rounds the affine to float32; NIfTI-2 is
            written where that would move a voxel noticeably.

    Returns:
        The path written.

    Raises:
        ValueError: for an array or affine that cannot be stored, an unknown suffix, or a folder that is missing or
            not writable.
        OSError: if writing failed, such as on a full disk; nothing is left of the file then.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith(WRITABLE_SUFFIXES):
        raise ValueError(f"{path}: expected a file name that ends in one of {', '.join(WRITABLE_SUFFIXES)}")
    stored = _as_stored(array, dtype, path)
    matrix = check_affine(affine, str(path))
    if name.endswith(ITK_SUFFIXES):
        from .itk import write_with_itk as write
    else:
        from .nifti import write_nifti as write
    with atomic_path(path) as partial:
        write(partial, stored, matrix, reference)
    return path


def write_labels(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    volume: Volume,
    names: Mapping[int, str] | None = None,
    is_automatic: bool = False,
) -> Path:
    """Writes objects on a volume's grid, as an image of label values or as DICOM segmentation.

    Args:
        path: a name with one of :data:`WRITABLE_SUFFIXES`; or ``.dcm`` for a segmentation that refers to the DICOM
            series that the volume was read from (needs the extra ``promptseg[dicom]``).
        labels: (I, J, K) integers, 0 for background.
        volume: the image.
        names: value -> name, for formats that keep names.
        is_automatic: whether nobody pointed at the objects, for formats that tell.

    Returns:
        The path written; the file appears there only when it is complete.

    Raises:
        ValueError: as for :func:`write_volume`, and for a segmentation without a DICOM series.
        ImportError: if the format needs a package that is not installed.
        OSError: if writing failed.
    """
    path = Path(path)
    if not path.name.lower().endswith(SEGMENTATION_SUFFIX):
        return write_volume(path, labels, volume.affine, reference=volume)
    from .dicom_seg import check_segmentation_path, write_segmentation

    check_segmentation_path(path, volume.source)
    with atomic_path(path) as partial:
        write_segmentation(partial, labels, volume, names or {}, is_automatic)
    return path


def _check_readable(path: Path) -> None:
    """Says what is wrong with a path before a reader does so in its own words."""
    if path.is_symlink() and not path.exists():  # as where git-annex or DataLad has not fetched a file
        raise ValueError(f"{path}: is a link to {os.readlink(path)}, which is not there; fetch it, or correct the link")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        cure = f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path"
        raise ValueError(f"{path}: there is no such file; {cure}")
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    if not magic:
        raise ValueError(f"{path}: is empty; copy or download it again")
    name = path.name.lower()
    if name.endswith((".nii", ".hdr", ".img")) and magic == _GZIP_MAGIC:
        raise ValueError(f"{path}: is compressed with gzip; rename it to {path.name}.gz")
    if name.endswith(".nii.gz") and magic != _GZIP_MAGIC:
        raise ValueError(f"{path}: is not compressed with gzip; if it is a plain NIfTI file, rename it to {path.stem}")
    if name.endswith((".npy", ".npz")):
        raise ValueError(
            f"{path}: is a numpy file without a voxel size; load it with numpy and give image and spacing="
        )


def _as_stored(array: Any, dtype: Any, path: Path) -> np.ndarray:
    """The array in the dtype it is written in.

    Raises:
        ValueError: if a value does not fit the dtype.
    """
    array = check_array(np.asarray(array), str(path))
    wanted = np.dtype(array.dtype if dtype is None else dtype)
    wanted = {"?": np.dtype(np.uint8), "e": np.dtype(np.float32)}.get(wanted.char, wanted)
    if wanted.kind not in "uif":
        raise ValueError(f"{path}: dtype {wanted} cannot be stored; expected integers or real numbers, such as uint8")
    if wanted.kind in "ui" and array.dtype != wanted and array.dtype.kind != "b":
        low, high, limits = array.min(), array.max(), np.iinfo(wanted)
        if not (low >= limits.min and high <= limits.max):
            raise ValueError(f"{path}: values {low} to {high} do not fit {wanted} ({limits.min} to {limits.max})")
    return array.astype(wanted, copy=False)
