"""The page of a single run: what it was, how it went, how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl import __version__
from medcl.reporting.curves import FINETUNING, PRETRAINING, run_curves
from medcl.reporting.page import environment_facts, write_html
from medcl.runs import RunFolder

_PANELS = {"pretrain": PRETRAINING, "finetune": FINETUNING}


def write_page(run: RunFolder) -> Path:
    """Write ``page.html`` of ``run`` from its facts, metrics and configuration alone; return its path."""
    facts = run.read_facts()
    command = str(facts.get("command", "run"))
    rows = run.read_metrics()
    return write_html(
        run.page,
        "run.html.j2",
        title=run.path.resolve().name,
        command=command,
        status=facts.get("status", "unknown"),
        simulated=bool(facts.get("simulated")),
        version=__version__,
        headline=_headline(rows),
        figures=run_curves(rows, _PANELS.get(command, ()), run.path.resolve().name),
        environment=environment_facts(facts),
        records=_records(facts),
        config=run.config.read_text(encoding="utf-8") if run.config.is_file() else "",
        repeat=_repeat(command, facts),
    )


def _headline(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The last value of what matters most, by name."""
    shown = {
        "validation_dice": ("Dice on validation records", "{:.3f}"),
        "loss": ("last loss", "{:.4g}"),
        "loss_over_all_equal": ("loss over its all-equal value", "{:.2f}"),
        "effective_rank": ("effective rank", "{:.1f}"),
        "step": ("steps", "{:.0f}"),
        "data_wait": ("of the time waiting for data", "{:.0%}"),
    }
    found = {}
    for column, (label, form) in shown.items():
        values = [row[column] for row in rows if isinstance(row.get(column), int | float)]
        if values:
            found[label] = form.format(values[-1])
    return found


def _records(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which records the run saw or held out, by manifest id."""
    return {name: list(facts[name]) for name in ("pool", "labelled", "validation", "test") if facts.get(name)}


def _repeat(command: str, facts: Mapping[str, Any]) -> str:
    """The command as it was given; the same configuration in another folder where it came from a pipeline."""
    argv = [str(part) for part in facts.get("argv", [])]
    if argv[:1] == [command]:
        return shlex.join(["medcl", *argv])
    return f"medcl {command} config.yaml out=FOLDER"
