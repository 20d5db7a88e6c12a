"""Objects as DICOM segmentation: bits on the frames of the series they were drawn on, with codes for what they are.

Viewers and archives show it over the scan, as patient, study and frames are those of the series. highdicom writes and
reads it.

Source: DICOM PS3.3, A.51 (Segmentation IOD) and C.8.20 (Segmentation modules).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..volume import Volume
from ..volume_checks import blocks
from .dicom import DicomSeries, is_dicom

SEGMENTATION_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP Class UID."""
META_BYTES = 256
"""Of a file in which its class stands: preamble, length, version, class."""
PRIVATE_SCHEME = "99PROMPTSEG"
"""Coding scheme of names for which no SNOMED CT code is known."""
SERIES_NUMBER = 9000
"""Of the new series: viewers sort by it, and scanners number theirs from 1."""
MAX_LETTERS = 64
"""Of a text in DICOM (VR LO)."""
MAX_SHIFT = 0.5
"""Most by which a frame may lie off the volume's slice, in distances of two slices."""


def check_segmentation_path(path: Path, source: str) -> None:
    """Refuses a segmentation that could not be written, before any work is done for it.

    Args:
        path: of the segmentation.
        source: file or folder of the image.

    Raises:
        ValueError: if the image is no DICOM series, or the segmentation would lie among its slices.
        ImportError: if highdicom is not installed.
    """
    given = Path(source)
    if not (given.is_dir() or (given.is_file() and is_dicom(given))):
        raise ValueError(
            f"{path}: a DICOM segmentation refers to the DICOM series it was drawn on, and {source} is none; write "
            ".nii.gz"
        )
    import_highdicom(path)
    import pydicom

    folder = given if given.is_dir() else given.parent
    if path.resolve().parent == folder.resolve():
        raise ValueError(f"{path}: lies among the slices of {source}; choose another folder")
    first = next((file for file in folder.iterdir() if is_dicom(file)), None) if given.is_dir() else given
    if first is not None and "FrameOfReferenceUID" not in pydicom.dcmread(first, stop_before_pixels=True):
        raise ValueError(
            f"{path}: {first} has no Frame of Reference UID, which a segmentation must repeat; write .nii.gz"
        )


def write_segmentation(
    path: Path, labels: np.ndarray, volume: Volume, names: Mapping[int, str], is_automatic: bool = False
) -> None:
    """Writes the objects of a label map as segments, numbered from 1 in the order of their values.

    Args:
        path: to write to.
        labels: (I, J, K) integers on the volume's grid, 0 for background. Values without a voxel become no segment,
            unless none has one.
        volume: of a DICOM series, as :func:`promptseg.io.read_volume` read it.
        names: value -> name; those in the vocabulary are stored with their SNOMED CT codes. An object without a name is
            called as the file is.
        is_automatic: whether nobody pointed at the objects.

    Raises:
        ValueError: if the volume is of no DICOM series, or of one that a segmentation cannot refer to.
        ImportError: if highdicom is not installed.
    """
    hd = import_highdicom(path)
    labels = labels.view(np.uint8) if labels.dtype == bool else labels
    values = sorted({int(value) for block in blocks(labels) for value in np.unique(block)} - {0}) or [
        min(names, default=1)
    ]
    numbers = np.zeros(max(values) + 1, dtype=np.uint8 if len(values) < 256 else np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)
    shown = [(names.get(value) or path.stem)[:MAX_LETTERS] for value in values]
    segments = [
        _segment(number, name, name if value in names else None, is_automatic)
        for number, (value, name) in enumerate(zip(values, shown, strict=True), start=1)
    ]
    headers = _headers(volume)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the series' own headers lack, such as a patient's first name
            segmentation = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=numbers[labels.T],  # a frame for each slice, row by row
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=hd.UID(),
                series_number=SERIES_NUMBER,
                series_description=f"promptseg: {', '.join(shown)}"[:MAX_LETTERS],
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="promptseg",
                manufacturer_model_name="promptseg",
                software_versions=__version__,
                device_serial_number="0",
                content_label="PROMPTSEG",
                content_description="Research only, not for clinical use",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # as of headers that were emptied
        raise ValueError(
            f"{path.name}: no DICOM segmentation can refer to {volume.source} ({error}); write .nii.gz"
        ) from error
    segmentation.save_as(path)


