"""`medcl suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcl.cli.options import PrintConfig

if TYPE_CHECKING:
    from rich.table import Table

    from medcl.workflow.suggest import Suggestion


def command(
    data: Annotated[
        str | None, typer.Argument(help="Folder, glob, CSV/JSONL table, dataset.json, BIDS or DICOM tree.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as data.test=0.25 already=[scan01,scan07]")
    ] = None,
    count: Annotated[int, typer.Option(help="How many records to label next.", min=1)] = 2,
    rule: Annotated[str, typer.Option(help="k_medoids, typiclust, coreset or random.")] = "k_medoids",
    weights: Annotated[
        Path | None, typer.Option(help="Pretraining run whose features are compared; default: the voxels are.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Which volumes to label next, from the images alone: those that together lie nearest to all others.

    Label maps are never read. Records with a label by now are named in already; what data.test and data.validation hold
    out is never suggested.

    Example: medcl suggest scans/ --count 2 --weights runs/pre
    """
    from medcl.config.load import load_config
    from medcl.config.show import commented, commented_defaults
    from medcl.config.suggest import SuggestConfig
    from medcl.errors import ConfigError

    if data is None and print_config:
        print(commented_defaults(SuggestConfig), end="")
        return
    if data is None:
        raise ConfigError("name the data: medcl suggest scans/ --count 2")
    given = [f"data.path={data}", f"count={count}", f"rule={rule}"]
    given += [f"{name}={path}" for name, path in (("weights", weights), ("out", out)) if path is not None]
    config = load_config(SuggestConfig, overrides=[*given, *(overrides or [])])
    if print_config:
        print(commented(config), end="")
        return

    from rich.console import Console

    from medcl.workflow.suggest import suggest

    found = suggest(config)
    Console(markup=False, highlight=False).print(_table(found))
    print(
        f"coverage: the {found.pool} unlabelled training records lie {found.coverage:.4g} on average from their nearest labelled one\n"
        f"(random choices: {found.random_coverage:.4g}); better than {found.better_than:.1f} % of 1000 random choices\n\n"
        f"label them, then: {found.command}"
    )
    if config.out is not None:
        print(f"written: {config.out}")


def _table(found: Suggestion) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{found.rule} among {found.pool} unlabelled records",
        caption=f"compared: {found.features}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("rank", justify="right")
    table.add_column("record", overflow="fold")
    table.add_column("stands for", justify="right")
    table.add_column("mean distance to those", justify="right")
    for rank, record in enumerate(found.records, 1):
        table.add_row(str(rank), record.id, f"{record.stands_for} records", f"{record.distance:.4g}")
    return table
