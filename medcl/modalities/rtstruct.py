"""Masks as DICOM RT Structure Sets (RTSTRUCT): closed contours in patient millimetres on the slices of the source series.

Each contour names its slice by UID. Holes are keyholes, as the standard (PS3.3 C.8.8.6.3) has them for ``CLOSED_PLANAR``:
see :mod:`medcl.modalities.contours`. What is kept of the source and what is not: :mod:`medcl.modalities.dicom_source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy import ndimage

from medcl.files import atomic_path
from medcl.modalities.contours import outlines
from medcl.modalities.dicom_source import CHARACTER_SET, EQUIPMENT, Source
from medcl.modalities.segment_codes import ANATOMY, SCHEME, Concept
from medcl.modalities.segments import Segment, segments_of
from medcl.modalities.volume import checked_labels
from medcl.types import Array

SERIES_NUMBER = 9002

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # retired, and still what the reference to a study has to say


def write_rtstruct(path: Path | str, labels: Array, source: Source, names: Mapping[int, str]) -> None:
    """Write ``labels (X, Y, Z)``, on the grid of ``source`` in its voxel order, as an RTSTRUCT, atomically.

    ``names`` maps label values to their names; a region of interest has its label's value as number. Labels without a voxel are left out;
    of an empty mask every named label becomes a region without contours. Raises DataError where the mask is none of this source.
    """
    path = Path(path)
    labels = checked_labels(path, labels, source.header)
    segments = segments_of(path, labels, names)
    dataset = _structure_set(source)
    dataset.StructureSetROISequence = [_region(segment, source) for segment in segments]
    dataset.ROIContourSequence = [_contours(segment, labels, source) for segment in segments]
    dataset.RTROIObservationsSequence = [_observation(segment) for segment in segments]
    with atomic_path(path) as part:
        dataset.save_as(part, enforce_file_format=True)


def _structure_set(source: Source) -> Dataset:
    meta = FileMetaDataset()
    # Explicit encodings hold 64 kB of coordinates in a contour at most.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = CHARACTER_SET
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = source.slices[0].StudyInstanceUID
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = source.slices[0].FrameOfReferenceUID, ""
    source.sign(dataset)
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = (
        "RTSTRUCT",
        generate_uid(prefix=None),
        SERIES_NUMBER,
    )
    dataset.SeriesDescription, dataset.OperatorsName, dataset.InstanceNumber = "medcl structure set", "", 1
    for name, value in EQUIPMENT.items():
        setattr(dataset, name, value)
    now = datetime.now()
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(source)]
    return dataset


def _referenced_frame(source: Source) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.slices[0].SeriesInstanceUID
    series.ContourImageSequence = [_image(source, number) for number in range(len(source.slices))]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = source.slices[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(source: Source, number: int) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID = source.slices[number].SOPClassUID
    image.ReferencedSOPInstanceUID = source.slices[number].SOPInstanceUID
    return image


def _region(segment: Segment, source: Source) -> Dataset:
    region = Dataset()
    region.ROINumber = segment.value
    region.ROIName = segment.name
    region.ReferencedFrameOfReferenceUID = source.slices[0].FrameOfReferenceUID
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    return region


def _contours(segment: Segment, labels: Array, source: Source) -> Dataset:
    region = Dataset()
    region.ReferencedROINumber = segment.value
    region.ROIDisplayColor = list(segment.colour)
    inside = labels == segment.value
    if not inside.any():
        return region
    ((across, down, along),) = ndimage.find_objects(inside.astype(np.uint8))
    corner = [across.start, down.start]
    region.ContourSequence = [
        _contour(source, number, points + corner)
        for number in range(along.start, along.stop)
        for points in outlines(inside[across, down, number])
    ]
    return region


def _contour(source: Source, number: int, points: Array) -> Dataset:
    """One polygon ``points (N, 2)`` in voxel indices of a slice."""
    contour = Dataset()
    contour.ContourImageSequence = [_image(source, number)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{value:.4f}" for value in source.place(number, points).ravel()]
    return contour


def _observation(segment: Segment) -> Dataset:
    coded = segment.coded
    kind = _coded(coded.kind)
    if coded.side:
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(coded.side)]
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = segment.value
    observation.RTROIIdentificationCodeSequence = [kind]
    observation.RTROIInterpretedType = "ORGAN" if coded.category == ANATOMY else ""
    observation.ROIInterpreter = ""
    return observation


def _coded(concept: Concept) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = concept.code, SCHEME, concept.meaning
    return item
