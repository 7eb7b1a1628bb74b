"""`medcl compare`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from medcl.evaluation.comparison import Comparison

_TITLES = {"dice": "Dice", "hd95_mm": "HD95 mm", "surface_dice": "surface Dice", "volume_error_ml": "volume error ml"}


def command(
    evaluations: Annotated[
        list[Path], typer.Argument(help="JSON or CSV files of medcl evaluate; the first is the baseline.")
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    resamples: Annotated[int, typer.Option(help="Draws of the bootstrap and the permutation test.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of these draws.", min=0)] = 0,
) -> None:
    """Paired differences between evaluations on identical cases, with 95 % intervals and permutation p-values.

    Example: medcl compare scratch.json pretrained.json
    """
    from rich.console import Console

    from medcl.config.evaluate import CompareConfig
    from medcl.config.load import validate
    from medcl.workflow.compare import compare

    values = {"evaluations": evaluations, "out": out, "resamples": resamples, "seed": seed}
    console = Console()
    for comparison in compare(validate(CompareConfig, values)):
        console.print(_table(comparison))
        for name, count in ((comparison.baseline, comparison.only_baseline), (comparison.other, comparison.only_other)):
            if count:
                print(f"{count} cases are in {name} only and left out")
        for note in comparison.notes:
            print(note)
    if out:
        print(f"written: {out}")


def _table(comparison: Comparison) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{comparison.other} minus {comparison.baseline}, {comparison.cases} shared cases",
        caption="95 % bootstrap interval over subjects; p: two-sided sign-flip permutation test, not corrected for multiple comparisons",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("class", overflow="fold")
    for column in (comparison.baseline, comparison.other):
        table.add_column(column, justify="right", overflow="fold", min_width=6)
    for column in ("difference", "95 % interval", "p", "cases"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(row.name if row.label is None else f"{row.label} {row.name}")
        for metric, compared in row.metrics.items():
            difference = compared.difference
            cases = f"{difference.cases}" + (f" (-{compared.unpaired})" if compared.unpaired else "")
            table.add_row(
                f"  {_TITLES[metric]}",
                f"{compared.baseline:.3f}",
                f"{compared.other:.3f}",
                f"{difference.mean:+.3f}",
                f"{difference.low:+.3f} to {difference.high:+.3f}",
                _p_text(difference.p),
                cases,
            )
    return table


def _p_text(p: float) -> str:
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
