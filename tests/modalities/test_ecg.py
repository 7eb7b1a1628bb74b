"""ECGs: the 169 real records with their odd headers, leads by name, and what is said of files that are no ECG."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from medcl.errors import DataError
from medcl.modalities.ecg import LEADS, read_ecg

wfdb = pytest.importorskip("wfdb", reason="needs the multimodal extra")

FREQUENCY = 500
RAMP = np.linspace(-1, 1, 1000)
TABLE = np.stack([RAMP * (row + 1) / 4 for row in range(12)])
"""Lead k of LEADS runs from -(k + 1) / 4 to (k + 1) / 4 mV."""


def save(
    folder: Path,
    name: str = "rec",
    table: np.ndarray = TABLE,
    leads: tuple[str, ...] = LEADS,
    units: tuple[str, ...] | None = None,
) -> Path:
    units = units or ("mV",) * len(table)
    wfdb.wrsamp(
        name,
        FREQUENCY,
        list(units),
        list(leads),
        p_signal=table.T.copy(),
        fmt=["16"] * len(table),
        write_dir=str(folder),
    )
    return folder / name


def test_all_real_records_load_and_say_what_is_odd(shared: Path) -> None:
    folder = shared / "data" / "ecg-12lead" / "records"
    found = {path.stem: read_ecg(path) for path in sorted(folder.glob("*.hea"))}
    assert len(found) == 169
    for ecg in found.values():
        assert (ecg.data.dtype, ecg.data.shape[0], ecg.frequency, ecg.leads) == (np.float32, 12, 500, LEADS)
        assert np.isfinite(ecg.data).all()
    noted = {name: " ".join(ecg.notes) for name, ecg in found.items() if ecg.notes}
    renamed = [name for name, notes in noted.items() if f"record line names {name}.mat" in notes]
    constant = {name: notes.split("constant leads: ")[1] for name, notes in noted.items() if "constant leads" in notes}
    assert len(renamed) == 47
    assert all(name.startswith("E") for name in renamed)
    assert constant == {
        "JS11438": "V1, V2, V3, V4, V5, V6",
        "JS20004": "V2, V4, V6",
        "JS45542": "V1, V2, V3, V4, V5, V6",
        "JS45544": "V2, V3, V4, V5, V6",
        "JS45551": "V4, V5, V6",
    }
    assert len(noted) == 47 + 5


def test_amplitudes_and_length_are_those_of_the_files(shared: Path) -> None:
    path = shared / "data" / "ecg-12lead" / "records" / "A0001"
    ecg = read_ecg(path)
    assert ecg.data.shape == (12, 7500)
    assert ecg.seconds == 15
    raw = np.frombuffer(path.with_suffix(".mat").read_bytes()[24:], "<i2").reshape(7500, 12)
    np.testing.assert_allclose(ecg.data, raw.T / 1000, rtol=1e-6)
    assert ecg.data[0, 0] == pytest.approx(0.028)  # the header says: first value 28 of 1000 units a mV


def test_a_repaired_header_changes_neither_the_samples_nor_the_files(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "ecg-12lead" / "records"
    text = (source / "E07500.hea").read_text()
    (tmp_path / "E07500.mat").write_bytes((source / "E07500.mat").read_bytes())
    (tmp_path / "E07500.hea").write_text(text.replace("E07500.mat 12 500", "E07500 12 500"))
    straight = read_ecg(tmp_path / "E07500")
    assert straight.notes == ()
    np.testing.assert_array_equal(straight.data, read_ecg(source / "E07500").data)
    assert (source / "E07500.hea").read_text() == text


def test_leads_are_found_by_name_never_by_place(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(12)
    names = tuple(LEADS[row].upper() if row % 2 else LEADS[row].lower() for row in order)
    ecg = read_ecg(save(tmp_path, table=TABLE[order], leads=names))
    assert ecg.leads == LEADS
    np.testing.assert_allclose(ecg.data, TABLE, atol=1e-4)


def test_some_leads_may_be_asked_for_and_others_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, table=np.vstack([TABLE, 0.1 * RAMP]), leads=(*LEADS, "vx"))
    assert "leads not read: vx" in read_ecg(path).notes[0]
    ecg = read_ecg(path, leads=("V6", "I"))
    np.testing.assert_allclose(ecg.data, TABLE[[11, 0]], atol=1e-4)


def test_units_become_millivolts(tmp_path: Path) -> None:
    factors = {"mV": 1, "uV": 1000, "V": 1e-3}
    units = tuple(list(factors)[row % 3] for row in range(12))
    table = TABLE * np.array([factors[unit] for unit in units])[:, None]
    np.testing.assert_allclose(read_ecg(save(tmp_path, table=table, units=units)).data, TABLE, atol=1e-4)
    with pytest.raises(DataError, match=r"rec\.hea: lead II is in 'mmHg'; expected mV"):
        read_ecg(save(tmp_path, units=("mV", "mmHg", *units[2:])))


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_any_name_of_the_record_will_do(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path)
    assert read_ecg(f"{path}{suffix}").data.shape == (12, 1000)


def test_missing_samples_stay_missing_with_a_note(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[3, 10:20] = np.nan
    ecg = read_ecg(save(tmp_path, table=table))
    assert np.isnan(ecg.data[3, 10:20]).all()
    assert np.isnan(ecg.data).sum() == 10
    assert "10 of 12000 samples are missing (NaN)" in ecg.notes[0]


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_record_without_a_signal_is_refused(tmp_path: Path, value: float) -> None:
    table = np.full_like(TABLE, value)
    with pytest.raises(DataError, match=r"holds no signal .*leave this record out"):
        read_ecg(save(tmp_path, table=table))


def test_wrong_leads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no lead V5, V6; its leads are I, II, "):
        read_ecg(save(tmp_path, "short", TABLE[:10], LEADS[:10]))
    with pytest.raises(DataError, match=r"has lead V1 more than once"):
        read_ecg(save(tmp_path, "twice", np.vstack([TABLE, RAMP]), (*LEADS, "v1")))


def test_broken_files_give_one_line_that_names_them(tmp_path: Path) -> None:
    path = save(tmp_path)
    signal = path.with_suffix(".dat")
    whole = signal.read_bytes()
    signal.write_bytes(whole[:-2001])
    with pytest.raises(DataError, match=r"^\S+rec\.hea: truncated, damaged or no WFDB record \(.+\)$"):
        read_ecg(path)
    signal.unlink()
    with pytest.raises(DataError, match=r"rec\.hea: its signal file rec\.dat is missing$"):
        read_ecg(path)
    for text in ("", "# only a comment\n", "one two three", "rec 12 500 1000\n"):
        path.with_suffix(".hea").write_text(text)
        with pytest.raises(DataError, match=r"rec\.hea: "):
            read_ecg(path)
    path.with_suffix(".hea").unlink()
    with pytest.raises(DataError, match=r"rec\.hea: no such file"):
        read_ecg(path)


def test_without_wfdb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path)
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(DataError, match=r"needs the package wfdb .*pip install 'medcl\[multimodal\]'"):
        read_ecg(path)
