"""Records of several modalities, put together from two data sets and the pairs found between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record

if TYPE_CHECKING:
    import pandas as pd

ECG_REPORT = "ecg_report"
"""The attribute that keeps an ECG's own text where the radiograph has a report too."""


def events(manifest: Manifest) -> pd.DataFrame:
    """The records as events for :mod:`medcl.records.pairing`: ``subject``, ``time`` and ``id``.

    The time is the attribute ``time`` (ISO), NaT where a record has none. DataError for what is no time.
    """
    import pandas as pd

    rows = [(record.subject, record.attributes.get("time"), record.id) for record in manifest.records]
    table = pd.DataFrame(rows, columns=["subject", "time", "id"])
    times = pd.to_datetime(table["time"], errors="coerce", format="ISO8601")
    wrong = table[times.isna() & table["time"].notna()]
    if not wrong.empty:
        raise DataError(f"record {each.id}: its attribute time {each.time!r} is no time" for each in wrong.itertuples())
    return table.assign(time=times)


def combine(pairs: pd.DataFrame, radiographs: Manifest, ecgs: Manifest, labs: pd.DataFrame | None = None) -> Manifest:
    """One record a row of ``pairs``, whose columns ``radiograph`` and ``ecg`` name records of the two data sets.

    The radiograph's record gives the subject, split, targets, report and attributes; the ECG's its recording. Its report is used
    where the radiograph has none, else kept as the attribute :data:`ECG_REPORT`. ``labs`` has the same rows and a column an item;
    NaN is left out. DataError where a pair is of two subjects or of two splits.
    """
    if labs is not None and len(labs) != len(pairs):
        raise ValueError(f"{len(labs)} rows of laboratory values for {len(pairs)} pairs")
    values = labs.to_dict("records") if labs is not None else [{} for _ in range(len(pairs))]
    records: list[Record] = []
    problems: list[str] = []
    for first, second, row in zip(pairs["radiograph"], pairs["ecg"], values, strict=True):
        try:
            measured = {
                str(name): float(value) for name, value in row.items() if value == value
            }  # NaN is unlike itself
            records.append(_combined(radiographs.by_id(str(first)), ecgs.by_id(str(second)), measured))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Manifest(
        tuple(records),
        source=f"{radiographs.source} with {ecgs.source}",
        provenance={"name": " with ".join(m.provenance.get("name", m.source) for m in (radiographs, ecgs))},
    )


def _combined(radiograph: Record, ecg: Record, labs: Mapping[str, float]) -> Record:
    identity = f"{radiograph.id}_{ecg.id}"
    if radiograph.subject != ecg.subject:
        raise DataError(f"pair {identity}: its radiograph and its ECG are of different subjects")
    if None not in (radiograph.split, ecg.split) and radiograph.split != ecg.split:
        raise DataError(f"pair {identity}: its radiograph is in {radiograph.split}, its ECG in {ecg.split}")
    both = radiograph.report is not None and isinstance(ecg.report, str)
    return Record(
        id=identity,
        subject=radiograph.subject,
        radiograph=radiograph.radiograph,
        ecg=ecg.ecg,
        report=radiograph.report if radiograph.report is not None else ecg.report,
        labs=labs,
        targets={**ecg.targets, **radiograph.targets},
        split=radiograph.split or ecg.split,
        attributes={**radiograph.attributes, **({ECG_REPORT: str(ecg.report)} if both else {})},
    )
