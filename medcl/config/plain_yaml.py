"""YAML as plain data: nothing in it is executed, and its size, its depth and what it can grow to are bounded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from medcl.errors import ConfigError

_MOST_BYTES = 1 << 20

FAILURES = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What PyYAML raises on a text that is none: its constructors of dates and numbers let through whatever Python says of them."""


class PlainLoader(yaml.SafeLoader):
    """Safe YAML in which only true and false are booleans: ``on``, ``no`` and their like stay words, as in YAML 1.2."""


_BOOLEAN = "tag:yaml.org,2002:bool"
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def read_yaml_text(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """The text of a file that is meant to be YAML. Raises ConfigError where it is none, or larger than such files are."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is a folder or a device, not a file; name a YAML file")
        with open(path, "rb") as stream:
            raw = stream.read(most_bytes + 1)
        if len(raw) > most_bytes:
            raise ConfigError(f"{path}: larger than {most_bytes >> 20} MiB; this is not a medcl configuration")
        return raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def refuse_aliases(text: str, path: Path) -> None:
    """Raises ConfigError where the YAML ``text`` names a part of itself again, by which a few lines can grow to gigabytes."""
    if "*" not in text:
        return
    try:
        for event in yaml.parse(text, Loader=PlainLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{path}:{line}: YAML aliases are not allowed; write the value out")
    except FAILURES as error:
        raise not_yaml(path, error) from error


def load_plain(text: str, path: Path) -> Any:
    """The values of ``text`` of the file ``path``, words as YAML 1.1 reads them. Raises ConfigError where it is no plain YAML."""
    refuse_aliases(text, path)
    try:
        return yaml.safe_load(text)
    except FAILURES as error:
        raise not_yaml(path, error) from error


def not_yaml(path: Path, error: Exception) -> ConfigError:
    """What to say of ``path`` where PyYAML raised ``error``."""
    if isinstance(error, RecursionError):
        return ConfigError(f"{path}: nested too deeply")
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    reason = getattr(error, "problem", None) or str(error) or type(error).__name__
    return ConfigError(f"{where}: not valid YAML ({' '.join(str(reason).split())})")
