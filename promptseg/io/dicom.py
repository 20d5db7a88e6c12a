"""A DICOM series, a file for each slice, as one volume. SimpleITK reads the voxels; where slices lie is checked here.

Source: DICOM PS3.3, C.7.6.2 (Image Plane Module).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..volume import Volume
from ..volume_checks import warn_of_strange_extent
from .itk import check_pixels, import_simpleitk, last_line, read_with_itk

DESCRIPTION, MODALITY = "0008|103e", "0008|0060"
POSITION, ORIENTATION, SLOPE, INTERCEPT = "0020|0032", "0020|0037", "0028|1053", "0028|1052"
CONVERTER = "dcm2niix"
MAX_LISTED = 12
"""Series of a folder that a message lists."""
MAX_TURN = 1e-3
"""Most by which the axes of two slices may differ, as a part of a unit vector."""
MAX_SHIFT = 0.1
"""Most by which a slice may lie off its place in an even stack, relative to the distance of two slices."""


@dataclass(frozen=True)
class Slice:
    """What a file says of its slice.

    Attributes:
        path: of the file.
        position: (3,) LPS mm of the first voxel's centre.
        axes: (2, 3) LPS unit vectors from column to column and from row to row.
        spacing: (2,) mm from column to column and from row to row.
        scale: slope and intercept of the stored values, as written.
    """

    path: Path
    position: np.ndarray
    axes: np.ndarray
    spacing: np.ndarray
    scale: tuple[str, str]


@dataclass(frozen=True)
class DicomSeries:
    """What a volume of several files came with.

    Attributes:
        files: of its slices, in the order of its last axis.
    """

    files: tuple[Path, ...]


def read_dicom_folder(folder: Path) -> Volume:
    """Reads the one series that a folder holds.

    Args:
        folder: of DICOM files, in any order and by any name; other files are passed over.

    Raises:
        ValueError: if it holds no series or several, or its slices are no even stack; the message says what to do.
        ImportError: if SimpleITK is not installed.
    """
    series = _series_of(folder) if any(is_dicom(path) for path in folder.iterdir()) else []
    if not series:
        raise ValueError(f"{folder}: {_nothing_there(folder)}")
    if len(series) > 1:
        listed = [f"{_describe(files[0])}: {len(files)}, such as {files[0].name}" for files in series[:MAX_LISTED]]
        listed += ["..."] * (len(series) > MAX_LISTED)
        raise ValueError(
            f"{folder}: holds {len(series)} series; in its place name a file of the one that is meant. Files of each: "
            + "; ".join(listed)
        )
    return _read(series[0], str(folder))


def read_series_of(path: Path) -> Volume:
    """Reads the series that a DICOM file of one slice belongs to, from the files in its folder.

    Raises:
        ValueError: as for :func:`read_dicom_folder`.
    """
    for files in _series_of(path.parent):
        if path in files:
            return _read(files, str(path))
    return _read([path], str(path))


def _read(files: list[Path], source: str) -> Volume:
    if len(files) == 1:
        return read_with_itk(files[0], whole_series=False)
    sitk = import_simpleitk(files[0])
    slices = _stacked([_slice(path) for path in files], source)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(s.path) for s in slices])
    if len({s.scale for s in slices}) > 1:  # as in PET; the first slice's type does not hold the values of all
        reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        with _quiet(sitk):
            image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(
            f"{source}: its slices cannot be read as one image ({last_line(error)}); copy the series again, or convert "
            f"it with {CONVERTER}"
        ) from error
    check_pixels(image, source)
    first, last = slices[0], slices[-1]
    lps = np.eye(4)
    lps[:3, :2] = (first.axes * first.spacing[:, None]).T
    lps[:3, 2] = (last.position - first.position) / (len(slices) - 1)  # of a tilted gantry not along the slices' normal
    lps[:3, 3] = first.position
    series = DicomSeries(tuple(s.path for s in slices))
    volume = Volume(sitk.GetArrayFromImage(image).T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, source, series)
    warn_of_strange_extent(volume.shape, volume.spacing_mm, source)
    return volume


def _slice(path: Path) -> Slice:
    reader = _header(path)
    position, axes = (_numbers(reader, key) for key in (POSITION, ORIENTATION))
    if len(position) != 3 or len(axes) != 6:
        raise ValueError(f"{path}: does not say where its slice lies, so that its series is no 3D image; give another")
    scale = tuple(reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else "" for key in (SLOPE, INTERCEPT))
    return Slice(path, position, axes.reshape(2, 3), np.array(reader.GetSpacing()[:2]), (scale[0], scale[1]))


def _stacked(slices: list[Slice], source: str) -> list[Slice]:
    """The slices in the order in which they lie on each other.

    Raises:
        ValueError: if they are not parallel, several lie at one place, or some are missing.
    """
    first = slices[0]
    for other in slices:
        if np.abs(other.axes - first.axes).max() > MAX_TURN or not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            raise ValueError(
                f"{source}: {first.path.name} and {other.path.name} are not slices of one grid, as in a localizer or "
                "views from around; give a series of parallel slices"
            )
    normal = np.cross(*first.axes)
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    places = np.stack([s.position for s in slices])
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    if usual <= 0 or steps.min() < MAX_SHIFT * usual:
        one, two = _names(slices, int(np.argmin(steps)))
        raise ValueError(
            f"{source}: {one} and {two} lie at one place, as time points or echoes in one series do; separate them, as "
            f"{CONVERTER} does, and give one"
        )
    if np.abs(steps - usual).max() > MAX_SHIFT * usual:
        at = int(np.argmax(np.abs(steps - usual)))
        one, two = _names(slices, at)
        raise ValueError(
            f"{source}: {steps[at]:.4g} mm lie between {one} and {two}, and {usual:.4g} mm between others: slices are "
            f"missing, or not evenly spaced; copy the whole series, or convert it with {CONVERTER}"
        )
    shift = np.linalg.norm(places - np.linspace(places[0], places[-1], len(places)), axis=1)
    if shift.max() > usual / 2:
        at = int(np.argmax(shift))
        raise ValueError(
            f"{source}: {slices[at].path.name} lies {shift[at]:.3g} mm off the line of the others: the slices are "
            f"shifted; convert them with {CONVERTER}"
        )
    return slices


def _names(slices: list[Slice], at: int) -> tuple[str, str]:
    return slices[at].path.name, slices[at + 1].path.name


def _series_of(folder: Path) -> list[list[Path]]:
    """The files of each series in a folder, the longest series first."""
    sitk = import_simpleitk(folder)
    reader = sitk.ImageSeriesReader
    with _quiet(sitk):
        found = [reader.GetGDCMSeriesFileNames(str(folder), name) for name in reader.GetGDCMSeriesIDs(str(folder))]
    return sorted(([Path(file) for file in files] for files in found if files), key=len, reverse=True)


def _describe(path: Path) -> str:
    reader = _header(path)
    words = [reader.GetMetaData(key).strip() for key in (MODALITY, DESCRIPTION) if reader.HasMetaDataKey(key)]
    return " ".join(word for word in words if word) or "without a description"


def _header(path: Path) -> Any:
    sitk = import_simpleitk(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _quiet(sitk):
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{path}: is damaged ({last_line(error)}); copy it again") from error
    return reader


def _numbers(reader: Any, key: str) -> np.ndarray:
    """Numbers of a tag; none where it is missing or damaged."""
    try:
        return np.array([float(part) for part in reader.GetMetaData(key).split("\\")])
    except (RuntimeError, ValueError):
        return np.zeros(0)


def _nothing_there(folder: Path) -> str:
    """Why there is nothing to read in a folder, and what to give instead."""
    inner = next((p.parent for p in islice(folder.rglob("*"), 10_000) if p.parent != folder and is_dicom(p)), None)
    if inner is not None:
        return f"its DICOM files lie deeper, as in {inner}; give the folder of one series"
    return (
        f"is a folder without DICOM images, expected an image file such as {folder / 'image.nii.gz'}, or the folder of "
        "a DICOM series"
    )


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10, 7.1), and is an image and no table of contents."""
    if path.name == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def _quiet(sitk: Any) -> Iterator[None]:
    """ITK without the warnings that it prints of files which are no images."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
