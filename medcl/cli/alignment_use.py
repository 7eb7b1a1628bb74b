"""What the commands that use a finished alignment share: their configuration from a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medcl.config.alignment_use import AlignmentUseConfig
from medcl.config.load import load_config
from medcl.config.show import commented, commented_defaults
from medcl.errors import ConfigError

Use = TypeVar("Use", bound=AlignmentUseConfig)


def settled(
    model: type[Use],
    data: str | None,
    weights: Path | None,
    options: Mapping[str, Any],
    overrides: Sequence[str] | None,
    print_config: bool,
    *,
    needed: Sequence[str] = (),
) -> Use | None:
    """The configuration of the command; None where it was to be printed only. Raises ConfigError where something is not named."""
    if data is None and print_config:
        print(commented_defaults(model), end="")
        return None
    values: dict[str, Any] = {"data": data, "weights": weights, **options}
    if missing := [name for name in ("data", "weights", *needed) if values[name] is None]:
        told = ", ".join(name if name == "data" else f"--{name}" for name in missing)
        command = model.__name__.removesuffix("Config").lower()
        raise ConfigError(f"name {told}; see medcl {command} --help for an example")
    given = [f"data.path={data}", f"weights={weights}"]
    given += [f"{name}={_written(value)}" for name, value in options.items() if value is not None]
    config = load_config(model, overrides=[*given, *(overrides or [])])
    if print_config:
        print(commented(config), end="")
        return None
    return config


def _written(value: Any) -> str:
    """A value as an override has it: a text in quotes, so that nothing in it means something to YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(_written(item) for item in value)}]"
    text = str(value).replace("'", "''")
    return f"'{text}'" if isinstance(value, str | Path) else text
