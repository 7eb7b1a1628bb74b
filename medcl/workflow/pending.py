"""A table that grows by a row a record: written anew now and then, not for every row."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 5.0


class PendingTable:
    """``write`` is called at most every few seconds, and by :meth:`flush`; what is killed loses the rows of those seconds."""

    def __init__(self, write: Callable[[], None], *, seconds: float = _SECONDS) -> None:
        self._write, self._seconds = write, seconds
        self._written, self._pending = time.monotonic() - seconds, False

    def changed(self) -> None:
        """A row was added."""
        self._pending = True
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what has not been written."""
        if self._pending:
            self._write()
            self._written, self._pending = time.monotonic(), False
