"""The page of a single run: what it was, how it went, how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcl import __version__
from medcl.evaluation.methods import MethodScores, shown
from medcl.reporting.curves import FINETUNING, PRETRAINING, run_curves
from medcl.reporting.expected import MOST_CASES, read_to_check
from medcl.reporting.page import environment_facts, write_html
from medcl.runs import RunFolder

if TYPE_CHECKING:  # brings the objectives, which the page of a prediction has no use for
    from medcl.evaluation.representation import Diagnosis

NUMBERS = {
    "alignment": ("alignment", "{:.3f}"),
    "uniformity": ("uniformity", "{:.2f}"),
    "rankme": ("RankMe", "{:.1f}"),
    "covariance_effective_rank": ("effective rank", "{:.1f}"),
    "collapsed_dims": ("collapsed directions", "{:.0f}"),
    "dims": ("of", "{:.0f}"),
    "knn": ("k-NN accuracy", "{:.2f}"),
    "effective_negatives": ("effective negatives", "{:.0f}"),
    "hard_same_subject": ("same patient among the hardest", "{:.0%}"),
}
"""What the tables show of a diagnosis: label and format."""

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
        scores=_scores(run),
        to_check=read_to_check(run.path / "quality.csv"),
        most_cases=MOST_CASES,
        representation=_representation(run, rows),
        environment=environment_facts(facts),
        records=_records(facts),
        modalities=_modalities(facts),
        config=run.config.read_text(encoding="utf-8") if run.config.is_file() else "",
        repeat=_repeat(command, facts),
    )


def _headline(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The last value of what matters most, by name."""
    shown = {
        "validation_dice": ("Dice on validation records", "{:.3f}"),
        "validation_mrr": ("mean reciprocal rank on validation records", "{:.3f}"),
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


def _scores(run: RunFolder) -> list[dict[str, Any]]:
    """The tables of ``scores.json`` or of several of them: methods by metrics, and the run's differences to the others."""
    tables = []
    for path in sorted(run.path.glob("scores*.json")):
        found = MethodScores.read(path)
        tables.append(
            {
                "title": found.title,
                "columns": list(found.metrics.values()),
                "rows": {
                    method: [shown(values[name]) if name in values else "\N{EN DASH}" for name in found.metrics]
                    for method, values in found.scores.items()
                },
                "differences": [
                    f"{found.metrics[name]}, this run minus {method}: {shown(value)}, p = {value.p:.2g}"
                    for method, values in found.differences.items()
                    for name, value in values.items()
                ],
                "notes": list(found.notes),
            }
        )
    return tables


def read_diagnoses(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> dict[str, Diagnosis]:
    """The diagnosis of every stage of ``run`` that has one, in the order in which ``rows`` name the stages."""
    stages = dict.fromkeys(str(row.get("stage")) for row in rows)
    paths = {stage: run.path / "diagnostics" / f"{stage}.json" for stage in stages}
    there = {stage: path for stage, path in paths.items() if path.is_file()}
    if not there:
        return {}
    from medcl.evaluation.representation import Diagnosis

    return {stage: Diagnosis.read(path) for stage, path in there.items()}


def _representation(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the stages' representations look like, and what that says; None without a diagnosis."""
    found = read_diagnoses(run, rows)
    if not found:
        return None
    from medcl.reporting.representation import neighbour_figure, plane_figure, remarks, spectrum_figure

    last = list(found)[-1]
    with np.load(run.path / "diagnostics" / f"{last}.npz") as stored:
        pictures = {int(row): stored[row] for row in stored.files}
    return {
        "figures": [drawn for drawn in (plane_figure(found, last), spectrum_figure(found, last)) if drawn],
        "neighbours": neighbour_figure(found[last], pictures, last),
        "remarks": {stage: remarks(diagnosis) for stage, diagnosis in found.items()},
        "rows": {stage: number_row(diagnosis) for stage, diagnosis in found.items()},
        "columns": [label for label, _ in NUMBERS.values()],
    }


def number_row(diagnosis: Diagnosis) -> list[str]:
    """The numbers of a diagnosis in the order of :data:`NUMBERS`; a dash for one that it does not have."""
    return [
        form.format(diagnosis.numbers[name]) if name in diagnosis.numbers else "\N{EN DASH}"
        for name, (_, form) in NUMBERS.items()
    ]


def _records(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which records the run saw or held out, by manifest id."""
    return {name: list(facts[name]) for name in ("pool", "labelled", "validation", "test") if facts.get(name)}


def _modalities(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of an alignment: how many records of each part have each modality, what was left out and what else to know; None for other runs."""
    data = facts.get("data")
    if not data:
        return None
    notes = [f"{count} of {data['listed']} records left out: {reason}." for reason, count in data["left_out"].items()]
    if count := data["captions_from_labels"]:
        notes.append(f"{count} records without a report have a caption that was written from their labels.")
    if shared := data["shared_texts"]:
        alike = "equal or nearly equal to" if shared["near"] else "equal to"
        notes.append(f"{shared['held_out']} of {shared['of']} held-out texts are {alike} one of training.")
    return {"parts": list(next(iter(data["present"].values()))), "rows": data["present"], "notes": notes}


def _repeat(command: str, facts: Mapping[str, Any]) -> str:
    """The command as it was given; the same configuration in another folder where it came from a pipeline."""
    argv = [str(part) for part in facts.get("argv", [])]
    if argv[:1] == [command]:
        return shlex.join(["medcl", *argv])
    return f"medcl {command} config.yaml out=FOLDER"
