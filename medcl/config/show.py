"""`--print-config`: a configuration with its defaults, commented with what each key means."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medcl.config.load import models_in


def commented_defaults(model: type[BaseModel]) -> str:
    """YAML of every key of ``model`` with its default and its description; required keys are marked."""
    return "\n".join(_lines(model, None, 0)) + "\n"


def commented(config: BaseModel) -> str:
    """YAML of the values of ``config``, each key with its description."""
    return "\n".join(_lines(type(config), config, 0)) + "\n"


def _lines(model: type[BaseModel], values: BaseModel | None, depth: int) -> list[str]:
    pad = "  " * depth
    lines = []
    for name, field in model.model_fields.items():
        value = getattr(values, name) if values is not None else _default(field)
        comment = f"  # {field.description}" if field.description else ""
        if value is PydanticUndefined:
            options = models_in(field)
            if len(options) == 1 and not isinstance(value, tuple) and name != "stages":
                lines.append(f"{pad}{name}:{comment}")
                lines.extend(_lines(options[0], None, depth + 1))
            else:
                lines.append(f"{pad}{name}: ???{comment or '  # required'}")
        elif isinstance(value, BaseModel):
            lines.append(f"{pad}{name}:{comment}")
            lines.extend(_lines(type(value), value, depth + 1))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            lines.append(f"{pad}{name}:{comment}")
            for item in value:
                inner = _lines(type(item), item, depth + 2)
                lines.append(f"{pad}  - {inner[0].strip()}")
                lines.extend(inner[1:])
        elif isinstance(value, dict) and value and all(isinstance(item, BaseModel) for item in value.values()):
            lines.append(f"{pad}{name}:{comment}")
            for key, item in value.items():
                lines.append(f"{pad}  {_scalar(key)}:")
                lines.extend(_lines(type(item), item, depth + 2))
        else:
            lines.append(f"{pad}{name}: {_scalar(value)}{comment}")
    return lines


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
