"""`medcl evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from medcl.evaluation.scores import Evaluation, Metric, Outcome, SummaryRow
    from medcl.evaluation.statistics import Interval

_COLUMNS: dict[Metric, tuple[str, str]] = {
    "dice": ("Dice", "{:.3f}"),
    "surface_dice": ("surface\nDice", "{:.3f}"),
    "hd95_mm": ("HD95\nmm", "{:.2f}"),
    "volume_error_ml": ("volume\nerror ml", "{:.3f}"),
    "relative_volume_error": ("volume\nerror %", "{:.1%}"),
}

_OUTCOMES: dict[Outcome, str] = {
    "missed": "missed (Dice 0, HD95 = image diagonal)",
    "spurious": "predicted where the truth has none (Dice 0, HD95 = image diagonal)",
    "absent": "in neither mask (left out)",
}


def command(
    prediction: Annotated[Path, typer.Argument(help="Folder of predicted masks, or one mask.")],
    truth: Annotated[Path, typer.Argument(help="Folder of masks, one mask, or a labelled data set of any layout.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write; a CSV of every case goes beside it.")] = None,
    tolerance: Annotated[float, typer.Option(help="Tolerance of the surface Dice in mm.", min=0)] = 1.0,
    labels: Annotated[str | None, typer.Option(help='Classes to score: "1=anterior,2=posterior".')] = None,
    workers: Annotated[int, typer.Option(help="Processes that score.", min=1)] = 1,
) -> None:
    """Score masks against the truth: Dice, surface Dice, HD95, volume error, with 95 % intervals over subjects.

    Masks are matched by name. A class in neither mask is left out and counted; a missed one scores Dice 0 and HD95 = the
    image diagonal.

    Example: medcl evaluate masks/ truth/ --out scores.json
    """
    from rich.console import Console

    from medcl.config.evaluate import EvaluateConfig
    from medcl.config.load import validate
    from medcl.reporting.progress import progress_bar
    from medcl.workflow.evaluate import evaluate

    values = {"prediction": prediction, "truth": truth, "out": out, "tolerance": tolerance, "workers": workers}
    config = validate(EvaluateConfig, {**values, "labels": _parse_labels(labels)})
    with progress_bar("scoring") as progress:
        evaluation = evaluate(config, progress)
    console = Console()
    rows = evaluation.summary()
    console.print(_table(evaluation, rows))
    for row in rows:
        counts = [f"{row.outcomes[outcome]} {text}" for outcome, text in _OUTCOMES.items() if row.outcomes[outcome]]
        if row.label is not None and counts:
            print(f"{row.label} {row.name}: {'; '.join(counts)}")
    if evaluation.missing:
        shown = ", ".join(evaluation.missing[:5]) + (" ..." if len(evaluation.missing) > 5 else "")
        print(f"{len(evaluation.missing)} cases of the truth have no prediction and are not scored: {shown}")
    for note in evaluation.notes:
        print(note)
    if out:
        print(f"written: {out} and {out.with_suffix('.csv')}")


def _interval_text(interval: Interval, form: str) -> str:
    """The mean, and below it the interval, of a metric that is never negative; a dash where there is no value."""
    if math.isnan(interval.mean):
        return "-"
    if math.isnan(interval.low):
        return form.format(interval.mean)
    return f"{form.format(interval.mean)}\n{form.format(interval.low)}-{form.format(interval.high)}"


def _table(evaluation: Evaluation, rows: list[SummaryRow]) -> Table:
    from rich import box
    from rich.table import Table

    subjects = len(set(evaluation.subjects))
    table = Table(
        title=f"{len(evaluation.cases)} cases of {subjects} subjects: mean, 95 % interval over subjects",
        caption=f"surface Dice at {evaluation.tolerance_mm:g} mm",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("class", overflow="fold")
    for title, _ in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [_interval_text(row.metrics[metric], form) for metric, (_, form) in _COLUMNS.items()]
        table.add_row(row.name if row.label is None else f"{row.label} {row.name}", *cells)
    return table


def _parse_labels(text: str | None) -> dict[int, str] | None:
    from medcl.errors import ConfigError

    if text is None:
        return None
    labels = {}
    for part in text.split(","):
        value, sign, name = part.partition("=")
        if not sign or not value.strip().isdigit() or not name.strip():
            raise ConfigError(f'--labels: cannot read "{part}"; write value=name, such as "1=anterior,2=posterior"')
        labels[int(value)] = name.strip()
    return labels
