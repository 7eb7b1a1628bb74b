"""ECG recordings in WFDB form: the leads by name and in one order, in millivolts.

The order of leads and the case of their names differ between collections, and some headers break the format: they
name the record ``E07500.mat``, which the ``wfdb`` package refuses. Such a header is read as it is meant, with a note.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from medcl.errors import DataError
from medcl.files import is_file

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The twelve standard leads in the order that medcl keeps."""

_SUFFIXES = (".hea", ".dat", ".mat")
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}
_MOST_SIGNALS = 1000
_MOST_PACKED = 64
"""Samples that a byte of a signal file can stand for, with room to spare."""
_BEGINNING = re.compile(r"\d{1,18}")
_PER_FRAME = re.compile(r"\S+\s+\d+x(\d{1,18})")
_RECORD_NAME = re.compile(r"[-\w]+(?:/\d+)?")
# What wfdb raises on a header that breaks the format, on a missing, truncated or damaged signal file.
_FAILURES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    UnboundLocalError,
)


@dataclass(frozen=True)
class Ecg:
    """A recording: ``data (leads, T)`` in mV, ``frequency`` in Hz, the names of its ``leads`` as asked for.

    ``notes`` has one line for each oddity that reading put up with: a header that had to be repaired, leads left out,
    missing samples (NaN in ``data``), leads that are constant.
    """

    data: Float32[np.ndarray, "leads T"]
    frequency: float
    leads: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long the recording lasts."""
        return self.data.shape[1] / self.frequency


def read_ecg(path: Path | str, *, leads: Sequence[str] = LEADS) -> Ecg:
    """Read the WFDB record that ``path`` names, with or without its suffix (``.hea``, ``.dat``, ``.mat``).

    ``leads`` are found by their names, whatever their place and case, and come in the order asked for. DataError where a
    file is missing, truncated or damaged, a lead is missing or twice there, a unit is no voltage, or no lead holds a signal.
    """
    header = _header_path(Path(path))
    record, notes = _read(header)
    if not record.sig_name or not all(record.sig_name) or record.p_signal is None or not record.fs:
        raise DataError(
            f"{header}: truncated, damaged or no WFDB record (a lead without a name, without samples or without a rate)"
        )
    rows, surplus = _rows(header, record.sig_name, leads)
    if surplus:
        notes.append(f"{header}: leads not read: {', '.join(surplus)}")
    scale = np.array([_millivolts(header, record.sig_name[row], record.units[row]) for row in rows])
    data = (np.asarray(record.p_signal, np.float64)[:, rows] * scale).T.astype(np.float32)
    if not data.shape[1]:
        raise DataError(f"{header}: holds no samples")
    notes += _signal_notes(header, data, leads)
    return Ecg(np.ascontiguousarray(data), float(record.fs), tuple(leads), tuple(notes))


def files_of(path: Path) -> tuple[Path, ...]:
    """The header of the record that ``path`` names, and the signal files beside it."""
    header = _header_path(path)
    return tuple(file for suffix in _SUFFIXES if (file := header.with_suffix(suffix)).is_file())


def constant_leads(data: Float32[np.ndarray, "leads T"]) -> Bool[np.ndarray, " leads"]:
    """Which leads hold one value only, or none but NaN: ``(leads,)`` bool."""
    missing = np.isnan(data)
    low = np.where(missing, np.inf, data).min(axis=1)
    high = np.where(missing, -np.inf, data).max(axis=1)
    return low >= high


def _header_path(path: Path) -> Path:
    header = path.with_suffix(".hea") if path.suffix.lower() in _SUFFIXES else path.with_name(f"{path.name}.hea")
    if not is_file(header):
        raise DataError(f"{header}: no such file; an ECG is named by its WFDB header")
    return header


def _read(header: Path) -> tuple[Any, list[str]]:
    """The record as wfdb has it, and a note where its header was repaired for that."""
    try:
        import wfdb
    except ImportError as error:
        raise DataError(
            f"{header}: reading an ECG needs the package wfdb of the multimodal extra: pip install 'medcl[multimodal]'"
        ) from error
    try:
        text = header.read_text(encoding="ascii", errors="ignore")
    except OSError as error:
        raise DataError(f"{header}: cannot be read ({error.strerror})") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    name = lines[0].split()[0] if lines else ""
    _check_size(header, lines)
    try:
        if not lines or _RECORD_NAME.fullmatch(name):
            return wfdb.rdrecord(str(header.with_suffix(""))), []
        with tempfile.TemporaryDirectory() as folder:
            repaired = _repaired(header, text, lines, Path(folder))
            record = wfdb.rdrecord(str(repaired))
    except _FAILURES as error:
        missing = error.filename if isinstance(error, FileNotFoundError) else None
        reason = (
            f"its signal file {Path(missing).name} is missing"
            if missing
            else f"truncated, damaged or no WFDB record ({_first_line(error)})"
        )
        raise DataError(f"{header}: {reason}") from error
    return record, [f"{header}: its record line names {name}, which is no record name; read as {header.stem}"]


def _check_size(header: Path, lines: list[str]) -> None:
    """DataError where the header tells of more than its signal files can hold, before memory is set aside for that."""
    fields = [_BEGINNING.match(field) for field in lines[0].split()[1:4]] if lines else []
    count, samples = (int(fields[place][0]) if len(fields) > place and fields[place] else 0 for place in (0, 2))
    if count > _MOST_SIGNALS:
        raise DataError(f"{header}: damaged; its first line tells of {count} signals")
    stored = sum(file.stat().st_size for file in header.parent.glob(f"{glob.escape(header.stem)}*") if file.is_file())
    frames = [int(found[1]) for line in lines[1:] if (found := _PER_FRAME.match(line))]
    if samples * max(count, 1) * max([1, *frames]) > _MOST_PACKED * stored:
        raise DataError(
            f"{header}: truncated or damaged; it tells of {samples} samples of {count} signals, the {stored} bytes of its files cannot hold them"
        )


def _repaired(header: Path, text: str, lines: list[str], folder: Path) -> Path:
    """A record in ``folder`` with a name that wfdb accepts, whose signal files are links; the originals stay as they are."""
    name = re.sub(r"[^-\w]", "_", header.stem)
    fields = lines[0].split()
    (folder / f"{name}.hea").write_text(text.replace(lines[0], " ".join([name, *fields[1:]]), 1), encoding="ascii")
    for signal in {line.split()[0] for line in lines[1:]}:
        if Path(signal).name == signal:
            os.symlink(os.path.abspath(header.parent / signal), folder / signal)
    return folder / name


def _rows(header: Path, names: Sequence[str], leads: Sequence[str]) -> tuple[list[int], list[str]]:
    """The row of each lead that is asked for, and the names of those that are not."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name.strip().lower(), []).append(row)
    found = {lead: places.get(lead.lower(), []) for lead in leads}
    if absent := [lead for lead, rows in found.items() if not rows]:
        raise DataError(f"{header}: has no lead {', '.join(absent)}; its leads are {', '.join(names)}")
    if twice := [lead for lead, rows in found.items() if len(rows) > 1]:
        raise DataError(f"{header}: has lead {', '.join(twice)} more than once; which is meant cannot be known")
    rows = [rows[0] for rows in found.values()]
    return rows, [name for row, name in enumerate(names) if row not in rows]


def _millivolts(header: Path, lead: str, unit: str) -> float:
    factor = _MILLIVOLTS.get(str(unit).strip().lower())
    if factor is None:
        raise DataError(f"{header}: lead {lead} is in {unit!r}; expected mV, uV or V")
    return factor


def _signal_notes(header: Path, data: Float32[np.ndarray, "leads T"], leads: Sequence[str]) -> list[str]:
    """What is odd about the samples; DataError where nothing but that is left."""
    constant = constant_leads(data)
    if constant.all():
        raise DataError(f"{header}: holds no signal (every lead is constant or missing); leave this record out")
    notes = []
    if missing := int(np.isnan(data).sum()):
        notes.append(f"{header}: {missing} of {data.size} samples are missing (NaN)")
    if constant.any():
        flat = [lead for lead, is_flat in zip(leads, constant, strict=True) if is_flat]
        notes.append(f"{header}: constant leads: {', '.join(flat)}")
    return notes


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
