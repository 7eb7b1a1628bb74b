"""Masks as DICOM Segmentation objects (DICOM-SEG), written by highdicom: binary, one frame a segment and slice that holds some of it.

Frames lie on the slices of the source series, each of which is named by its UID; see :mod:`medcl.modalities.dicom_source` for what is
kept of the source and what is not.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from medcl.errors import ConfigError, DataError
from medcl.files import atomic_path
from medcl.modalities.dicom_source import CHARACTER_SET, EQUIPMENT, IDENTITY, Source
from medcl.modalities.segment_codes import SCHEME, Concept
from medcl.modalities.segments import Segment, segments_of
from medcl.modalities.volume import checked_labels
from medcl.types import Array

SERIES_NUMBER = 9001


def require_highdicom() -> Any:
    """The package highdicom. ConfigError where it is not installed."""
    try:
        import highdicom
    except ImportError:
        raise ConfigError(
            'format seg needs the package highdicom, which is not installed: pip install "medcl[dicom]"'
        ) from None
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # below, it names every attribute that it copies
    return highdicom


def write_seg(path: Path | str, labels: Array, source: Source, names: Mapping[int, str]) -> None:
    """Write ``labels (X, Y, Z)``, on the grid of ``source`` in its voxel order, as a DICOM-SEG, atomically.

    ``names`` maps label values to their names. Segments are numbered from 1 in the order of their values (a binary DICOM-SEG knows no
    gaps); each says its value in its description. Labels without a voxel are left out; an empty mask becomes one frame without a
    voxel for every named label. Raises DataError where the mask is none of this source or DICOM cannot hold it, ConfigError without
    highdicom.
    """
    require_highdicom()
    path = Path(path)
    labels = checked_labels(path, labels, source.header)
    segments = segments_of(path, labels, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = _segmentation(labels, source, segments)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise DataError(
            f"{path}: highdicom cannot make a DICOM-SEG for {source.header.path} ({reason}); write NIfTI or rtstruct"
        ) from error
    source.sign(dataset)
    with atomic_path(path) as part:
        dataset.save_as(part, enforce_file_format=True)


def _segmentation(labels: Array, source: Source, segments: list[Segment]) -> Dataset:
    from highdicom import PlanePositionSequence
    from highdicom.seg import Segmentation

    numbers = np.zeros(int(labels.max()) + 1, np.uint16 if len(segments) > 255 else np.uint8)
    for segment in segments if labels.any() else ():
        numbers[segment.value] = segment.number
    frames = np.ascontiguousarray(numbers[labels].transpose(2, 1, 0))
    positions = None
    if not labels.any():  # one frame a segment says as much as one for every slice
        frames = frames[:1]
        first = source.slices[0].ImagePositionPatient
        positions = [PlanePositionSequence("PATIENT", [float(value) for value in first])]
    dataset = Segmentation(
        source_images=[_without_identity(item, source) for item in source.slices],
        pixel_array=frames,
        plane_positions=positions,
        omit_empty_frames=positions is None,
        segmentation_type="BINARY",
        segment_descriptions=[_description(segment) for segment in segments],
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=EQUIPMENT["Manufacturer"],
        manufacturer_model_name=EQUIPMENT["ManufacturerModelName"],
        software_versions=EQUIPMENT["SoftwareVersions"],
        device_serial_number="none",
        content_label="SEGMENTATION",
        series_description="medcl segmentation",
        specific_character_set=CHARACTER_SET,
    )
    dataset.ContentCreatorName = ""
    return dataset


def _without_identity(item: Dataset, source: Source) -> Dataset:
    """A slice as highdicom wants it, with empty patient and study: it logs and copies what it is given."""
    image = Dataset()
    image.update(item)
    for name in IDENTITY:
        setattr(image, name, "")
    if not image.get("SliceThickness"):
        image.SliceThickness = f"{source.header.spacing[2]:.8g}"
    return image


def _description(segment: Segment) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    found = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=_coded(segment.coded.category),
        segmented_property_type=_coded(segment.coded.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="medcl", family=codes.DCM.ArtificialIntelligence, version=EQUIPMENT["SoftwareVersions"]
        ),
        display_color=CIELabColor.from_rgb(*segment.colour),
    )
    found.SegmentDescription = f"label {segment.value}"
    if segment.coded.side:
        (kind,) = found.SegmentedPropertyTypeCodeSequence
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(segment.coded.side)]
    return found


def _coded(concept: Concept) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(concept.code, SCHEME, concept.meaning)
