"""What SimpleITK reads and writes: nrrd, mha, mhd and more. ITK's world is LPS; here it is turned to RAS and back."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..volume import Volume
from ..volume_checks import warn_of_strange_extent, warn_of_unknown_orientation

logger = logging.getLogger(__name__)

GEOMETRY_TOLERANCE = 1e-4
"""Most that a format may move a voxel, in voxels, by the digits it stores; some releases keep ten."""

FRAME_CURE = "take one frame: image[..., 0] in Python, else export one from a viewer such as 3D Slicer"
WITHOUT_DIRECTIONS = ("TIFFImageIO", "PNGImageIO", "JPEGImageIO", "BMPImageIO")
"""Readers of ITK whose formats do not say how an image lies."""
DICOM_CLASS = "0008|0016"
"""Tag of what kind of image a DICOM file is, which each of them has."""


@dataclass(frozen=True)
class ItkGeometry:
    """Where an ITK image lies, as its file says.

    Attributes:
        origin: (3,) LPS mm of the first voxel's centre.
        spacing: (3,) mm.
        direction: (9,) row by row: unit vectors of the axes as columns.
    """

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: Any) -> ItkGeometry:
        """Of a SimpleITK image or reader, of which the first three dimensions count."""
        n = image.GetDimension()
        direction = np.reshape(image.GetDirection(), (n, n))[:3, :3]
        return cls(tuple(image.GetOrigin()[:3]), tuple(image.GetSpacing()[:3]), tuple(direction.ravel().tolist()))

    @classmethod
    def from_affine(cls, affine: np.ndarray) -> ItkGeometry:
        """Of a (4, 4) voxel -> RAS affine."""
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        return cls(tuple(lps[:3, 3].tolist()), tuple(spacing.tolist()), tuple((lps[:3, :3] / spacing).ravel().tolist()))

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel indices to RAS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.array(self.spacing)
        affine[:3, 3] = self.origin
        affine[:2] *= -1
        return affine


def read_with_itk(path: Path, *, whole_series: bool = True) -> Volume:
    """Reads a file; see :func:`promptseg.io.read_volume`.

    Args:
        path: of the file.
        whole_series: of a slice of DICOM read the others, too, that lie in its folder.

    Raises:
        ValueError: if SimpleITK cannot read it, or it is not a 3D image of real numbers.
        ImportError: if SimpleITK is not installed.
    """
    sitk = import_simpleitk(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_pixels(reader, str(path))
        if whole_series and reader.GetSize()[2] == 1 and reader.HasMetaDataKey(DICOM_CLASS):
            from .dicom import read_series_of

            return read_series_of(path)
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(
            f"{path}: is not a 3D image, or is damaged ({last_line(error)}); open it in a viewer, copy it again, or "
            "convert it to .nii.gz"
        ) from error
    return volume_from_itk(image, str(path))


def volume_from_itk(image: Any, source: str) -> Volume:
    """A volume of a SimpleITK image, indexed ``[i, j, k]`` as ITK does; its voxels are copied.

    Raises:
        ValueError: if it is not a 3D image of real numbers.
    """
    import SimpleITK as sitk

    check_pixels(image, source)
    geometry = ItkGeometry.of(image)
    is_known = _places_axes(image)
    if image.GetSize()[2] == 1 and image.HasMetaDataKey(DICOM_CLASS):
        logger.warning(
            "%s: is the only slice of its DICOM series here, taken as %g mm thick; copy the others beside it",
            source,
            geometry.spacing[2],
        )
    volume = Volume(sitk.GetArrayFromImage(image).T, geometry.affine, source, geometry, is_known)
    warn_of_strange_extent(volume.shape, volume.spacing_mm, source)
    if not is_known:
        reason = "its file does not say how its axes run"
        warn_of_unknown_orientation(source, volume.orientation, reason, "write it with a space and directions")
    return volume


def _places_axes(image: Any) -> bool:
    """Whether the file that an image was read from says where the axes run to; ITK makes up a direction else."""
    keys = set(image.GetMetaDataKeys())
    reader = image.GetMetaData("ITK_InputFilterName") if "ITK_InputFilterName" in keys else ""
    if reader == "NrrdImageIO":
        return "NRRD_space" in keys
    codes = [image.GetMetaData(key) for key in ("qform_code", "sform_code") if key in keys]
    return reader not in WITHOUT_DIRECTIONS and (not codes or any(code.strip() != "0" for code in codes))


def check_pixels(image: Any, source: str) -> None:
    """Refuses other than 3D scalar images; takes a SimpleITK image or a reader that has read the header."""
    size = tuple(image.GetSize())
    if len(size) < 3:
        raise ValueError(f"{source}: shape {size} has {len(size)} axes, expected 3; is it one slice of a series?")
    if any(n != 1 for n in size[3:]):
        raise ValueError(f"{source}: shape {size} has {len(size)} axes, expected 3; {FRAME_CURE}")
    components = image.GetNumberOfComponents() if hasattr(image, "GetNumberOfComponents") else (
        image.GetNumberOfComponentsPerPixel()
    )  # fmt: skip
    if components != 1:
        raise ValueError(f"{source}: voxels have {components} components, such as RGB; give one of them as a 3D image")


def write_with_itk(
    path: Path, array: np.ndarray, affine: np.ndarray, reference: Volume | str | os.PathLike[str] | None
) -> None:
    """Writes a file, compressed; see :func:`promptseg.io.write_volume`.

    Args:
        path: ``.nrrd``, ``.mha`` or ``.mhd``.
        array: (I, J, K) in the dtype to store.
        affine: (4, 4).
        reference: whose geometry to repeat, if it places voxels at the same affine.

    Raises:
        ValueError: if the format keeps too few digits for the affine.
        ImportError: if SimpleITK is not installed.
        OSError: if writing failed.
    """
    sitk = import_simpleitk(path)
    geometry = _reference_geometry(reference)
    if geometry is None or not np.array_equal(geometry.affine, affine):
        geometry = ItkGeometry.from_affine(affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing)
    image.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        written = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OSError(f"SimpleITK failed: {last_line(error)}; is the disk full?") from error
    if not np.array_equal(sitk.GetArrayViewFromImage(written).T, array):
        raise OSError("SimpleITK wrote other voxels than it was given; is the disk full?")
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in array.shape], [1], indexing="ij"), axis=-1).reshape(-1, 4)
    moved_mm = np.linalg.norm(corners @ (ItkGeometry.of(written).affine - affine).T, axis=1).max()
    if moved_mm > GEOMETRY_TOLERANCE * min(geometry.spacing):
        raise ValueError(
            f"{path.name}: this format moves voxels by up to {moved_mm:.3g} mm on this grid, whose sides are down to "
            f"{min(geometry.spacing):.3g} mm, as it keeps few digits; write .nii.gz"
        )


def _reference_geometry(reference: Any) -> ItkGeometry | None:
    if isinstance(reference, Volume):
        return reference.header if isinstance(reference.header, ItkGeometry) else None
    if reference is None or not Path(reference).is_file() or str(reference).lower().endswith((".nii", ".nii.gz")):
        return None
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(reference))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:  # the file changed since it was read; the affine is known without it
        logger.debug("geometry of %s is not repeated: %s", reference, error)
        return None
    return ItkGeometry.of(reader) if reader.GetDimension() >= 3 else None


def import_simpleitk(path: Path) -> Any:
    """The package SimpleITK.

    Raises:
        ImportError: if it is not installed, for the file that needs it.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise ImportError(
            f"{path}: this format needs SimpleITK: pip install 'promptseg[itk]', or convert the file to .nii.gz"
        ) from error
    return SimpleITK


def last_line(error: Exception) -> str:
    """ITK's message without file, line and address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
