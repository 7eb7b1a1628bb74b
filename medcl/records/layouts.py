"""Opening a data set whatever its layout."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path

from medcl.errors import DataError
from medcl.records import (
    bids,
    chexpert,
    cinc_challenge,
    decathlon,
    dicom_tree,
    folder,
    hannover_cxr,
    mimic_cxr,
    mimic_ecg,
    ms_cxr,
    nnunet,
    ptbxl,
    sunnybrook,
    vqa_rad,
)
from medcl.records.manifest import Manifest
from medcl.records.names import is_image, is_volume

_TABLES = (".csv", ".tsv", ".jsonl")
# Public collections known by files of their own.
_TABLED: tuple[tuple[Callable[[Path], bool], Callable[[Path], Manifest]], ...] = (
    (mimic_cxr.is_mimic_cxr, mimic_cxr.open_mimic_cxr),
    (chexpert.is_chexpert, chexpert.open_chexpert),
    (ptbxl.is_ptbxl, ptbxl.open_ptbxl),
    (mimic_ecg.is_mimic_ecg, mimic_ecg.open_mimic_ecg),
    (vqa_rad.is_vqa_rad, vqa_rad.open_vqa_rad),
    (hannover_cxr.is_hannover_cxr, hannover_cxr.open_hannover_cxr),
    (cinc_challenge.is_cinc_challenge, cinc_challenge.open_cinc_challenge),
)


def open_data(path: Path | str, labels: Path | str | None = None) -> Manifest:
    """The manifest of what lies at ``path``; ``labels`` is a folder of labels, where the layout has none.

    In this order: a glob; a table or manifest (``.csv``, ``.tsv``, ``.jsonl``); a ``dataset.json`` (Decathlon or
    nnU-Net) or its folder; the JSON file of MS-CXR; a folder with ``manifest.jsonl`` (of ``medcl inspect``); the folder of
    MIMIC-CXR-JPG, CheXpert, PTB-XL, MIMIC-IV-ECG, VQA-RAD, the COVID-19 Image Repository of Hannover or a PhysioNet/CinC Challenge, by its files; BIDS; a folder of volumes (with ``labelsTr`` or ``labels``
    beside ``imagesTr`` or ``images``); a DICOM tree; Sunnybrook's cine slices; a folder of 2D images; one volume or image.
    Raises DataError that says what was looked for.
    """
    path = Path(path)
    manifest = _open_folder(path) if path.is_dir() else _open_file(path)
    return folder.attach_labels(manifest, Path(labels)) if labels is not None else manifest


def _open_file(path: Path) -> Manifest:
    if not path.exists():
        if glob.has_magic(str(path)):
            return folder.open_glob(str(path))
        raise DataError(f"{path}: no such file or folder")
    if path.suffix in _TABLES:
        return Manifest.read(path)
    if path.suffix == ".json":
        return _open_json(path)
    if is_volume(path) or is_image(path):
        return folder.open_file(path)
    if dicom_tree.is_dicom(path):
        return dicom_tree.open_dicom([path], f"DICOM file {path}")
    raise DataError(
        f"{path}: not a data set; expected a volume (.nii.gz, .nii, .mha, .nrrd, .hdr, DICOM), an image (.png, .jpg, .tif), a table "
        f"({', '.join(_TABLES)}), a dataset.json, or a folder"
    )


def _open_folder(path: Path) -> Manifest:
    if (path / "dataset.json").is_file():
        return _open_json(path / "dataset.json")
    if (path / "manifest.jsonl").is_file():
        return Manifest.read(path / "manifest.jsonl")
    for is_layout, open_layout in _TABLED:
        if is_layout(path):
            return open_layout(path)
    if bids.is_bids(path):
        return bids.open_bids(path)
    if folder.holds(path, is_volume):
        return folder.open_folder(path)
    if dicom_tree.is_dicom_tree(path):
        return dicom_tree.open_dicom_tree(path)
    if sunnybrook.is_sunnybrook(path):
        return sunnybrook.open_sunnybrook(path)
    if folder.holds(path, is_image):
        return folder.open_folder(path, is_image)
    raise DataError(
        f"{path}: no data set found; looked for dataset.json (Decathlon, nnU-Net), manifest.jsonl, the tables of MIMIC-CXR-JPG, CheXpert, PTB-XL, MIMIC-IV-ECG, VQA-RAD and Hannover's radiographs, headers of the CinC Challenges, sub-* folders (BIDS), "
        "volumes (.nii.gz, .nii, .mha, .mhd, .nrrd, .nhdr, .hdr) or images (.png, .jpg, .tif) here, in imagesTr or images and "
        "below, and DICOM files"
    )


def _open_json(path: Path) -> Manifest:
    content = decathlon.read_dataset_json(path)
    if decathlon.is_decathlon(content):
        return decathlon.open_decathlon(path)
    if nnunet.is_nnunet(content):
        return nnunet.open_nnunet(path)
    if ms_cxr.is_ms_cxr(content):
        return ms_cxr.open_ms_cxr(path, content)
    raise DataError(
        f"{path}: neither a Decathlon dataset (key training: list of pairs), nor an nnU-Net one (keys channel_names, "
        f"labels, file_ending), nor MS-CXR (keys images, annotations, categories); it has {', '.join(content) or 'no keys'}"
    )
