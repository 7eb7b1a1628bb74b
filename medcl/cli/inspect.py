"""`medcl inspect`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.table import Table

    from medcl.records.facts import VolumeFacts
    from medcl.records.record import Record
    from medcl.workflow.inspection import Inspection

_SHOWN = 8
_MOST_NAMES = 24
_OTHERS = ("radiograph", "ecg", "labs", "report")


def command(
    data: Annotated[str, typer.Argument(help="Folder, glob, CSV/JSONL table, dataset.json, BIDS or DICOM tree.")],
    labels: Annotated[Path | None, typer.Option(help="Folder of labels, where the layout has none.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Look for problems; exit code 1 if any is an error.")] = False,
    label_volumes: Annotated[
        bool, typer.Option("--label-volumes", help="Write the labels' volumes in mm3 as targets into the manifest.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Run folder; the manifest is written there.")] = Path("runs/inspect"),
    workers: Annotated[int, typer.Option(help="Processes that read.", min=1)] = 1,
) -> None:
    """What is in a data set: counts, spacing, orientation, intensity, labels; with --check, what is wrong with it.

    Example: medcl inspect scans/ --labels labels/ --check
    """
    from rich.console import Console

    from medcl.config.inspect import InspectConfig
    from medcl.config.load import validate
    from medcl.modalities.image import FORMAT, UNKNOWN_PIXELS
    from medcl.reporting.progress import progress_bar
    from medcl.workflow.inspection import inspect

    values = {"data": data, "labels": labels, "check": check, "out": out, "workers": workers}
    config = validate(InspectConfig, {**values, "label_volumes": label_volumes})
    with progress_bar("reading") as progress:
        inspection = inspect(config, progress)
    console = Console()
    console.print(_records_table(inspection))
    console.print(_summary(inspection), highlight=False)
    for finding in inspection.findings:
        print(finding)
    if any(facts.format == FORMAT for facts in inspection.facts.values()):
        print(f"note: {UNKNOWN_PIXELS}")
    print(_verdict(inspection, check))
    print(f"written: {out / 'manifest.jsonl'}" + (f" and {out / 'findings.jsonl'}" if check else ""))
    if inspection.errors:
        raise typer.Exit(1)


def _verdict(inspection: Inspection, check: bool) -> str:
    if check:
        warnings = len(inspection.findings) - inspection.errors
        return f"errors: {inspection.errors}, warnings: {warnings}" if inspection.findings else "no problems found"
    bad = sum(facts.error is not None for facts in inspection.facts.values())
    return (f"{bad} files could not be read; " if bad else "") + "--check looks for problems and names their files"


def _records_table(inspection: Inspection) -> Table:
    from rich.table import Table

    from medcl.records.findings import times

    manifest = inspection.manifest
    subjects = len({record.subject for record in manifest.records})
    table = Table(
        title=f"{len(manifest)} records of {subjects} subjects, {len(manifest.labelled())} with a label",
        caption=f"{manifest.source}; the first {_SHOWN} records" if len(manifest) > _SHOWN else manifest.source,
    )
    volumes = any(record.volume for record in manifest.records)
    others = [name for name in _OTHERS if any(getattr(record, name) for record in manifest.records)]
    table.add_column("record", overflow="fold")
    for column in ("voxels", "spacing mm", "axes", "type", "values", "label") if volumes else ():
        table.add_column(column, overflow="fold")
    for column in others:
        table.add_column(column)
    for record in manifest.records[:_SHOWN]:
        image, label = inspection.image(record), inspection.label(record)
        if image is None or image.error:
            cells = [image.error or "" if image else "no volume", "", "", "", ""]
        else:
            values = f"{image.minimum:.4g} to {image.maximum:.4g}"
            cells = [times(image.shape), times(image.spacing), image.orientation or "unknown", image.dtype, values]
        shown = [*cells, _classes(label)] if volumes else []
        table.add_row(record.id, *shown, *(_other(getattr(record, name)) for name in others))
    return table


def _other(part: Path | str | Sequence[Path] | Mapping[str, float] | None) -> str:
    """What a record has of a modality that is no volume: its values, its images, its first words."""
    from collections.abc import Mapping

    match part:
        case Path():
            return part.name
        case str():
            return textwrap.shorten(part, 40, placeholder=" ...")
        case Mapping() if part:
            return f"{len(part)} values"
        case [first, *more]:
            return f"{first.name} and {len(more)} more" if more else str(first.name)
        case _:
            return "-"


def _classes(label: VolumeFacts | None) -> str:
    if label is None:
        return "-"
    if label.error:
        return "unreadable"
    values = [str(value) for value in label.values if value]
    return " ".join(values[:6]) + (" ..." if len(values) > 6 else "") or "empty"


def _summary(inspection: Inspection) -> Table | str:
    from rich.table import Table

    table = Table(title="all of them", caption_justify="left")
    for column in ("", "least", "median", "most"):
        table.add_column(column, justify="left" if not column else "right")
    records = inspection.manifest.records
    images = [inspection.image(record) for record in records]
    read = [image for image in images if image is not None and len(image.shape) == 3 and not image.error]
    if any(record.volume for record in records):
        for axis, name in enumerate("xyz"):
            table.add_row(f"voxels {name}", *_spread(image.shape[axis] for image in read))
        for axis, name in enumerate("xyz"):
            table.add_row(f"spacing {name} (mm)", *_spread(image.spacing[axis] for image in read))
        table.add_row("minimum", *_spread(image.minimum for image in read))
        table.add_row("median", *_spread(image.percentile(50.0) for image in read))
        table.add_row("99.5th percentile", *_spread(image.percentile(99.5) for image in read))
        table.add_row("maximum", *_spread(image.maximum for image in read), end_section=True)
    measured = [{k: v for k, v in record.targets.items() if not _is_finding(v)} for record in records]
    for kind, of in (("", [record.labs for record in records]), ("target ", measured)):
        for name, spread in _numbers(kind, of):
            table.add_row(name, *spread)
    for name, spread in _label_volumes(inspection):
        table.add_row(name, *spread)
    counted: tuple[tuple[str, list[str]], ...] = (
        ("axes", [image.orientation or "unknown" for image in read]),
        ("type", [image.dtype for image in read]),
        ("format", [image.format for image in read]),
        ("modalities", [name for record in records for name in ("volume", *_OTHERS) if getattr(record, name)]),
        *_words(records),
        ("split", [record.split or "none declared" for record in records]),
    )
    caption = "\n".join(f"{name}: {_counts(values)}" for name, values in counted if values)
    if not table.row_count:
        return caption
    table.caption = caption
    return table


def _numbers(kind: str, of: Sequence[Mapping[str, float | str]]) -> Iterator[tuple[str, list[str]]]:
    """Of each number that records have by name: how many have it, and its spread."""
    found: dict[str, list[float]] = {}
    for values in of:
        for name, value in values.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(value)
    for name, numbers in list(found.items())[:_MOST_NAMES]:
        yield f"{kind}{name} (in {len(numbers)})", _spread(numbers)


def _is_finding(value: float | str) -> bool:
    """Whether a target is a finding: present, absent or uncertain."""
    return not isinstance(value, str) and value in (0, 1, -1)


def _words(records: Sequence[Record]) -> Iterator[tuple[str, list[str]]]:
    """What the targets that are words say, and the findings that are present."""
    found: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.targets.items():
            if isinstance(value, str):
                found.setdefault(f"target {name}", []).append(value)
            elif value == 1:
                found.setdefault("findings present", []).append(name)
    yield from list(found.items())[:_MOST_NAMES]


def _label_volumes(inspection: Inspection) -> Iterator[tuple[str, list[str]]]:
    """Of each class: in how many labels it is, and its volume in ml where it is."""
    import math

    labels = [inspection.label(record) for record in inspection.manifest.records]
    read = [label for label in labels if label is not None and len(label.shape) == 3 and not label.error]
    names = inspection.manifest.label_names or {value: str(value) for label in read for value in label.values}
    for value, name in sorted(names.items()):
        volumes = [label.values[value] * math.prod(label.spacing) / 1000 for label in read if value in label.values]
        if value != 0 and len(names) <= 40:
            yield f"{name} (ml; in {len(volumes)})", _spread(volumes)


def _spread(values: Iterable[float]) -> list[str]:
    import statistics

    found = [value for value in values if value == value]
    if not found:
        return ["-"] * 3
    return [f"{value:.4g}" for value in (min(found), statistics.median(found), max(found))]


def _counts(values: Sequence[str]) -> str:
    from collections import Counter

    found = Counter(values).most_common()
    return ", ".join(f"{value} ({count})" for value, count in found[:_MOST_NAMES]) + (
        ", ..." if found[_MOST_NAMES:] else ""
    )
