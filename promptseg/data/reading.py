"""Reads source volumes in canonical orientation and compares their grids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

GRID_TOLERANCE = 0.1
"""Largest distance, in the smallest voxel side, between the corners of two grids that count as the same."""


@dataclass(frozen=True)
class Grid:
    """An array in canonical orientation (closest to RAS by permuting and flipping alone) and where it lies.

    Attributes:
        array: (I, J, K), or (I, J, K, C) for a file with a fourth axis; usually a view.
        affine: (4, 4) float64, canonical voxel -> RAS millimetres.
        orientation: axes of the file, such as ``LPS``.
        nonfinite_count: voxels that were NaN or infinite; an image holds its finite minimum there, labels hold 0.
    """

    array: np.ndarray
    affine: np.ndarray
    orientation: str
    nonfinite_count: int = 0

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64 sides of a voxel."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def read_grid(path: Path, frame: int | None = None, is_label: bool = False) -> Grid:
    """Reads a volume.

    Args:
        path: NIfTI, or what SimpleITK reads.
        frame: index on the fourth axis; None keeps a fourth axis as it is.
        is_label: labels or probabilities, where a voxel that is not finite is background.

    Returns:
        The volume with finite values.

    Raises:
        ValueError: if the file is missing, damaged, not a volume, or has no such frame; the message names the path.
    """
    array, affine = read_array(path, frame)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "buif":
        raise ValueError(f"{path}: shape {array.shape} of {array.dtype}, expected a 3D volume of real numbers")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"{path}: the affine {affine.tolist()} cannot be inverted; repair the header")
    array, affine, orientation = to_canonical(array, affine)
    array, nonfinite = make_finite(array, path, is_label)
    return Grid(array, affine, orientation, nonfinite)


def make_finite(array: np.ndarray, path: Path, is_label: bool) -> tuple[np.ndarray, int]:
    """Replaces what is NaN or infinite: by 0 in labels, where the minimum may be an object; else by the finite minimum.

    Args:
        array: of any shape and real dtype.
        path: what an error names.
        is_label: labels or probabilities.

    Returns:
        The array, itself if all is finite, and the number of voxels that were not.

    Raises:
        ValueError: if no voxel is finite.
    """
    if array.dtype.kind != "f":
        return array, 0
    finite = np.isfinite(array)
    nonfinite = int(array.size - np.count_nonzero(finite))
    if nonfinite == array.size:
        raise ValueError(f"{path}: no voxel is finite; export the file again")
    if nonfinite:
        array = np.where(finite, array, array.dtype.type(0) if is_label else array[finite].min())
    return array, nonfinite


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Permutes and flips the first three axes to closest RAS.

    Returns:
        View of the array, (4, 4) affine of the view, and the orientation it had, such as ``LPS``.
    """
    import nibabel.orientations as orientations

    turn = orientations.io_orientation(affine)
    turned = orientations.apply_orientation(array, turn)
    moved = affine @ orientations.inv_ornt_aff(turn, array.shape[:3])
    return turned, moved, "".join(orientations.ornt2axcodes(turn))


def read_array(path: Path, frame: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Array as the file holds it (or one frame of it), and its (4, 4) voxel -> RAS affine.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        if path.name.endswith((".nii", ".nii.gz", ".mgz", ".mgh")):
            import nibabel

            from ..io.nifti import affine_in_mm, opened_image

            with opened_image(path, mmap=True) as image:
                proxy, affine = image.dataobj, np.asarray(image.affine, dtype=np.float64)
                if isinstance(image.header, nibabel.Nifti1Header):
                    affine = affine_in_mm(affine, image.header)
                _check_frame(path, frame, proxy.shape)
                array = np.asarray(proxy if frame is None or len(proxy.shape) < 4 else proxy[..., frame])
            if array.dtype == np.float64 and proxy.dtype.kind in "iu":
                array = array.astype(np.float32)  # a scaled integer file
        else:
            array, affine = _read_itk(path)
            _check_frame(path, frame, array.shape)
            array = array if frame is None or array.ndim < 4 else array[..., frame]
    except ValueError:
        raise
    except Exception as error:  # zlib, EOF, nibabel's and ITK's own: any of them means that the file is not readable
        raise ValueError(f"{path} is not readable ({type(error).__name__}: {error}); copy it again") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False), affine


def _check_frame(path: Path, frame: int | None, shape: tuple[int, ...]) -> None:
    count = shape[3] if len(shape) > 3 else 1
    if frame is not None and not 0 <= frame < count:
        raise ValueError(f"{path}: no frame {frame} in shape {shape}; correct 'channels' in the catalog")


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(I, J, K[, C]) array and RAS affine of a file that SimpleITK reads (which is LPS)."""
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    if image.GetDimension() != 3:
        raise ValueError(f"{path}: {image.GetDimension()} dimensions, expected 3")
    array = SimpleITK.GetArrayFromImage(image)
    array = array.transpose(2, 1, 0) if array.ndim == 3 else array.transpose(2, 1, 0, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def grid_difference(first: Grid, second: Grid) -> str:
    """Says how two grids differ; empty if they are the same up to :data:`GRID_TOLERANCE`."""
    if first.array.shape[:3] != second.array.shape[:3]:
        return f"shape {first.array.shape[:3]} against {second.array.shape[:3]} (canonical axes)"
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.array(first.array.shape[:3]) - 1
    distance = np.linalg.norm((corners @ (first.affine - second.affine).T)[:, :3], axis=1).max()
    if distance > GRID_TOLERANCE * first.spacing_mm.min():
        return f"a corner lies {distance:.3g} mm away (spacing {np.round(first.spacing_mm, 3).tolist()} mm)"
    return ""
