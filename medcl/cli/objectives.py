"""`medcl objectives`."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="An objective, to read its whole page.")] = None,
) -> None:
    """Which objectives a pretraining can use, what each needs, and when to choose it.

    Example: medcl objectives global_gd
    """
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table

    from medcl.workflow.objectives import find_objective, list_objectives

    console = Console(markup=False, highlight=False)
    if name is None:
        if not console.is_terminal:
            console.width = max(console.width, 140)
        table = Table("name", "choose it", "needs", "keeps", "paper", box=HORIZONTALS, show_lines=True, expand=True)
        table.columns[0].no_wrap = True
        table.columns[1].ratio = 3
        for column in table.columns[2:]:
            column.ratio = 1
        for page in list_objectives():
            table.add_row(page.name, page.choose, ", ".join(page.needs), page.state or "nothing", page.source)
        console.print(table)
        console.print("In a configuration: objective.name=NAME. `medcl objectives NAME` shows one whole.")
        return
    page = find_objective(name)
    console.print(f"\n{page.name}", style="bold")
    console.print(f"{page.summary}\n\n{page.text}\n")
    console.print(
        f"Reads: {page.reads}.  Needs: {'; '.join(page.needs.values()) or 'nothing'}.  Keeps: {page.state or 'nothing'}."
    )
    settings = Table("setting", "default", "meaning")
    for row in page.settings:
        settings.add_row(*row)
    console.print(settings)
