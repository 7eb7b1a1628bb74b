"""Reading a configuration: YAML, dotted overrides, and messages that name every wrong key at once."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from medcl.config.plain_yaml import FAILURES, PlainLoader, not_yaml, read_yaml_text, refuse_aliases
from medcl.config.strict import Strict
from medcl.errors import ConfigError

Model = TypeVar("Model", bound=Strict)
Location = tuple[int | str, ...]

_MAX_DEPTH = 40


class _Source:
    """The values of a YAML file with the line each key stands on."""

    def __init__(self, path: Path | None, values: Any = None) -> None:
        self.path = path
        self.lines: dict[Location, int] = {}
        self.values: Any = {} if values is None else values
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        text = read_yaml_text(path)
        refuse_aliases(text, path)
        try:
            node = yaml.compose(text, Loader=PlainLoader)
            if node is not None:
                self._note_lines(node, ())
            self.values = yaml.load(text, Loader=PlainLoader) if node is not None else {}
        except FAILURES as error:
            raise not_yaml(path, error) from error
        if not isinstance(self.values, dict):
            raise ConfigError(f"{path}: expected keys and values at the top level")

    def _note_lines(self, node: yaml.Node, at: Location) -> None:
        if len(at) > _MAX_DEPTH:
            raise ConfigError(f"{self.path}: nested more than {_MAX_DEPTH} deep")
        self.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[Any] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(
                        f"{self.path}:{key.start_mark.line + 1}: a list or mapping cannot be a key; write a word"
                    )
                if key.value in seen:
                    raise ConfigError(f"{self.path}:{key.start_mark.line + 1}: key '{key.value}' stands twice")
                seen.add(key.value)
                self.lines[(*at, key.value)] = key.start_mark.line + 1
                self._note_lines(value, (*at, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._note_lines(item, (*at, index))

    def where(self, location: Location) -> str:
        if self.path is None:
            return ""
        for end in range(len(location), 0, -1):
            line = self.lines.get(location[:end])
            if line is not None:
                return f"{self.path}:{line}: "
        return f"{self.path}: "


def load_config(model: type[Model], path: Path | str | None = None, overrides: Sequence[str] = ()) -> Model:
    """Read ``path`` as a ``model``, with ``dotted.key=value`` overrides applied.

    Override values are YAML scalars or flow collections; a list item is named by its index
    (``stages.0.steps=100``). Raises ConfigError naming every wrong key and value, with file and line.
    """
    return load_one_of({"": model}, "", path, overrides)


def load_one_of(
    models: Mapping[str, type[Model]], key: str, path: Path | str | None = None, overrides: Sequence[str] = ()
) -> Model:
    """As :func:`load_config`, of the model that the value of ``key`` names; the first one where there is no such value."""
    source = _Source(Path(path) if path is not None else None)
    values = migrated(source.values, source.path)
    overridden = apply_overrides(values, overrides)
    chosen = values.get(key, next(iter(models)))
    if not isinstance(chosen, str) or chosen not in models:
        where = "" if (key,) in overridden else source.where((key,))
        raise ConfigError(f"{where}{key}: {chosen!r} is none of {', '.join(models)}")
    return validate(models[chosen], values, source, overridden)


def read_values(path: Path | str) -> dict[str, Any]:
    """The plain values of a configuration file, unchecked. Raises ConfigError where it is not one."""
    return migrated(_Source(Path(path)).values, Path(path))


def validate(
    model: type[Model], values: Mapping[str, Any], source: _Source | None = None, overridden: Iterable[Location] = ()
) -> Model:
    """Build a ``model`` from plain ``values``; ConfigError lists every problem."""
    source = source or _Source(None, values)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        given = set(overridden)
        entries = [entry for entry in error.errors() if not _is_consequence(entry, error.errors())]
        problems = [_problem(model, entry, source, given) for entry in entries]
        raise ConfigError(list(dict.fromkeys(problems))) from None


def migrated(values: dict[str, Any], path: Path | None = None) -> dict[str, Any]:
    """``values`` in the current format version. Version 1 is the first; nothing is older."""
    version = values.get("version", 1)
    if version != 1:
        where = f"{path}: " if path else ""
        raise ConfigError(f"{where}version: {version!r} is not known to this medcl (it reads version 1); update medcl")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> list[Location]:
    """Set each ``dotted.key=value`` in ``values`` in place; return the locations that were set."""
    locations, problems = [], []
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            problems.append(f"'{override}' is not an override; write key=value, such as data.path=scans/")
            continue
        try:
            value = yaml.load(text, Loader=PlainLoader) if text else None
        except FAILURES:
            value = text
        location: Location = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        try:
            _set(values, location, value)
        except (TypeError, IndexError, KeyError):
            problems.append(f"{key}: cannot be set; there is no such place in the configuration")
        locations.append(location)
    if problems:
        raise ConfigError(problems)
    return locations


def _set(values: Any, location: Location, value: Any) -> None:
    for part in location[:-1]:
        if isinstance(values, dict) and not isinstance(values.get(part), dict | list):
            values[part] = {"name": values[part]} if isinstance(values.get(part), str) else {}
        values = values[part]
    if isinstance(values, list) and location[-1] == len(values):
        values.append(value)
    else:
        values[location[-1]] = value


def _problem(model: type[BaseModel], entry: Any, source: _Source, overridden: set[Location]) -> str:
    location = tuple(entry["loc"])
    keys = _without_tags(location, source.values)
    dotted = ".".join(str(part) for part in keys) or "configuration"
    where = "" if any(keys[: len(done)] == done for done in overridden) else source.where(keys)
    if entry["type"] == "extra_forbidden":
        names = _field_names(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), names, n=1)
        hint = (
            f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(sorted(names))}" if names else ""
        )
        return f"{where}{dotted}: no such key{hint}"
    if entry["type"] == "missing":
        return f"{where}{dotted}: is missing; set it in the file or as {dotted}=VALUE"
    message = entry["msg"].removeprefix("Value error, ")
    given = entry.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{where}{dotted}: {message[0].lower()}{message[1:]}{shown}"


def _is_consequence(entry: Any, entries: Sequence[Any]) -> bool:
    """A list counts as too short when its items failed; the items' own messages say more."""
    size, at = len(entry["loc"]), entry["loc"]
    return entry["type"] == "too_short" and any(len(e["loc"]) > size and e["loc"][:size] == at for e in entries)


