"""What makes an array and an affine a usable 3D image, and what to say when they are not."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

SINGULAR_BELOW = 1e-6
"""Smallest volume of a voxel relative to a rectangular one of the same sides (the sine of its skew, roughly)."""

SMALLEST_MM, LARGEST_MM = 5.0, 5000.0
"""Longest side of an image, in mm, below and above which its voxel size is probably in another unit."""

BLOCK_BYTES = 16 * 2**20
"""Arrays are gone through in blocks of about this size, so that temporaries stay small beside the image."""


def check_array(array: np.ndarray, source: str) -> np.ndarray:
    """Refuses what is not a 3D array of real numbers.

    Args:
        array: any array; trailing axes of length 1 beyond the third are dropped.
        source: path or kind, for the message.

    Returns:
        (I, J, K) in the machine's byte order; a view of ``array`` where it can be one.

    Raises:
        ValueError: for another number of axes, an axis of length 0, or a dtype that is not bool, integer or real.
    """
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.names is not None:
        raise ValueError(f"{source}: voxels are records {array.dtype.names}, such as RGB; give one of them")
    if array.dtype.kind == "c":
        raise ValueError(f"{source}: voxels are complex ({array.dtype}); give their magnitude, numpy.abs(image)")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{source}: voxels are {array.dtype}; expected bool, integers or real numbers")
    if array.ndim != 3:
        raise ValueError(f"{source}: shape {array.shape} has {array.ndim} axes, expected 3; {_axes_cure(array.ndim)}")
    if 0 in array.shape:
        raise ValueError(f"{source}: shape {array.shape} has an axis without voxels; give an image that is not empty")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _axes_cure(ndim: int) -> str:
    if ndim == 2:
        return "make it a volume of one slice: image[:, :, None]"
    if ndim > 3:
        return "take one frame, image[..., 0], or one channel, image[0]"
    return "give an (I, J, K) array"


def check_affine(affine: Any, source: str) -> np.ndarray:
    """Refuses an affine that does not place voxels in space.

    Args:
        affine: (4, 4) voxel indices to RAS millimetres.
        source: path or kind, for the message.

    Returns:
        (4, 4) float64, read-only.

    Raises:
        ValueError: for another shape, values that are not finite, a voxel side of 0 mm, or a singular matrix.
    """
    matrix = _as_floats(affine, "affine", source)
    if matrix.shape != (4, 4):
        raise ValueError(f"{source}: affine has shape {matrix.shape}, expected (4, 4): voxel indices to RAS mm")
    rounded = np.round(matrix, 6).tolist()
    if not np.isfinite(matrix).all():
        raise ValueError(f"{source}: affine {rounded} is not finite; repair the header, or give affine=")
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise ValueError(f"{source}: affine ends in the row {rounded[3]}, expected [0, 0, 0, 1]; is it transposed?")
    sides_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    if not sides_mm.all():
        axis = int(np.argmin(sides_mm))
        raise ValueError(
            f"{source}: spacing is zero along axis {axis} (affine {rounded}); repair the header, or give the array "
            "with spacing=(x, y, z) in mm"
        )
    if abs(np.linalg.det(matrix[:3, :3] / sides_mm)) < SINGULAR_BELOW:
        raise ValueError(
            f"{source}: affine {rounded} is singular (its axes lie in one plane); repair the header, or give the "
            "array with spacing=(x, y, z) in mm"
        )
    matrix = matrix + 0.0  # a copy, in which -0.0 is 0.0
    matrix.flags.writeable = False
    return matrix


def affine_from_spacing(spacing: Any, source: str) -> np.ndarray:
    """Affine of an array of which only the voxel size is known: axes to the right, anterior and superior, origin 0.

    Args:
        spacing: (3,) mm along each axis of the array, or one number for all.
        source: path or kind, for the message.

    Returns:
        (4, 4) float64.

    Raises:
        ValueError: unless spacing is three positive finite numbers.

    Example:
        >>> affine_from_spacing((1, 1, 3), "<array>").diagonal().tolist()
        [1.0, 1.0, 3.0, 1.0]
    """
    sides_mm = _as_floats(spacing, "spacing", source)
    if sides_mm.ndim == 0:
        sides_mm = np.repeat(sides_mm, 3)
    if sides_mm.shape != (3,) or not np.isfinite(sides_mm).all() or (sides_mm <= 0).any():
        raise ValueError(
            f"{source}: spacing={sides_mm.tolist()}: expected three positive numbers, the voxel's size in mm along "
            "each axis of the array"
        )
    return np.diag([*sides_mm, 1.0])


def _as_floats(values: Any, name: str, source: str) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{source}: {name}={values!r}: expected numbers") from None


def block_slices(array: np.ndarray) -> list[tuple[slice, ...]]:
    """Indices of blocks of about :data:`BLOCK_BYTES` along the axis that memory runs slowest over; together all."""
    axis = int(np.argmax(np.abs(array.strides)))
    length = array.shape[axis]
    step = max(1, BLOCK_BYTES * length // max(1, array.nbytes))
    return [(slice(None),) * axis + (slice(first, first + step),) for first in range(0, length, step)]


def blocks(array: np.ndarray) -> list[np.ndarray]:
    """Views of the :func:`block_slices` of an array."""
    return [array[part] for part in block_slices(array)]


def replace_nonfinite(array: np.ndarray, source: str) -> tuple[np.ndarray, int]:
    """Replaces NaN and infinite voxels by the smallest finite one, and says so.

    Args:
        array: (I, J, K); left as it is.
        source: path or kind, for messages.

    Returns:
        The array (a copy if anything was replaced) and how many voxels were.

    Raises:
        ValueError: if no voxel is finite.
    """
    if array.dtype.kind != "f":
        return array, 0
    count, minimum = 0, np.inf
    for block in blocks(array):
        finite = np.isfinite(block)
        count += block.size - int(np.count_nonzero(finite))
        minimum = min(minimum, float(block.min(where=finite, initial=np.inf)))
    if count == 0:
        return array, 0
    if count == array.size:
        raise ValueError(f"{source}: none of its {array.size} voxels is finite (all NaN or infinite); export it again")
    array = array.copy(order="K")
    for block in blocks(array):
        block[~np.isfinite(block)] = minimum
    logger.warning(
        "%s: %d of %d voxels were NaN or infinite and are read as %g, the smallest finite value; repair the image if "
        "they matter",
        source,
        count,
        array.size,
        minimum,
    )
    return array, count


def check_contrast(array: np.ndarray, source: str) -> None:
    """Refuses an image in which nothing can be seen.

    Raises:
        ValueError: if all voxels are equal.
    """
    minimum = array.min()
    if minimum == array.max():
        raise ValueError(
            f"{source}: every voxel is {minimum.item()}: nothing can be segmented in a constant image; is it a mask, "
            "or an export that failed?"
        )


def warn_of_strange_extent(shape: tuple[int, ...], spacing_mm: np.ndarray, source: str) -> None:
    """Warns of an image so small or large that its voxel size may be in another unit than millimetres.

    Args:
        shape: voxels along each axis.
        spacing_mm: (3,) size of a voxel.
        source: path or kind, for the message.
    """
    extent_mm = np.array(shape) * spacing_mm
    longest = float(extent_mm.max())
    if not SMALLEST_MM <= longest <= LARGEST_MM:
        logger.warning(
            "%s: its extent is %s mm, which is %s for an image of a body; is its voxel size in mm? Correct the header, "
            "or give the array with affine= in mm",
            source,
            " x ".join(f"{side:.3g}" for side in extent_mm),
            "small" if longest < SMALLEST_MM else "large",
        )


def warn_of_unknown_orientation(source: str, orientation: str, reason: str, cure: str) -> None:
    """Says that it is not known where left and right are in an image.

    Args:
        source: path or kind.
        orientation: what its axes are read as, such as ``LAS``.
        reason: what is missing.
        cure: what the user can do.
    """
    logger.warning(
        "%s: orientation unknown: %s, so left and right are guessed (its axes are read as %s); %s, or give the array "
        "with affine=",
        source,
        reason,
        orientation,
        cure,
    )


@functools.cache
def warn_of_missing_spacing() -> None:
    """Says, once per process, that an array without affine and spacing is taken to have voxels of 1 mm."""
    logger.warning(
        "an array came without affine and spacing: its voxels are taken as 1 x 1 x 1 mm, and left and right are "
        "guessed; give affine=, or spacing=(x, y, z) in mm, so that sizes and shapes are right"
    )


@functools.cache
def warn_of_missing_orientation() -> None:
    """Says, once per process, that of an array with a spacing alone it is not known where left and right are."""
    logger.warning(
        "orientation unknown: an array came with spacing= alone, so left and right are guessed (its axes are taken to "
        "run to the right, anterior and superior); give affine= instead"
    )
