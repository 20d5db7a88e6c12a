"""A DICOM segmentation says where an object lies on the series it was drawn on, and what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptseg.cli.mask_file import read_mask
from promptseg.cli.paths import check_image_output
from promptseg.io import read_volume, write_labels, write_volume
from promptseg.io.dicom_seg import is_segmentation, read_segmentation
from promptseg.volume import Volume

from ..conftest import make_affine
from .test_dicom import each_way, write_series, write_slice

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

NAMES = {1: "left kidney", 3: "soft-tissue sarcoma", 7: "something of my own, which no table of anatomy lists"}


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (9, 8, 6), dtype=np.int16)


@pytest.fixture
def series(tmp_path: Path, array: np.ndarray) -> Volume:
    affine = make_affine("PIR", (1.2, 1.1, 3.0), (-5, 0, 3), turn=(0.2, -0.1, 0.3))
    return read_volume(write_series(tmp_path / "series", array, affine))


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((9, 8, 6), dtype=np.uint16)
    labels[1:3, 2:7, 1:3], labels[4:6, :3, 2:6], labels[7:, 5, 4] = 1, 3, 7
    return labels


def enhanced_ct(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """One file of all frames (PS3.3, A.38.1 Enhanced CT)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    columns = lps[:3, :3] / spacing

    def item(**values: Any) -> Any:
        dataset = pydicom.Dataset()
        for name, value in values.items():
            setattr(dataset, name, value)
        return dataset

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image = item(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", Modality="CT", PatientID="1", Manufacturer="x")
    image.file_meta = meta
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(image, name, pydicom.uid.generate_uid())
    for name in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(image, name, "")
    image.AccessionNumber, image.ReferringPhysicianName, image.SeriesNumber, image.InstanceNumber = "", "", 1, 1
    image.Columns, image.Rows, image.NumberOfFrames = array.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*columns[:, 0], *columns[:, 1]])],
            PixelMeasuresSequence=[
                item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2], SpacingBetweenSlices=spacing[2])
            ],
            PixelValueTransformationSequence=[item(RescaleIntercept=0, RescaleSlope=1, RescaleType="HU")],
        )
    ]
    image.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=list(lps[:3, 3] + k * lps[:3, 2]))],
            FrameContentSequence=[item(DimensionIndexValues=[1, k + 1], StackID="1", InStackPositionNumber=k + 1)],
        )
        for k in range(array.shape[2])
    ]
    image.PixelData = np.ascontiguousarray(array.T.astype("<i2")).tobytes()
    image.save_as(path, enforce_file_format=True)


@each_way
@pytest.mark.parametrize("is_one_file", [False, True], ids=["slices", "frames"])
def test_it_lies_where_the_series_does(
    tmp_path: Path, array: np.ndarray, labels: np.ndarray, affine: np.ndarray, is_one_file: bool
) -> None:
    folder = tmp_path / "series"
    if is_one_file:
        folder.mkdir()
        enhanced_ct(folder / "all.dcm", array, affine)
    else:
        write_series(folder, array, affine)
    volume = read_volume(folder / "all.dcm" if is_one_file else folder)
    path = write_labels(tmp_path / "seg.dcm", labels, volume, NAMES)
    assert is_segmentation(path)
    assert not any(is_segmentation(slice_) for slice_ in folder.iterdir())
    expected = np.select([labels == 1, labels == 3, labels == 7], [1, 2, 3])
    np.testing.assert_array_equal(read_segmentation(path, volume), expected)
    found = hd.seg.segread(path).get_volume(combine_segments=True)  # placed by its own headers, whatever ours say
    ijk = np.argwhere(labels)
    world = (volume.affine @ np.c_[ijk, np.ones(len(ijk))].T)[:3].T * [-1, -1, 1]
    indices = np.rint(np.linalg.solve(found.affine, np.c_[world, np.ones(len(world))].T)[:3].T).astype(int)
    np.testing.assert_array_equal(np.asarray(found.array)[tuple(indices.T)], expected[tuple(ijk.T)])
    assert (np.asarray(found.array) > 0).sum() == (labels > 0).sum()