def _without_tags(location: Location, values: Any) -> Location:
    """Pydantic puts the chosen ``name`` of a union into the location; a user's key path has none."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        is_last = index == len(location) - 1
        inside: Any = range(len(values)) if isinstance(values, list) else values
        if isinstance(values, dict | list) and part in inside:
            values = values[part]  # type: ignore[index]
        elif not is_last and isinstance(values, dict) and values.get("name", part) == part:
            continue
        kept.append(part)
    return tuple(kept)


def _field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields at ``location`` below ``model``, through lists and unions."""
    current: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for candidate in current:
            if part in candidate.model_fields:
                field = candidate.model_fields[part]
                found.extend(models_in(field) or _models_by_key(field))
            elif candidate.model_fields.get("name") is not None and candidate.model_fields["name"].default == part:
                found.append(candidate)
        current = found or current
    return sorted({name for candidate in current for name in candidate.model_fields})


def _models_by_key(field: FieldInfo) -> list[type[BaseModel]]:
    """The configuration models that are the values of a mapping of the user's own keys."""
    kinds = get_args(field.annotation) if get_origin(field.annotation) is dict else ()
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def models_in(field: FieldInfo) -> list[type[BaseModel]]:
    """The configuration models that may stand in ``field``."""
    found: list[type[BaseModel]] = []
    pending: list[Any] = [field.annotation]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        elif get_origin(kind) in (Union, types.UnionType, Annotated, tuple, list, dict):
            pending.extend(get_args(kind))
    return found
