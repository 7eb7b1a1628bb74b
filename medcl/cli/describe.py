"""`medcl describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    what: Annotated[
        Path, typer.Argument(help="Run folder, weights (folder or file), export, nnU-Net results, store, or data set.")
    ],
) -> None:
    """What a run, a weights file or a data set is, and how it was made.

    Example: medcl describe runs/seg
    """
    from rich.console import Console
    from rich.table import Table

    from medcl.workflow.describe import describe

    console = Console(markup=False, highlight=False)
    for section in describe(what):
        console.print(f"\n{section.title}", style="bold")
        table = Table(show_header=bool(section.columns))
        for name in section.columns or ("", ""):
            table.add_column(name, overflow="fold")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
