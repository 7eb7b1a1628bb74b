"""Tables of pages on the terminal: whole where they fit, turned where they do not."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from medcl.cli.page_tables import print_tables
from medcl.reporting.alignment_page import PageTable

NAMES = ["direction", *(f"score {number}" for number in range(9))]
ROWS = [[f"from {row}", *(f"0.{row}{column} (0.1 to 0.9)" for column in range(9))] for row in range(4)]
TABLE = PageTable("Found", NAMES, ROWS, "What the numbers mean.")


def printed(width: int, table: PageTable = TABLE) -> str:
    stream = io.StringIO()
    print_tables([table], Console(file=stream, width=width, markup=False, highlight=False))
    return stream.getvalue()


def test_a_table_that_fits_is_printed_as_it_is() -> None:
    text = printed(400)
    assert text.splitlines()[2].index("direction") < text.splitlines()[2].index("score 8")
    assert text.count("\N{BOX DRAWINGS HEAVY DOWN AND RIGHT}") == 1


@pytest.mark.parametrize(("width", "tables"), [(110, 1), (80, 2), (50, 4), (12, 4)])
def test_a_wide_one_is_turned_and_cut_into_as_many_as_it_takes(width: int, tables: int) -> None:
    text = printed(width)
    assert text.count("\N{BOX DRAWINGS HEAVY DOWN AND RIGHT}") == tables
    assert max(map(len, text.splitlines())) <= width
    if width >= 50:  # every number in one piece, once
        assert all(text.count(f"0.{row}{column} (0.1 to 0.9)") == 1 for row in range(4) for column in range(9))
        assert text.count("Found") == 1
    assert "".join(text.split()).count("Whatthenumbersmean.") == 1


def test_a_table_without_rows_is_its_head() -> None:
    assert "direction" in printed(400, PageTable("Empty", NAMES, []))