def test_slices_of_a_tilted_gantry_are_kept(tmp_path: Path, array: np.ndarray, labels: np.ndarray) -> None:
    affine = make_affine("LPS", (1.0, 1.0, 2.5))
    affine[1, 2] = 0.9  # each slice is 0.9 mm further to the front
    volume = read_volume(write_series(tmp_path / "series", array, affine))
    path = write_labels(tmp_path / "seg.dcm", labels, volume)
    np.testing.assert_array_equal(read_segmentation(path, volume) > 0, labels > 0)
    written = pydicom.dcmread(path)
    places = [f.PlanePositionSequence[0].ImagePositionPatient for f in written.PerFrameFunctionalGroupsSequence]
    slices = np.flatnonzero((labels > 0).any(axis=(0, 1)))
    expected = (affine[:3, 3] + slices[:, None] * affine[:3, 2]) * [-1, -1, 1]
    np.testing.assert_allclose(np.unique(np.array(places, dtype=float), axis=0)[::-1], expected, atol=1e-4)
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == measures.SliceThickness == 2.5


def test_segments_say_what_they_are(tmp_path: Path, series: Volume, labels: np.ndarray) -> None:
    path = write_labels(tmp_path / "seg.dcm", labels, series, NAMES, is_automatic=True)
    segments = pydicom.dcmread(path).SegmentSequence
    assert [s.SegmentLabel for s in segments] == list(NAMES.values())
    assert {s.SegmentAlgorithmType for s in segments} == {"AUTOMATIC"}
    kidney, sarcoma, other = (s.SegmentedPropertyTypeCodeSequence[0] for s in segments)
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator, kidney.CodeMeaning) == ("64033007", "SCT", "kidney")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"  # Left
    assert (sarcoma.CodeValue, sarcoma.CodingSchemeDesignator) == ("424952003", "SCT")
    assert other.CodingSchemeDesignator == "99PROMPTSEG"
    categories = [s.SegmentedPropertyCategoryCodeSequence[0].CodeValue for s in segments]
    assert categories == ["91723000", "49755003", "91723000"]  # anatomical, morphologically abnormal, anatomical


def test_what_was_pointed_at_is_called_as_its_file(tmp_path: Path, series: Volume, labels: np.ndarray) -> None:
    path = write_labels(tmp_path / "the one on the left.dcm", (labels == 3).astype(np.uint8), series)
    (segment,) = pydicom.dcmread(path).SegmentSequence
    assert segment.SegmentLabel == "the one on the left"
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "85756007"  # Tissue


def test_patient_and_study_are_those_of_the_series(tmp_path: Path, array: np.ndarray, labels: np.ndarray) -> None:
    tags = {"t0010_0010": "Doe^Jane", "t0010_0020": "4711", "t0020_0010": "12"}
    volume = read_volume(write_series(tmp_path / "series", array, np.eye(4), **tags))
    written = pydicom.dcmread(write_labels(tmp_path / "seg.dcm", labels, volume))
    of_slice = pydicom.dcmread(tmp_path / "series/IM0.dcm")
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "StudyID", "FrameOfReferenceUID"):
        assert written[name].value == of_slice[name].value, name
    assert written.SeriesInstanceUID != of_slice.SeriesInstanceUID


def test_an_empty_mask_is_a_segment_without_a_voxel(tmp_path: Path, series: Volume) -> None:
    path = write_labels(tmp_path / "seg.dcm", np.zeros(series.shape, np.uint8), series, {1: "liver"})
    assert pydicom.dcmread(path).SegmentSequence[0].SegmentLabel == "liver"
    assert not read_segmentation(path, series).any()


def test_it_can_be_started_from(tmp_path: Path, series: Volume, labels: np.ndarray) -> None:
    path = str(write_labels(tmp_path / "seg.dcm", labels, series, NAMES))
    np.testing.assert_array_equal(read_mask(path, series, 2), labels == 3)
    with pytest.raises(ValueError, match="holds several values, 1, 2, 3, and a mask is one object"):
        read_mask(path, series)
    with pytest.raises(ValueError, match=r"has no segment 4; choose one of 1 \(left kidney\), 2 \(soft-tissue"):
        read_mask(path, series, 4)