def read_segmentation(path: Path, volume: Volume, segment: int | None = None) -> np.ndarray:
    """Reads a segmentation of the series that a volume is of, whichever program wrote it.

    Args:
        path: of the file.
        volume: of the series.
        segment: number of one; None for all of them.

    Returns:
        (I, J, K) unsigned integers on the volume's grid: numbers of segments, 0 for background.

    Raises:
        ValueError: if it is of other images or damaged, segments overlap, or there is no such segment.
        ImportError: if highdicom is not installed.
    """
    hd = import_highdicom(path)
    datasets = _headers(volume)
    uids = [str(dataset.SOPInstanceUID) for dataset in datasets]
    try:
        found = hd.seg.segread(path)
        numbers = list(found.segment_numbers)
        listed = ", ".join(f"{n} ({found.get_segment_description(n).SegmentLabel})" for n in numbers)
        sources = {str(source[-1]) for source in found.get_source_image_uids()}
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError(f"{path}: cannot be read as DICOM segmentation ({error}); write it again") from error
    if not sources & set(uids):
        raise ValueError(f"{path}: is a segmentation of other images than {volume.source}; give one of this series")
    if segment is not None and segment not in numbers:
        raise ValueError(f"{path}: has no segment {segment}; choose one of {listed}")
    how: dict[str, Any] = {
        "segment_numbers": numbers if segment is None else [segment],
        "combine_segments": True,
        "assert_missing_frames_are_empty": True,
    }
    try:
        if _is_multiframe(datasets):
            frames = list(range(1, volume.shape[2] + 1))
            return found.get_pixels_by_source_frame(uids[0], frames, **how).T
        return found.get_pixels_by_source_instance(uids, **how).T
    except RuntimeError as error:
        raise ValueError(f"{path}: its segments overlap; choose one of {listed}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: does not lie on the slices of {volume.source} ({error}); convert it to .nii.gz on their grid"
        ) from error


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation, as its first element says (PS3.10, 7.1); needs no package to tell."""
    if not (path.is_file() and is_dicom(path)):
        return False
    with path.open("rb") as file:
        return SEGMENTATION_CLASS.encode() in file.read(META_BYTES)


def import_highdicom(path: Path) -> Any:
    """The package highdicom.

    Raises:
        ImportError: if it is not installed, for the file that needs it.
    """
    try:
        import highdicom
    except ImportError as error:
        raise ImportError(
            f"{path}: DICOM segmentations need highdicom: pip install 'promptseg[dicom]', or write .nii.gz"
        ) from error
    return highdicom


def _headers(volume: Volume) -> list[Any]:
    """What the files of a volume say of its slices, in their order, without the voxels.

    Raises:
        ValueError: if the volume is of no DICOM series, its files have gone, or frames lie elsewhere.
    """
    import pydicom

    files = volume.header.files if isinstance(volume.header, DicomSeries) else (Path(volume.source),)
    for file in files:
        if not file.is_file():
            raise ValueError(f"{volume.source}: the DICOM file {file} has gone; give the whole series")
        if not is_dicom(file):
            raise ValueError(
                f"{volume.source}: is no DICOM series, as a DICOM segmentation belongs to; give the series"
            )
    datasets = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    if _is_multiframe(datasets):
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
        places = [
            np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            for groups in datasets[0].get("PerFrameFunctionalGroupsSequence", ())
        ]
        expected = lps[:3, 3] + np.arange(volume.shape[2])[:, None] * lps[:3, 2]
        shift = np.abs(np.reshape(places, (-1, 3)) - expected) if len(places) == len(expected) else np.array([np.inf])
        if shift.max() > MAX_SHIFT * volume.spacing_mm[2]:
            raise ValueError(f"{volume.source}: does not say of each frame that it lies where it was read")
        return datasets
    along, across, step = (volume.affine[:3, axis] for axis in range(3))
    normal = np.cross(along, across)
    spacing_mm = f"{abs(float(step @ normal)) / float(np.linalg.norm(normal)):.6g}"
    for dataset in datasets:  # what many series leave empty; overlapping slices are thicker than they are apart
        dataset.SpacingBetweenSlices = spacing_mm
        dataset.SliceThickness = dataset.get("SliceThickness") or spacing_mm
        dataset.ImageOrientationPatient = datasets[0].ImageOrientationPatient  # the same but for the last digits
    return datasets


def _is_multiframe(datasets: list[Any]) -> bool:
    return len(datasets) == 1 and "NumberOfFrames" in datasets[0]


def _segment(number: int, label: str, name: str | None, is_automatic: bool) -> Any:
    """What a segment is, for viewers that group and colour by it; ``name`` is what is known of it."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    from ..render import COLOURS

    kind = hd.seg.SegmentAlgorithmTypeValues
    category, what, side = _codes(name)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=category,
        segmented_property_type=what,
        algorithm_type=kind.AUTOMATIC if is_automatic else kind.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "promptseg", codes.cid7162.ArtificialIntelligence, __version__
        ),
        tracking_uid=hd.UID(),
        tracking_id=label,
        display_color=hd.color.CIELabColor.from_rgb(*COLOURS[(number - 1) % len(COLOURS)]),
    )
    if side is not None:
        modifiers = [hd.sr.CodedConcept.from_code(side)]
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifiers
    return segment


def _codes(name: str | None) -> tuple[Any, Any, Any]:
    """Category and type of an object, tissue for one without a name, and its side where the type's code has none."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    from ..text.laterality import LATERALITIES
    from ..text.lookup import load_index

    if name is None:
        return codes.SCT.Tissue, codes.SCT.Tissue, None
    try:
        match = load_index().find(name)
    except ValueError:  # no term, or several
        return codes.SCT.AnatomicalStructure, Code(name, PRIVATE_SCHEME, name), None
    term = match.term
    is_lesion = term.category == "lesions"
    category = codes.SCT.MorphologicallyAbnormalStructure if is_lesion else codes.SCT.AnatomicalStructure
    code = term.snomed_code(match.laterality, match.level)
    if match.corrected or not code:
        return category, Code(name, PRIVATE_SCHEME, name), None
    if code != term.snomed_code():  # of the side or the level
        return category, Code(code, "SCT", match.name), None
    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right}
    return category, Code(code, "SCT", term.name), sides.get(LATERALITIES[match.laterality])
