"""Errors meant for the user: each names a file or a key and says what to do.

The command line prints them one line per problem, without a traceback, and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable


class MedclError(Exception):
    """A problem the user can fix. ``problems`` holds one readable line each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(MedclError):
    """A configuration file or an override is wrong; every wrong key is named together."""


class DataError(MedclError):
    """A data file or a data set is wrong: unreadable, mismatched, missing, of the wrong kind."""


class WeightsError(MedclError):
    """Weights do not fit the network, or are not weights."""
