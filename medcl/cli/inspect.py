"""`medcl inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.table import Table

    from medcl.records.facts import VolumeFacts
    from medcl.workflow.inspection import Inspection

_SHOWN = 8


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
    console.print(_summary_table(inspection))
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
    for column in ("record", "voxels", "spacing mm", "axes", "type", "values", "label"):
        table.add_column(column, overflow="fold")
    for record in manifest.records[:_SHOWN]:
        image, label = inspection.image(record), inspection.label(record)
        if image is None or image.error:
            cells = [image.error or "" if image else "no volume", "", "", "", ""]
        else:
            values = f"{image.minimum:.4g} to {image.maximum:.4g}"
            cells = [times(image.shape), times(image.spacing), image.orientation or "unknown", image.dtype, values]
        table.add_row(record.id, *cells, _classes(label))
    return table


def _classes(label: VolumeFacts | None) -> str:
    if label is None:
        return "-"
    if label.error:
        return "unreadable"
    values = [str(value) for value in label.values if value]
    return " ".join(values[:6]) + (" ..." if len(values) > 6 else "") or "empty"


def _summary_table(inspection: Inspection) -> Table:
    from rich.table import Table

    table = Table(title="all of them", caption_justify="left")
    for column in ("", "least", "median", "most"):
        table.add_column(column, justify="left" if not column else "right")
    images = [inspection.image(record) for record in inspection.manifest.records]
    read = [image for image in images if image is not None and len(image.shape) == 3 and not image.error]
    for axis, name in enumerate("xyz"):
        table.add_row(f"voxels {name}", *_spread(image.shape[axis] for image in read))
    for axis, name in enumerate("xyz"):
        table.add_row(f"spacing {name} (mm)", *_spread(image.spacing[axis] for image in read))
    table.add_row("minimum", *_spread(image.minimum for image in read))
    table.add_row("median", *_spread(image.percentile(50.0) for image in read))
    table.add_row("99.5th percentile", *_spread(image.percentile(99.5) for image in read))
    table.add_row("maximum", *_spread(image.maximum for image in read), end_section=True)
    for name, spread in _label_volumes(inspection):
        table.add_row(name, *spread)
    counted = (
        ("axes", [image.orientation or "unknown" for image in read]),
        ("type", [image.dtype for image in read]),
        ("format", [image.format for image in read]),
        ("split", [record.split or "none declared" for record in inspection.manifest.records]),
    )
    table.caption = "\n".join(f"{name}: {_counts(values)}" for name, values in counted)
    return table


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

    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common()) or "-"
