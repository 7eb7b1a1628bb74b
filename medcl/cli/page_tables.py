"""Tables of pages on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from medcl.reporting.alignment_page import PageTable


def print_tables(tables: Sequence[PageTable], console: Console | None = None) -> None:
    """Print ``tables``. What is too wide for the terminal is turned, its rows becoming columns, as many beside each other as fit."""
    from rich.console import Console

    console = console or Console(markup=False, highlight=False)
    for each in tables:
        for table in _fitting(console, each):
            console.print(table)


def _fitting(console: Console, table: PageTable) -> Iterator[Table]:
    """``table`` as it is where it fits the width, else turned and cut into as many as it takes."""
    whole = _drawn(table.title, table.columns, table.rows, table.caption)
    if _fits(console, whole) or not table.rows:
        yield whole
        return
    start = 0
    while start < len(table.rows):
        end = start + 1
        while end < len(table.rows) and _fits(console, _turned(table, start, end + 1)):
            end += 1
        yield _turned(table, start, end)
        start = end


def _fits(console: Console, drawn: Table) -> bool:
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), drawn).maximum <= console.width


def _turned(table: PageTable, start: int, end: int) -> Table:
    """The rows from ``start`` to ``end`` as columns."""
    columns, rows = table.columns, table.rows[start:end]
    turned = [[name, *(row[place] for row in rows)] for place, name in enumerate(columns) if place]
    caption = table.caption if end == len(table.rows) else ""
    return _drawn(table.title if not start else "", [columns[0], *(row[0] for row in rows)], turned, caption)


def _drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None) -> Table:
    from rich.table import Table

    drawn = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for place, label in enumerate(columns):
        drawn.add_column(label, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn
