"""Errors meant for the user: each names a file or a key and says what to do.

The command line prints them one line per problem, without a traceback, and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 2000


class MedclError(Exception):
    """A problem the user can fix. ``problems`` holds one readable line each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(_one_line(problem) for problem in given)
        super().__init__("\n".join(self.problems))


class ConfigError(MedclError):
    """A configuration file or an override is wrong; every wrong key is named together."""


class DataError(MedclError):
    """A data file or a data set is wrong: unreadable, mismatched, missing, of the wrong kind."""


class WeightsError(MedclError):
    """Weights do not fit the network, or are not weights."""


def _one_line(problem: str) -> str:
    """A damaged file may hold anything, and some of it ends up in the message: its line breaks go, its middle if it is very long."""
    line = " ".join(problem.splitlines()) if "\n" in problem or "\r" in problem else problem
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST * 3 // 4]} ... {line[-_LONGEST // 5 :]}"
