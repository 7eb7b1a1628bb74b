"""The bar that a command shows while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medcl.types import Progress


@contextmanager
def progress_bar(title: str | None) -> Iterator[Progress]:
    """A bar on the terminal's standard error that disappears when done; nothing without a ``title``, or where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=title is None or not console.is_terminal) as bar:
        task = bar.add_task(title or "", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
