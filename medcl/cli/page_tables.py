"""Tables of pages on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medcl.reporting.alignment_page import PageTable


def print_tables(tables: Sequence[PageTable]) -> None:
    """Print ``tables``; the columns of long ones wrap."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    for each in tables:
        table = Table(title=each.title, caption=each.caption or None, title_justify="left", caption_justify="left")
        for place, label in enumerate(each.columns):
            table.add_column(label, justify="left" if place == 0 else "right", overflow="fold")
        for row in each.rows:
            table.add_row(*row)
        console.print(table)
