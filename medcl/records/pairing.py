"""Which radiograph, ECG, laboratory values and report of a subject belong together, by time or by study.

Events are tables (pandas) with the columns ``subject``, ``time`` (datetime64) and ``id``; what comes back are tables of ids,
in which subjects are text, so that a number and the text of it are the same subject. Sorting and ``merge_asof`` do the work, so that a hospital's worth of admissions takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from medcl.errors import DataError

HOURS_24 = pd.Timedelta(hours=24)
HOURS_72 = pd.Timedelta(hours=72)
DAYS_60 = pd.Timedelta(days=60)

_SPLITS = ("train", "validation", "test")
_log = logging.getLogger(__name__)


class AdmissionPairs(NamedTuple):
    """``events``: one row an admission that is kept, with ``subject``, ``admission``, ``ecg`` and ``radiograph`` (ids).

    ``labs``: the same rows, one column a laboratory item in the order asked for, NaN where none was measured in time.
    """

    events: pd.DataFrame
    labs: pd.DataFrame


def admission_window(
    admissions: pd.DataFrame, ecgs: pd.DataFrame, labs: pd.DataFrame, radiographs: pd.DataFrame, items: Sequence[str]
) -> AdmissionPairs:
    """Triples of one admission, as Symile-MIMIC pairs them.

    The earliest ECG within 24 hours of the admission's time, before or after and inclusive; of every laboratory item the
    earliest value within the same 24 hours (``labs`` has the columns ``item`` and ``value`` instead of ``id``; rows without a
    value do not count); the earliest radiograph more than 24 and at most 72 hours after. Admissions that lack any of the three are
    left out. ``radiographs`` should hold AP and PA views only, ``ecgs`` no recording without a signal.
    """
    kept = _earliest(_events("admissions", admissions, "admission"), ecgs, "ecg", -HOURS_24, HOURS_24)
    kept = _earliest(kept, radiographs, "radiograph", HOURS_24, HOURS_72, after=True)
    kept = kept.sort_values(["time", "admission"], ignore_index=True)
    values = _earliest_values(kept, labs, list(items))
    observed = values.notna().any(axis=1)
    events = kept.loc[observed, ["subject", "admission", "ecg", "radiograph"]]
    return AdmissionPairs(events.reset_index(drop=True), values.loc[observed].reset_index(drop=True))


def nearest_within(
    left: pd.DataFrame,
    right: pd.DataFrame,
    window: pd.Timedelta = DAYS_60,
    keep: Literal["nearest", "all"] = "nearest",
) -> pd.DataFrame:
    """Pairs of a subject's events at most ``window`` apart, inclusive: ``subject``, ``left``, ``right`` (ids).

    ``nearest`` pairs every event of ``left`` with the one of ``right`` nearest in time (of two equally near the earlier), which
    may serve several. ``all`` keeps every pair, as MoRE does, which multiplies records: a subject with ten of each gives a
    hundred. MoRE counts days between dates: give times without their hours for that.
    """
    if keep not in ("nearest", "all"):
        raise ValueError(f"keep must be nearest or all, not {keep!r}")
    one, other = _events("left", left, "left"), _events("right", right, "right")
    if keep == "all":
        pairs = one.merge(other.rename(columns={"time": "other_time"}), on="subject")
        pairs = pairs[(pairs["time"] - pairs["other_time"]).abs() <= window]
    else:
        pairs = pd.merge_asof(one, other, on="time", by="subject", direction="nearest", tolerance=window)
        pairs = pairs[pairs["right"].notna()]
    return pairs[["subject", "left", "right"]].sort_values(["subject", "left", "right"], ignore_index=True)


def same_study(
    images: pd.DataFrame,
    reports: pd.DataFrame,
    keep: Literal["all", "first", "random"] = "all",
    seed: int | None = None,
) -> pd.DataFrame:
    """Images with the report of their study: ``study``, ``image``, ``report`` (ids).

    Both tables have ``study`` and ``id``. A study with several images gives one pair an image (``all``, for training), only its
    first by id (``first``, for evaluation) or one drawn by ``seed`` (``random``, a new seed an epoch). DataError where a study has
    two reports: which is meant cannot be known.
    """
    if keep not in ("all", "first", "random"):
        raise ValueError(f"keep must be all, first or random, not {keep!r}")
    _check("images", images, ("study", "id"))
    _check("reports", reports, ("study", "id"))
    if reports["study"].duplicated().any():
        twice = reports.loc[reports["study"].duplicated(), "study"].iloc[0]
        raise DataError(f"reports: study {twice} has more than one report; keep one row a study")
    pairs = images[["study", "id"]].rename(columns={"id": "image"})
    pairs = pairs.merge(reports[["study", "id"]].rename(columns={"id": "report"}), on="study")
    pairs = pairs.sort_values(["study", "image"], ignore_index=True)
    if keep == "random":
        if seed is None:
            raise ValueError("keep='random' draws at random and needs a seed")
        drawn = pairs.iloc[np.random.default_rng(seed).permutation(len(pairs))]
        pairs = drawn.drop_duplicates("study").sort_values(["study"])
    elif keep == "first":
        pairs = pairs.drop_duplicates("study")
    return pairs.reset_index(drop=True)


def subjects_apart(subjects: pd.Series[str], splits: pd.Series[str]) -> pd.Series[bool]:
    """Which rows to keep so that no subject is on two sides: those of train leave validation and test, those of validation test.

    DataError for a split of another name than train, validation and test.
    """
    if unknown := sorted(set(splits) - set(_SPLITS)):
        raise DataError(f"split {unknown[0]!r} is none of {', '.join(_SPLITS)}")
    rank = splits.map({name: place for place, name in enumerate(_SPLITS)})
    return rank == rank.groupby(subjects).transform("min")


def _earliest(
    admissions: pd.DataFrame,
    events: pd.DataFrame,
    name: str,
    start: pd.Timedelta,
    end: pd.Timedelta,
    *,
    after: bool = False,
) -> pd.DataFrame:
    """The admissions with the first event of each in [time + start, time + end] as a column ``name``; ``after`` opens the start."""
    left = admissions.assign(start=admissions["time"] + start).sort_values("start")
    right = _events(f"{name}s", events, name).rename(columns={"time": "start"})
    found = pd.merge_asof(
        left, right, on="start", by="subject", direction="forward", tolerance=end - start, allow_exact_matches=not after
    )
    return found[found[name].notna()].drop(columns="start")


def _earliest_values(admissions: pd.DataFrame, labs: pd.DataFrame, items: list[str]) -> pd.DataFrame:
    """The first value of each item within 24 hours of each admission, one row an admission in their order."""
    _check("labs", labs, ("subject", "time", "item", "value"))
    named = _uniform(labs[["subject", "time", "item", "value"]])
    named = named[named["item"].isin(items) & named["value"].notna() & named["time"].notna()]
    values = named.sort_values(["time", "value"]).rename(columns={"time": "start"})
    wanted = pd.DataFrame({"item": pd.Series(items, dtype=values["item"].dtype)})
    left = admissions[["subject", "time"]].assign(row=np.arange(len(admissions)), start=admissions["time"] - HOURS_24)
    left = left.merge(wanted, how="cross").sort_values("start")
    found = pd.merge_asof(left, values, on="start", by=["subject", "item"], direction="forward", tolerance=2 * HOURS_24)
    table = found.pivot(index="row", columns="item", values="value").reindex(
        index=range(len(admissions)), columns=items
    )
    return table.rename_axis(index=None, columns=None)


def _events(what: str, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The events in order of time, ties by id, their ids under ``name``; those without a time cannot be paired."""
    _check(what, table, ("subject", "time", "id"))
    timed = _uniform(table.loc[table["time"].notna(), ["subject", "time", "id"]])
    if missing := len(table) - len(timed):
        _log.warning("%s: %d of %d have no time and are not paired", what, missing, len(table))
    return timed.sort_values(["time", "id"], ignore_index=True).rename(columns={"id": name})


def _uniform(table: pd.DataFrame) -> pd.DataFrame:
    """Times of one unit, and subjects and items as text, as ``merge_asof`` wants both sides to have them."""
    return table.astype({"time": "datetime64[us]", **{name: str for name in ("subject", "item") if name in table}})


def _check(what: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    if absent := [name for name in columns if name not in table.columns]:
        raise DataError(f"{what}: has no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}")
    if "time" in columns and not pd.api.types.is_datetime64_any_dtype(table["time"]):
        raise DataError(
            f"{what}: column time holds {table['time'].dtype}, not times; convert it with pandas.to_datetime"
        )
    if "id" in columns and table["id"].duplicated().any():
        raise DataError(f"{what}: id {table.loc[table['id'].duplicated(), 'id'].iloc[0]} stands there twice")
