"""Rendering a self-contained HTML page from a template: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from medcl.files import write_text

_TEMPLATES = Path(__file__).parent / "templates"


def write_html(target: Path, template: str, **content: Any) -> Path:
    """Render ``templates/<template>`` with ``content`` to ``target``, atomically; return ``target``."""
    write_text(target, _environment().get_template(template).render(**content))
    return target


def duration(seconds: float | None) -> str:
    """``95`` -> ``1 min 35 s``."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def score(value: float | None, digits: int = 3) -> str:
    """A Dice score as it stands in tables; a dash where there is none."""
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def points(value: float | None) -> str:
    """A difference of Dice scores in points (hundredths), with its sign."""
    return (
        "\N{EN DASH}"
        if value is None or not math.isfinite(value)
        else f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")
    )


def worth(value: float | str | None) -> str:
    """A number of labels, or the words for one that lies beyond what was measured; a dash where there is none."""
    return "\N{EN DASH}" if value is None else value if isinstance(value, str) else f"{value:.1f}"


def environment_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What someone needs to know of where a run ran, from its ``run.json``."""
    versions = facts.get("versions", {})
    shown = {
        "Started": facts.get("started"),
        "Wall time": duration(facts.get("wall_seconds")),
        "CPU time": duration(facts.get("cpu_seconds")),
        "Peak memory": f"{facts['peak_memory_mib']:.0f} MiB" if "peak_memory_mib" in facts else None,
        "Device": facts.get("device"),
        "CPUs": facts.get("cpus"),
        "Seed": facts.get("seed"),
        "Code": facts.get("git"),
        "Python": facts.get("python"),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Platform": facts.get("platform"),
    }
    return {name: str(value) for name, value in shown.items() if value not in (None, "")}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, score=score, points=points, worth=worth)
    environment.globals["stylesheet"] = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment
