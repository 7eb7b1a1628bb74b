"""`medcl pair`: one manifest of what two data sets know of the same subjects."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from medcl.errors import ConfigError, DataError
from medcl.modalities.ecg import read_ecg
from medcl.records.combined import combine, events
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.mimic_cxr import FRONTAL, is_mimic_cxr, open_mimic_cxr
from medcl.records.mimic_labs import SYMILE_ITEMS, read_admissions, read_labs
from medcl.records.pairing import admission_window, nearest_within

log = logging.getLogger(__name__)


def pair(radiographs: Path, ecgs: Path, policy: str, *, days: int = 60, hosp: Path | None = None) -> Manifest:
    """Records of a radiograph and an ECG by ``policy`` (nearest, all, admission), as :mod:`medcl.records.pairing` has them.

    Of MIMIC-CXR frontal views only. ECGs that cannot be read or hold no signal are left out and counted in the log, by ``admission``
    those with missing samples too, as Symile-MIMIC does. ConfigError where ``admission`` has no ``hosp``; DataError where nothing pairs.
    """
    if (policy == "admission") != (hosp is not None):
        raise ConfigError(
            "--policy admission needs --hosp, MIMIC-IV's folder hosp; the other policies read no admissions"
        )
    films = open_mimic_cxr(radiographs, FRONTAL) if is_mimic_cxr(radiographs) else open_data(radiographs)
    hearts = open_data(ecgs)
    film_events, heart_events = events(films), events(hearts)
    admissions = labs = None
    if hosp is not None:
        admissions = read_admissions(hosp)
        labs = read_labs(hosp, subjects=set(admissions["subject"]) & set(film_events["subject"].astype(str)))

    def paired() -> tuple[pd.DataFrame, pd.DataFrame | None]:
        if admissions is not None and labs is not None:
            found = admission_window(admissions, heart_events, labs, film_events, SYMILE_ITEMS)
            return found.events, found.labs
        one, other = film_events, heart_events
        if policy == "all":  # counts days between dates, as MoRE does
            one, other = (table.assign(time=table["time"].dt.normalize()) for table in (one, other))
        rows = nearest_within(one, other, pd.Timedelta(days=days), keep="all" if policy == "all" else "nearest")
        return rows.rename(columns={"left": "radiograph", "right": "ecg"}), None

    rows, values = paired()
    sound: set[str] = set()
    dropped = 0
    while bad := {
        name for name in set(rows["ecg"]) - sound if not _is_sound(hearts, name, whole=policy == "admission")
    }:
        sound |= set(rows["ecg"]) - bad
        dropped += len(bad)
        heart_events = heart_events[~heart_events["id"].isin(bad)]
        rows, values = paired()  # another ECG may take the place of one that is left out
    if dropped:
        log.info("%d ECGs without a signal%s are left out", dropped, " or with gaps" if policy == "admission" else "")
    if rows.empty:
        raise DataError(
            f"{radiographs} and {ecgs}: no radiograph and ECG of one subject pair by {policy}; look at their times"
        )
    return combine(rows, films, hearts, values)


def _is_sound(manifest: Manifest, name: str, *, whole: bool) -> bool:
    """Whether the recording can be read and holds a signal; with ``whole`` one without missing samples."""
    path = manifest.by_id(name).ecg
    if path is None:
        return False
    try:
        found = read_ecg(path)
        return not (whole and bool(np.isnan(found.data).any()))
    except DataError as error:
        log.info("%s", error)
        return False
