"""Preparing ECGs: what each step leaves as it is, the presets, and signals without an amplitude."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcl.errors import DataError
from medcl.modalities.ecg import LEADS, Ecg, read_ecg
from medcl.preparation.ecg import prepare_ecg, remove_baseline, resample, scale_leads, scale_together


def beats(frequency: float = 500, seconds: float = 10) -> np.ndarray:
    """Twelve leads of one spike a second, 20 ms wide, of different amplitude, on a slow drift."""
    time = np.arange(int(frequency * seconds)) / frequency
    spike = np.exp(-(((time % 1 - 0.5) / 0.02) ** 2))
    drift = np.sin(2 * np.pi * 0.1 * time)
    return np.stack([(row + 1) / 4 * spike + drift for row in range(12)]).astype(np.float32)


def ecg(data: np.ndarray, frequency: float = 500) -> Ecg:
    return Ecg(data, frequency, LEADS)


def test_more_is_twelve_leads_of_a_thousand_samples() -> None:
    found = prepare_ecg(ecg(beats()), "more")
    assert found.shape == (12, 1000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.min(axis=1), -1, atol=1e-6)
    np.testing.assert_allclose(found.max(axis=1), 1, atol=1e-6)


def test_resampling_keeps_a_slow_wave() -> None:
    wave = {f: np.sin(2 * np.pi * 5 * np.arange(10 * f) / f)[None] for f in (500, 100, 250)}
    for target in (100, 250):
        found = resample(wave[500], 500, target)
        assert found.shape == (1, 10 * target)
        np.testing.assert_allclose(found[:, 20:-20], wave[target][:, 20:-20], atol=2e-2)
    np.testing.assert_array_equal(resample(wave[100], 100, 100), wave[100])
    with pytest.raises(ValueError, match="must be positive"):
        resample(wave[100], 0, 100)


def test_the_baseline_goes_and_the_beats_stay() -> None:
    spikes = beats() - beats()[:1] + 0.0  # lead k has spikes of k / 4 mV and no drift
    found = remove_baseline(beats(100), 100)
    inner = slice(100, -100)
    np.testing.assert_allclose(found[11, inner].max(), 3.0, atol=0.1)
    assert np.abs(np.median(found[:, inner], axis=1)).max() < 0.02
    np.testing.assert_allclose(found[5] - found[0], remove_baseline(spikes[5:6, ::5], 100)[0], atol=0.15)


def test_scaling_does_not_depend_on_unit_or_offset() -> None:
    data = beats().astype(np.float64)
    for scaled in (scale_leads, scale_together):
        np.testing.assert_allclose(scaled(1000 * data + 7), scaled(data), atol=1e-9)
        assert scaled(data).dtype == np.float64
    together = scale_together(data)
    assert (together.min(), together.max()) == (-1, 1)
    assert np.ptp(together[0]) < np.ptp(together[11])  # amplitudes between leads are kept


@pytest.mark.parametrize("value", [0.0, 0.3, 1e30, np.nan])
def test_signals_without_an_amplitude_are_zero(value: float) -> None:
    data = beats()
    data[4] = value
    found = prepare_ecg(ecg(data), "more")
    assert np.isfinite(found).all()
    assert not found[4].any()
    np.testing.assert_allclose(found[3].max(), 1, atol=1e-6)
    if np.isfinite(value):
        constant = np.full_like(data, value)
        assert not prepare_ecg(ecg(constant), "more").any()
        assert not prepare_ecg(ecg(constant), "symile").any()


def test_missing_samples() -> None:
    data = beats()
    data[2, 100:110] = np.nan
    as_zero = np.nan_to_num(data)
    np.testing.assert_array_equal(prepare_ecg(ecg(data), "more"), prepare_ecg(ecg(as_zero), "more"))
    with pytest.raises(DataError, match="10 samples of the ECG are missing"):
        prepare_ecg(ecg(data), "symile")


def test_an_unknown_preset() -> None:
    with pytest.raises(ValueError, match="unknown ECG preset"):
        prepare_ecg(ecg(beats()), "most")  # type: ignore[arg-type]


def test_a_real_record_with_constant_leads(shared: Path) -> None:
    pytest.importorskip("wfdb", reason="needs the multimodal extra")
    found = read_ecg(shared / "data" / "ecg-12lead" / "records" / "JS11438")
    more, symile = prepare_ecg(found, "more"), prepare_ecg(found, "symile")
    assert more.shape == (12, found.data.shape[1] // 5)
    assert symile.shape == found.data.shape
    assert not more[6:].any()
    assert np.ptp(more[:6], axis=1).min() > 1.9
    assert np.isfinite(symile).all()
