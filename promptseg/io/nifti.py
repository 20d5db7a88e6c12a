"""NIfTI-1 and NIfTI-2, and what else nibabel reads."""

from __future__ import annotations

import gzip
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder

from ..volume import Volume
from ..volume_checks import BLOCK_BYTES, block_slices, warn_of_strange_extent, warn_of_unknown_orientation

logger = logging.getLogger(__name__)

ALIGNED = 2
"""NIfTI's code for coordinates that are aligned to something, when a result has no header to repeat."""

LENGTH_BITS = 7
"""Bits of NIfTI's ``xyzt_units`` that hold the unit of length."""
MILLIMETRES = 2
UNITS_IN_MM = {1: 1000.0, 3: 0.001}
"""Code of metres and of microns -> mm. All others, millimetres and what is not said, are read as millimetres."""

NIFTI1_LONGEST_AXIS = 32767
ROUNDING_TOLERANCE = 1e-3
"""Most that float32 rounding of an affine may move a voxel, in voxels, before NIfTI-2 (float64) is written."""


def read_with_nibabel(path: Path) -> Volume:
    """Reads a file; see :func:`promptseg.io.read_volume`.

    Raises:
        ValueError: if it is damaged, truncated, not an image or not 3D.
    """
    with opened_image(path) as image:
        _check_frames(image, str(path))
        _check_stored_spacing(image, str(path))
        return volume_from_nibabel(image, str(path))


@contextmanager
def opened_image(path: Path, mmap: bool = False) -> Iterator[Any]:
    """Lends nibabel's image of a file, to read its voxels from inside the block.

    What is compressed with gzip ends in a checksum, which a reader that stops at the last voxel never sees: nine of ten
    files in which one bit is wrong give other voxels without a word. Here the block ends with it.

    Args:
        path: of the file.
        mmap: map the voxels of a file that is not compressed, and read them when they are used.

    Raises:
        ValueError: if the file is no image, or is damaged or cut off.
    """
    try:
        image: Any = nibabel.load(path, mmap=mmap)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel, gzip, zlib and struct raise a dozen kinds of their own
        raise ValueError(
            f"{path}: is not an image, or is damaged ({_line(error)}); open it in a viewer, or copy it again"
        ) from error
    if not path.name.lower().endswith((".gz", ".mgz")):
        yield image
        return
    with gzip.open(path) as stream:
        holders = {name: FileHolder(str(path), stream) for name in image.file_map}  # pyright: ignore[reportArgumentType]
        yield type(image).from_file_map(holders, mmap=False)
        _check_to_the_end(stream, path)


def _check_to_the_end(stream: gzip.GzipFile, path: Path) -> None:
    """Reads what is left of a gzip stream, so that its checksum and its length are looked at."""
    try:
        while stream.read(BLOCK_BYTES):
            pass
    except Exception as error:
        if str(error).startswith("Not a gzipped file"):  # what follows the stream, which gzip ignores as well
            return
        raise _damaged(error, str(path)) from error


def _check_frames(image: Any, path: str) -> None:
    """Refuses a file of several frames with a cure for the shell beside that for Python."""
    shape = tuple(int(n) for n in image.shape)
    if len(shape) == 4 and shape[3] > 1:
        frame = Path(path).name.partition(".")[0] + "_frame0.nii.gz"
        raise ValueError(
            f"{path}: shape {shape} has 4 axes, expected 3; take one frame: on the command line with nibabel's "
            f"`nib-roi -t 0:1 {shlex.quote(path)} {shlex.quote(frame)}`, in Python with image[..., 0]"
        )


def _check_stored_spacing(image: Any, source: str) -> None:
    """Refuses voxel sides of 0 mm and reports negative ones, which nibabel reads as 1 mm and as their size.

    Only where the affine is made of them: with an sform they are not used.
    """
    header = image.header
    if not isinstance(header, nibabel.Nifti1Header) or int(header["sform_code"]) > 0:
        return
    file_map = image.file_map
    with file_map["header" if "header" in file_map else "image"].get_prepare_fileobj("rb") as file:
        stored_mm = np.round(type(header).from_fileobj(file, check=False)["pixdim"][1:4].astype(float), 6)
    if not stored_mm.all():
        raise ValueError(
            f"{source}: its spacing is {stored_mm.tolist()} mm, and a side of 0 mm is no size; repair the header, or "
            "give the array with spacing=(x, y, z) in mm"
        )
    if (stored_mm < 0).any():
        logger.warning(
            "%s: its spacing is %s mm; the signs are dropped: correct the header if they are meant as a direction",
            source,
            stored_mm.tolist(),
        )


def volume_from_nibabel(image: Any, source: str) -> Volume:
    """A volume of a nibabel image.

    Args:
        image: any spatial image of nibabel.
        source: path or kind.

    Raises:
        ValueError: if its voxels cannot be read, or it is not a 3D image of real numbers.
    """
    if image.affine is None:
        raise ValueError(f"{source}: has no affine; give its array with spacing=(x, y, z) in mm")
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or 0 in shape:
        return Volume(np.broadcast_to(np.uint8(0), shape), image.affine, source)  # which refuses it without reading
    header = image.header if isinstance(image.header, nibabel.Nifti1Header) else None
    affine = image.affine if header is None else affine_in_mm(image.affine, header)
    voxels = _read_voxels(image.dataobj, shape, source)
    is_known = _places_axes(image)
    volume = Volume(voxels, affine, source, None if header is None else header.copy(), is_known)
    warn_of_strange_extent(volume.shape, volume.spacing_mm, source)
    if not is_known:
        reason = "its header has no valid transform"
        warn_of_unknown_orientation(source, volume.orientation, reason, "set the header's sform or qform")
    return volume