def test_overlapping_segments_of_another_program(tmp_path: Path, series: Volume, labels: np.ndarray) -> None:
    path = write_labels(tmp_path / "seg.dcm", labels, series)
    first = hd.seg.segread(path)
    both = np.stack([labels.T > 0, labels.T == 3], axis=-1)
    described = []
    for number in (1, 2):
        segment = hd.seg.SegmentDescription.from_dataset(first.SegmentSequence[0])
        segment.SegmentNumber = number
        described.append(segment)
    sources = [pydicom.dcmread(file) for file in series.header.files]
    for source in sources:
        source.SliceThickness = "3"
    overlapping = hd.seg.Segmentation(
        sources, both, "BINARY", described, hd.UID(), 1, hd.UID(), 1, "m", "m", "1", "1"
    )  # fmt: skip
    overlapping.save_as(tmp_path / "both.dcm")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "both.dcm", series, 2), 2 * (labels == 3))
    with pytest.raises(ValueError, match="its segments overlap; choose one of 1"):
        read_segmentation(tmp_path / "both.dcm", series)


def test_of_another_series_or_damaged(tmp_path: Path, series: Volume, array: np.ndarray, labels: np.ndarray) -> None:
    path = write_labels(tmp_path / "seg.dcm", labels, series)
    write_series(tmp_path / "other", array, np.eye(4), t0008_0018="1.2.3")
    with pytest.raises(ValueError, match=r"ct\.nii: is no DICOM series, as a DICOM segmentation belongs to"):
        read_segmentation(path, Volume(array, np.eye(4), str(write_volume(tmp_path / "ct.nii", array, np.eye(4)))))
    with pytest.raises(ValueError, match="is a segmentation of other images than"):
        read_segmentation(path, read_volume(tmp_path / "other/IM0.dcm"))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="cannot be read as DICOM segmentation"):
        read_segmentation(path, series)


def test_without_a_series_it_is_refused_before_any_work(tmp_path: Path, array: np.ndarray) -> None:
    volume = Volume(array, np.eye(4), str(tmp_path / "ct.nii.gz"))
    for refuse in (
        lambda: check_image_output(str(tmp_path / "seg.dcm"), (volume.source, None)),
        lambda: write_labels(tmp_path / "seg.dcm", array > 0, volume),
    ):
        with pytest.raises(ValueError, match=r"refers to the DICOM series .*ct\.nii\.gz is none; write \.nii\.gz"):
            refuse()
    folder = write_series(tmp_path / "series", array, np.eye(4))
    with pytest.raises(ValueError, match="lies among the slices of"):
        check_image_output(str(folder / "IM0.dcm"), (str(folder / "IM4.dcm"), None))
    for file in folder.iterdir():
        slice_ = pydicom.dcmread(file)
        del slice_.FrameOfReferenceUID
        slice_.save_as(file)
    with pytest.raises(ValueError, match="has no Frame of Reference UID"):
        check_image_output(str(tmp_path / "seg.dcm"), (str(folder), None))
    assert [p.name for p in tmp_path.iterdir()] == ["series"]


def test_slices_that_have_gone_leave_nothing_behind(tmp_path: Path, series: Volume, labels: np.ndarray) -> None:
    series.header.files[2].unlink()
    with pytest.raises(ValueError, match=r"the DICOM file .*IM\d\.dcm has gone"):
        write_labels(tmp_path / "seg.dcm", labels, series)
    assert [p.name for p in tmp_path.iterdir()] == ["series"]


def test_one_slice_is_no_whole_series(tmp_path: Path, array: np.ndarray) -> None:
    write_slice(tmp_path / "series.dcm", array[:, :, 0], np.eye(4), 0)
    (tmp_path / "out").mkdir()
    volume = read_volume(tmp_path / "series.dcm")
    mask = volume.array > 0
    np.testing.assert_array_equal(read_segmentation(write_labels(tmp_path / "out/seg.dcm", mask, volume), volume), mask)


def test_without_highdicom_the_extra_is_named(
    tmp_path: Path, series: Volume, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_labels(tmp_path / "seg.dcm", labels, series))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for refuse in (lambda: check_image_output(path, (series.source, None)), lambda: read_mask(path, series)):
        with pytest.raises(
            ImportError, match=r"seg\.dcm: DICOM segmentations need highdicom: pip install 'promptseg\["
        ):
            refuse()
