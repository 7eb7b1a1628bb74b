"""Writers of the layouts of credentialed data sets: given rows, the tables as those data sets ship them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from medcl.errors import MedclError
from medcl.files import atomic_path, write_json, write_text
from medcl.modalities.ecg import LEADS
from medcl.records.chexpert_labels import LABELS

Row = Mapping[str, str] | Sequence[str]
"""A row of a table: its cells in the order of the columns, or by their names; those left out are blank."""

CXR_IMAGES = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime", "Rows", "Columns")
CXR_SPLIT = ("dicom_id", "study_id", "subject_id", "split")
CXR_LABELS = ("subject_id", "study_id", *LABELS)
CHEXPERT = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)
PTBXL = (
    "ecg_id", "patient_id", "age", "sex", "recording_date", "report", "scp_codes", "strat_fold", "filename_lr", "filename_hr",
)  # fmt: skip
PTBXL_STATEMENTS = ("", "description", "diagnostic", "diagnostic_class")
ECG_RECORDINGS = ("subject_id", "study_id", "file_name", "ecg_time", "path")
ECG_MEASUREMENTS = ("subject_id", "study_id", "cart_id", "ecg_time", *(f"report_{number}" for number in range(18)))
ADMISSIONS = ("subject_id", "hadm_id", "admittime")
LAB_EVENTS = ("labevent_id", "subject_id", "hadm_id", "itemid", "charttime", "value", "valuenum")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A CSV table; a path that ends in ``.gz`` is compressed, to the same bytes every time."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row if isinstance(row, Mapping) else dict(zip(columns, row, strict=False)))
    content = stream.getvalue().encode()
    with atomic_path(path) as part:
        part.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_mimic_cxr(
    root: Path,
    images: Sequence[Row],
    labels: Sequence[Row],
    splits: Sequence[Row],
    reports: Mapping[tuple[str, str], str],
) -> Path:
    """The tables of MIMIC-CXR-JPG 2.0.0 and the text files of ``reports``, by (subject, study)."""
    write_table(root / "mimic-cxr-2.0.0-metadata.csv.gz", CXR_IMAGES, images)
    write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", CXR_LABELS, labels)
    write_table(root / "mimic-cxr-2.0.0-split.csv.gz", CXR_SPLIT, splits)
    for (subject, study), text in reports.items():
        write_text(cxr_folder(root, subject) / f"s{study}.txt", text)
    return root


def cxr_folder(root: Path, subject: str) -> Path:
    """Where MIMIC-CXR keeps the studies of a subject."""
    return root / "files" / f"p{subject[:2]}" / f"p{subject}"


def write_chexpert(root: Path, tables: Mapping[str, Sequence[Row]]) -> Path:
    """The tables of CheXpert by name (``train.csv``, ``valid.csv``)."""
    for name, rows in tables.items():
        write_table(root / name, CHEXPERT, rows)
    return root


def write_ptbxl(root: Path, recordings: Sequence[Row], statements: Sequence[Row]) -> Path:
    """The tables of PTB-XL."""
    write_table(root / "ptbxl_database.csv", PTBXL, recordings)
    write_table(root / "scp_statements.csv", PTBXL_STATEMENTS, statements)
    return root


def write_mimic_ecg(root: Path, recordings: Sequence[Row], measurements: Sequence[Row]) -> Path:
    """The tables of MIMIC-IV-ECG."""
    write_table(root / "record_list.csv", ECG_RECORDINGS, recordings)
    write_table(root / "machine_measurements.csv", ECG_MEASUREMENTS, measurements)
    return root


def write_mimic_hosp(root: Path, admissions: Sequence[Row], labs: Sequence[Row]) -> Path:
    """The admissions and laboratory events of MIMIC-IV's folder ``hosp``."""
    write_table(root / "admissions.csv.gz", ADMISSIONS, admissions)
    write_table(root / "labevents.csv.gz", LAB_EVENTS, labs)
    return root


def write_ms_cxr(path: Path, content: Mapping[str, Any]) -> Path:
    """The COCO-style file of MS-CXR."""
    write_json(path, content)
    return path


def write_ecg(
    path: Path, data: Float32[np.ndarray, "leads T"], frequency: int = 500, leads: Sequence[str] = LEADS
) -> Path:
    """A WFDB record: the header ``path`` and its signal file, 16 bit, in mV. NaN is stored as a missing sample."""
    try:
        import wfdb
    except ImportError as error:
        raise MedclError(
            "writing ECGs needs the package wfdb of the multimodal extra: pip install 'medcl[multimodal]'"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        path.stem,
        frequency,
        ["mV"] * len(leads),
        list(leads),
        p_signal=data.T.astype(np.float64),
        fmt=["16"] * len(leads),
        adc_gain=[1000.0] * len(leads),  # 1 uV a step, whatever the signal, as MIMIC and PTB-XL have it
        baseline=[0] * len(leads),
        write_dir=str(path.parent),
    )
    return path