def affine_in_mm(affine: np.ndarray, header: nibabel.Nifti1Header) -> np.ndarray:
    """An affine of a header in millimetres, whatever the unit of length that the header says."""
    factor = UNITS_IN_MM.get(int(header["xyzt_units"]) & LENGTH_BITS, 1.0)
    return affine if factor == 1 else np.diag([factor, factor, factor, 1.0]) @ affine


def _places_axes(image: Any) -> bool:
    """Whether a header says where the axes run to; where it does not, nibabel makes an affine of the voxel sides.

    Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h, "METHOD 1"; Analyze has no orientation unless a
    ``.mat`` file of SPM's lies beside it.
    """
    header = image.header
    if isinstance(header, nibabel.Nifti1Header):
        return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    if isinstance(header, nibabel.AnalyzeHeader):
        return not np.allclose(image.affine, header.get_best_affine())
    return True


def _read_voxels(data: Any, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Voxels in the dtype they are stored in, or as float32 if the header scales them."""
    try:
        if not nibabel.is_proxy(data):  # type: ignore[attr-defined]
            return np.asarray(data)
        slope, intercept = float(getattr(data, "slope", 1.0)), float(getattr(data, "inter", 0.0))
        if (slope, intercept) == (1.0, 0.0):
            return np.asarray(data.get_unscaled() if hasattr(data, "get_unscaled") else data)
        stored = np.asarray(data.get_unscaled())
        scaled = np.empty_like(stored, dtype=np.float32)
        for part in block_slices(stored):
            scaled[part] = stored[part] * np.float64(slope) + intercept
        return scaled
    except MemoryError:
        raise ValueError(
            f"{source}: no memory for {shape} voxels; is the header damaged? Else crop the image"
        ) from None
    except Exception as error:  # zlib's, gzip's, EOF, a file shorter than its header says
        raise _damaged(error, source) from error


def _damaged(error: Exception, source: str) -> ValueError:
    return ValueError(f"{source}: is damaged or cut off ({_line(error)}); copy or download it again")


def write_nifti(
    path: Path, array: np.ndarray, affine: np.ndarray, reference: Volume | str | os.PathLike[str] | None
) -> None:
    """Writes a file; see :func:`promptseg.io.write_volume`.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        array: (I, J, K) in the dtype to store.
        affine: (4, 4).
        reference: whose header to repeat, if it places voxels at the same affine.
    """
    header = _header(array.shape, affine, _reference_header(reference))
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(array, header.get_best_affine(), header)
    image.to_filename(path)


def _header(shape: tuple[int, ...], affine: np.ndarray, reference: Any) -> Any:
    """A header that places an array at an affine; the reference's own where it does so already."""
    header = None
    if reference is not None:
        header = reference.copy()
        header.extensions.clear()  # they describe the image, and may name the patient
        own_mm = affine_in_mm(header.get_best_affine(), header)
        if tuple(reference.get_data_shape()[:3]) == shape and np.array_equal(own_mm, affine):
            return header
        header["xyzt_units"] = (int(header["xyzt_units"]) & ~LENGTH_BITS) | MILLIMETRES
    is_nifti2 = isinstance(header, nibabel.Nifti2Header) or max(shape) > NIFTI1_LONGEST_AXIS
    if not is_nifti2 and _displacement(affine.astype(np.float32), affine, shape) > ROUNDING_TOLERANCE:
        logger.info("the affine needs float64: NIfTI-2 is written")
        is_nifti2 = True
    if header is None or is_nifti2 != isinstance(header, nibabel.Nifti2Header):
        header = nibabel.Nifti2Header() if is_nifti2 else nibabel.Nifti1Header()
        header.set_xyzt_units("mm")
    sform_code = int(header["sform_code"]) or int(header["qform_code"]) or ALIGNED
    header.set_data_shape(shape)
    header.set_qform(affine, code=sform_code)
    if not _qform_holds(header, affine, shape):
        header.set_qform(affine, code=0)
    header.set_sform(affine, code=sform_code)
    return header


def _qform_holds(header: nibabel.Nifti1Header, affine: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether the quaternion holds the affine: it cannot hold shears, and a turn of nearly 180 degrees only roughly."""
    try:
        stored = np.asarray(header.get_qform(), dtype=float)
    except ValueError:  # rounded to a little more than a unit quaternion, which nibabel does not read
        return False
    return _displacement(stored, affine, shape) <= ROUNDING_TOLERANCE


def _displacement(stored: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far an affine, as it is stored, moves a corner of the grid, in the smallest voxel side."""
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in shape], [1], indexing="ij"), axis=-1).reshape(-1, 4)
    moved_mm = corners @ (stored - affine).T
    return float(np.linalg.norm(moved_mm, axis=1).max() / np.linalg.norm(affine[:3, :3], axis=0).min())


def _reference_header(reference: Any) -> Any:
    """NIfTI header of a volume or file; None if it has none."""
    if isinstance(reference, Volume):
        if isinstance(reference.header, nibabel.Nifti1Header):
            return reference.header
        return None
    if reference is None or not str(reference).lower().endswith((".nii", ".nii.gz")) or not Path(reference).is_file():
        return None
    try:
        header = nibabel.load(reference).header  # type: ignore[attr-defined]
    except Exception as error:  # the file changed since it was read; the affine is known without it
        logger.debug("header of %s is not repeated: %s", reference, error)
        return None
    return header if isinstance(header, nibabel.Nifti1Header) else None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
