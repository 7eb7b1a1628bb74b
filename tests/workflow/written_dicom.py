"""Small DICOM series as scanners write them, with a patient in every field that could carry one, and masks that show any mirror."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

# Oblique about all three axes; rows and columns are exactly at right angles.
_TURN, _ = np.linalg.qr(np.array([[0.9, -0.3, 0.2], [0.35, 0.85, -0.3], [-0.15, 0.4, 0.9]]))
OBLIQUE = [round(float(value), 9) for value in (_TURN[:, 0], -_TURN[:, 1]) for value in value]

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "StudyDate": "20200304",
    "StudyTime": "111213",
    "AccessionNumber": "ACC-99",
    "StudyID": "ST-7",
    "StudyDescription": "Jane's head",
    "ReferringPhysicianName": "House^Gregory",
}
# These never travel, whatever is asked for.
PLACE = {
    "InstitutionName": "Saint Elsewhere",
    "StationName": "SCANNER-3",
    "DeviceSerialNumber": "SN-1234",
    "AcquisitionDate": "20200305",
    "PatientComments": "comment on Jane",
    "Manufacturer": "Scanworks",
}


def write_dicom_series(folder: Path, voxels: np.ndarray, *, reverse: bool = False, **tags: object) -> list[Path]:
    """``voxels (X, Y, Z)`` as one file a slice, oblique, of 1.5 x 0.8 x 2.5 mm; ``reverse``: the first file is the last slice.

    The files, in the order of their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    orientation = np.array(tags.get("ImageOrientationPatient", OBLIQUE), float).reshape(2, 3)
    normal = np.cross(*orientation)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    depth = voxels.shape[2]
    for number in range(depth):
        place = depth - 1 - number if reverse else number
        position = np.array([-31.0, 17.5, 102.25]) + normal * 2.5 * place
        own = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "FrameOfReferenceUID": frame,
            "InstanceNumber": number + 1,
            "SeriesNumber": 4,
            "PixelSpacing": [1.5, 0.8],
            "ImageOrientationPatient": list(orientation.ravel()),
            "ImagePositionPatient": [round(float(value), 6) for value in position],
        }
        path = folder / f"{number:03d}.dcm"
        files.append(write_dicom(path, voxels[..., place].T, **{**own, **PATIENT, **PLACE, **tags}))
    return files


def write_dicom(path: Path, pixels: np.ndarray, kind: str = MRImageStorage, **tags: object) -> Path:
    """``pixels (..., row, column)`` of 16 bits as one MR file of the SOP class ``kind`` with ``tags``; one that is None is left out."""
    data = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Modality = "MR"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    for name, value in tags.items():
        if value is None:
            data.pop(name, None)
        else:
            setattr(data, name, value)
    data.PixelData = np.ascontiguousarray(pixels.astype("<u2")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def lopsided_mask(shape: tuple[int, ...]) -> np.ndarray:
    """Labels 1 to 3 ``(X, Y, Z)`` that equal none of their mirror images or transposes: an L, a ring with an island in its hole, loose voxels."""
    mask = np.zeros(shape, np.uint8)
    x, y, z = shape
    mask[1:3, 1 : y - 2, 0 : z - 1] = 1
    mask[1 : x // 2, 1:3, 0] = 1
    mask[x // 2 : x - 1, 2:9, 1] = 2
    mask[x // 2 + 1 : x - 2, 3:8, 1] = 0
    mask[x // 2 + 3, 5, 1] = 2
    mask[x - 1, y - 1, z - 1] = mask[x - 2, y - 2, z - 1] = mask[0, y - 1, z - 2] = 3
    return mask
