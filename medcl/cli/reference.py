"""The reference pages in ``docs/reference``, written from the commands and the configuration models themselves.

    python -m medcl.cli.reference docs/reference

`make reference` runs it; a test compares the committed pages with what it writes.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medcl.cli.main import app
from medcl.cli.training import MODELS
from medcl.config.alignment_use import EmbedConfig, GroundConfig, RetrieveConfig, ZeroshotConfig
from medcl.config.explain import ExplainConfig
from medcl.config.load import models_in
from medcl.config.pipeline import PipelineConfig
from medcl.config.suggest import SuggestConfig
from medcl.files import write_text

_WRITTEN = "Written by `make reference`; change the {what} instead.\n"


def configuration() -> str:
    """Every key of every configuration, as Markdown: a section a command, then one for each kind of section in it."""
    importlib.import_module("medcl.objectives")  # announces the objectives that a configuration may name
    roots: dict[str, Mapping[str, type[BaseModel]]] = {
        **{f"medcl {name}": models for name, (_, models) in MODELS.items()},
        "medcl run": {"": PipelineConfig},
        "medcl suggest": {"": SuggestConfig},
        "medcl retrieve": {"": RetrieveConfig},
        "medcl zeroshot": {"": ZeroshotConfig},
        "medcl ground": {"": GroundConfig},
        "medcl embed": {"": EmbedConfig},
        "medcl explain": {"": ExplainConfig},
    }
    lines = ["# Configuration", "", _WRITTEN.format(what="models in `medcl/config`"), "## Commands", ""]
    for command, models in roots.items():
        told = ", ".join(f"{'' if not task else f'`task: {task}` '}{_link(model)}" for task, model in models.items())
        lines.append(f"- `{command}`: {told}")
    lines += ["", "## Sections", ""]
    for model in _reachable([model for models in roots.values() for model in models.values()]):
        lines += _section(model)
    return "\n".join(lines).rstrip() + "\n"


def commands() -> str:
    """Every command with its help, as Markdown."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("medcl", [], resilient_parsing=True)
    lines = ["# Commands", "", _WRITTEN.format(what="commands in `medcl/cli`")]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        lines += [f"## medcl {name}", "", inspect.cleandoc(command.help or ""), ""]
        rows = [_parameter(one) for one in command.params if one.name != "help"]
        lines += ["| argument | what | default |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _parameter(one: Any) -> str:
    names = (
        ", ".join(one.opts + one.secondary_opts) if one.param_type_name == "option" else one.metavar or one.name.upper()
    )
    default = one.default if isinstance(one.default, str | int | float | Path) and one.default is not False else ""
    needed = "required" if one.required else f"`{default}`" if default != "" else ""
    return f"| `{names}` | {_cell(getattr(one, 'help', '') or '')} | {needed} |"


def _reachable(roots: list[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """``roots`` and every model in them, each once, in the order in which they are met."""
    seen: dict[type[BaseModel], None] = {}
    pending = list(roots)
    while pending:
        model = pending.pop(0)
        if model in seen:
            continue
        seen[model] = None
        found = [other for field in model.model_fields.values() for other in reversed(models_in(field))]
        pending[:0] = found
    yield from seen


def _section(model: type[BaseModel]) -> list[str]:
    first = inspect.getdoc(model) if model.__doc__ else ""
    lines = [f"### {model.__name__}", "", " ".join((first or "").split("\n\n")[0].split()).replace("``", "`"), ""]
    if model.model_fields:
        lines += ["| key | values | default | what |", "| --- | --- | --- | --- |"]
        lines += [_row(name, field) for name, field in model.model_fields.items()]
        lines.append("")
    return lines


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        shown = "required"
    elif isinstance(default, BaseModel):
        shown = _link(type(default))
    else:
        shown = f"`{_plain(default)}`"
    return f"| `{name}` | {_cell(_values(field.annotation))} | {_cell(shown)} | {_cell(field.description or '')} |"


def _values(kind: Any) -> str:
    """What may stand there, in a reader's words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _values(inner[0])
    if origin is Literal:
        return ", ".join(f"`{_plain(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_values(one) for one in inner if one is not types.NoneType)) + (
            " or null" if types.NoneType in inner else ""
        )
    if origin in (tuple, list):
        kept = [one for one in inner if one is not Ellipsis]
        return "list of " + " or ".join(dict.fromkeys(_values(one) for one in kept))
    if origin is dict:
        return f"mapping to {_values(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _link(kind)
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "anything"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _link(model: type[BaseModel]) -> str:
    return f"[{model.__name__}](#{model.__name__.lower()})"


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True) or {}
    if isinstance(value, tuple | list):
        value = [
            one.model_dump(mode="json", exclude_defaults=True) if isinstance(one, BaseModel) else one for one in value
        ]
    kept = value if value is None or isinstance(value, str | int | float | bool | list | dict) else str(value)
    return yaml.safe_dump(kept, default_flow_style=True, allow_unicode=True, width=10_000).removesuffix("...\n").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"configuration.md": configuration, "commands.md": commands}


def main(folder: Path) -> None:
    """Write both pages into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        write_text(folder / name, page())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
