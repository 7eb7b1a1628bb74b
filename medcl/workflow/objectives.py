"""`medcl objectives`: which objectives there are, and when to choose which."""

from __future__ import annotations

import difflib
import inspect
import re
from dataclasses import dataclass

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.objective import NEEDS, ObjectiveConfig
from medcl.errors import ConfigError


@dataclass(frozen=True)
class ObjectivePage:
    """What a user reads about an objective.

    ``needs``: in a word or two, and how it is given.   ``settings``: name, default and description of every field.   ``text``: formula, shapes and properties.
    """

    name: str
    summary: str
    reads: str
    needs: dict[str, str]
    state: str
    source: str
    choose: str
    settings: tuple[tuple[str, str, str], ...]
    text: str


def list_objectives() -> list[ObjectivePage]:
    """Every objective that a configuration can name, in the order of their names."""
    return [_page(entry) for _, entry in sorted(ObjectiveConfig.known.items())]


def find_objective(name: str) -> ObjectivePage:
    """The page of ``name``. Raises ConfigError, with the nearest name, where there is none."""
    entry = ObjectiveConfig.known.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, ObjectiveConfig.known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "`medcl objectives` lists them all"
        raise ConfigError(f"no objective '{name}'; {hint}")
    return _page(entry)


def _page(entry: type[ObjectiveConfig]) -> ObjectivePage:
    text = inspect.getdoc(entry.function) or ""
    flowing = " ".join(text.split())
    source, choose = (
        re.search(pattern, flowing) for pattern in (r"Source: (.+?)\.? (?=Choose)", r"Choose (?:it |them )?(.+)$")
    )
    fields = {name: field for name, field in entry.model_fields.items() if name != "name"}
    return ObjectivePage(
        name=str(entry.model_fields["name"].default),
        summary=" ".join((inspect.getdoc(entry) or "").split()),
        reads=entry.reads,
        needs={need.replace("_", " "): NEEDS[need] for need in sorted(entry.needs)},
        state=entry.state,
        source=source.group(1) if source else "",
        choose=choose.group(1) if choose else "",
        settings=tuple(
            (name, str(field.get_default(call_default_factory=True)), field.description or "")
            for name, field in fields.items()
        ),
        text=text.replace("``", "`"),
    )
