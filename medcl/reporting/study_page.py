"""The page of a study: what was found, how sure that is, what it looks like, and how to repeat it."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from markupsafe import Markup

from medcl import __version__
from medcl.errors import MedclError
from medcl.records.layouts import open_data
from medcl.records.names import is_image
from medcl.records.record import Record
from medcl.reporting.budget import steps_figure, worth_figure
from medcl.reporting.curves import FINETUNING, PRETRAINING, Line, curve_figure, run_curves
from medcl.reporting.efficiency import difference_figure, efficiency_figure, series_of
from medcl.reporting.figures import write_svg
from medcl.reporting.niivue import has_niivue
from medcl.reporting.overlays import PREDICTION, TRUTH, Overlay, overlay_figure
from medcl.reporting.page import environment_facts, write_html
from medcl.reporting.representation import spectrum_figure
from medcl.reporting.run_page import NUMBERS, number_row, read_diagnoses
from medcl.reporting.viewer import write_view
from medcl.runs import RunFolder

log = logging.getLogger(__name__)

Study = Mapping[str, Any]

_VIEW_MB = 100
"""Of a case's own page: three of them lie beside every study."""


def write_study_page(run: RunFolder) -> Path:
    """Write ``page.html`` and the plots of a pipeline's folder from what lies in it; return the page's path.

    The overlays need the images, which stay where they were; where they are gone, the page says so.
    """
    study: Study = json.loads((run.path / "study.json").read_text(encoding="utf-8"))
    facts = run.read_facts()
    trained = fully_trained(study)
    efficiency = efficiency_figure(trained) if study["rows"] else None
    difference = difference_figure(trained)
    worth = worth_figure(trained)
    steps = {count: drawn for count in study["labelled"] if (drawn := steps_figure(study, count)) is not None}
    named = {"label_efficiency": efficiency, "differences": difference, "label_worth": worth}
    for name, drawn in (named | {f"steps_{count}": drawn for count, drawn in steps.items()}).items():
        if drawn is not None:
            write_svg(run.path / "figures" / f"{name}.svg", drawn)
    best = best_row(trained)
    shown = shown_cell(study)
    return write_html(
        run.page,
        "study.html.j2",
        title=study["title"],
        simulated=study["simulated"],
        version=__version__,
        study=study,
        started=str(facts.get("started", ""))[:10],
        best=best,
        reference=_row(trained, study["baseline"], study["at"]),
        efficiency=efficiency,
        difference=difference,
        worth=worth,
        steps=list(steps.values()),
        several_steps=len(study["steps"] or ()) > 1,
        groups=_groups(study),
        pools=len({row["pool"] for row in study["rows"]} - {None}) > 1,
        pool_size=len(study["data"]["pool"]),
        shares=any(row["share"] is not None for row in study["rows"]),
        series=series_of(list(study["arms"]), study["baseline"]),
        pretraining=_pretraining(run, study),
        representations=_representations(run, study),
        finetuning=_finetuning(run, study),
        shown=shown,
        cases=_cases(run, study, shown) if shown else [],
        outlines={"truth": TRUTH, "prediction": PREDICTION},
        stages=_stages(run, study),
        environment=environment_facts(facts),
        repeat=_repeat(facts),
        use=_use(shown["folder"]) if shown and study["keep"] == "all" else None,
        config=run.config.read_text(encoding="utf-8"),
    )


def _use(folder: str) -> str:
    return f"medcl predict {folder} scan.nii.gz --out masks/\nmedcl view scan.nii.gz masks/scan.nii.gz"


def fully_trained(study: Study) -> Study:
    """The study without the rows of shorter fine-tunings, where its grid has several numbers of steps."""
    return {
        **study,
        "rows": [row for row in study["rows"] if not study["steps"] or row["steps"] == max(study["steps"])],
    }


def best_row(study: Study) -> Mapping[str, Any] | None:
    """The row with the highest Dice at the headline's labelled count, else of all rows."""
    rows = [row for row in study["rows"] if row["labelled"] == study["at"]] or study["rows"]
    return max(rows, key=lambda row: row["dice"], default=None)


def _row(study: Study, arm: str, count: Any) -> Mapping[str, Any] | None:
    return next((row for row in study["rows"] if (row["arm"], row["labelled"]) == (arm, count)), None)


def _groups(study: Study) -> list[list[dict[str, Any]]]:
    """The table's rows by labelled count and, in a grid of steps, by these."""
    groups = []
    for count in study["labelled"]:
        for steps in sorted(study["steps"] or ()) or (None,):
            rows = [row for row in study["rows"] if row["labelled"] == count and steps in (None, row["steps"])]
            groups += [rows] if rows else []
    return groups


def _owner(study: Study, entry: Mapping[str, Any]) -> str:
    """Whose pretraining it is, and what it saw if that was a labelled subset only."""
    arms = ", ".join(study["arms"][arm] for arm in entry["arms"])
    return arms if entry["pool"] == "fixed" else f"{arms}, {entry['labelled']} labelled, subset {entry['subset']}"


def _pretraining(run: RunFolder, study: Study) -> list[dict[str, Any]]:
    shown = []
    for entry in study["pretrainings"]:
        folder = RunFolder(run.path / entry["folder"])
        owner = _owner(study, entry)
        figures = run_curves(folder.read_metrics(), PRETRAINING, f"pretraining of {owner}")
        if figures:
            shown.append({"owner": owner, "folder": entry["folder"], "figures": figures})
    return shown


def _representations(run: RunFolder, study: Study) -> dict[str, Any] | None:
    """After every pretraining: its cost and what its last stage's representation is like. None without a diagnosis."""
    rows, diagnoses = [], {}
    for entry in study["pretrainings"]:
        folder = RunFolder(run.path / entry["folder"])
        metrics, facts = folder.read_metrics(), folder.read_facts() if folder.facts.is_file() else {}
        found = read_diagnoses(folder, metrics)
        if not found:
            continue
        owner = _owner(study, entry)
        last = diagnoses[owner] = list(found.values())[-1]
        speeds = sorted(row["steps_per_second"] for row in metrics if "steps_per_second" in row)
        rows.append(
            {
                "owner": owner,
                "milliseconds": 1000 / speeds[len(speeds) // 2] if speeds else None,
                "memory": facts.get("peak_memory_mib"),
                "numbers": number_row(last),
            }
        )
    if not rows:
        return None
    return {
        "rows": rows,
        "columns": [label for label, _ in NUMBERS.values()],
        "spectrum": spectrum_figure(diagnoses, study["title"]),
    }


def _finetuning(run: RunFolder, study: Study) -> list[Markup]:
    """The loss of every cell, a panel for each labelled count."""
    series = series_of(list(study["arms"]), study["baseline"])
    panels = []
    for count in study["labelled"]:
        for panel in FINETUNING:
            lines = []
            for cell in study["cells"]:
                if cell["labelled"] != count:
                    continue
                (column,) = panel.columns
                rows = [row for row in RunFolder(run.path / cell["folder"]).read_metrics() if column in row]
                if rows:
                    points = ([row["step"] for row in rows], [row[column] for row in rows])
                    lines.append(Line(study["arms"][cell["arm"]], *points, series[cell["arm"]]))
            if lines:
                panels.append(
                    curve_figure(
                        panel, lines, f"{count} labelled", title=f"{panel.title}, {count} labelled", overlaid=True
                    )
                )
    return panels


def shown_cell(study: Study) -> Mapping[str, Any] | None:
    """The cell whose masks are shown: of the best row, the one of median Dice, so that it flatters nobody."""
    best = best_row(fully_trained(study))
    if best is None:
        return None
    cells: list[Mapping[str, Any]] = [
        cell
        for cell in study["cells"]
        if cell["dice"] and all(cell[key] == best[key] for key in ("arm", "labelled", "steps"))
    ]
    cells.sort(key=lambda cell: _mean(cell["dice"].values()))
    return cells[(len(cells) - 1) // 2]


def _cases(run: RunFolder, study: Study, cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best, the median and the worst case of ``cell``, with the baseline's score on the same case."""
    ranked = sorted((value, case) for case, value in cell["dice"].items() if value is not None)
    if not ranked:
        return []
    chosen = {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}
    data = yaml.safe_load(run.config.read_text(encoding="utf-8"))["data"]
    rival: Mapping[str, float] = next(
        (
            other["dice"]
            for other in study["cells"]
            if other["dice"]
            and other["arm"] == study["baseline"] != cell["arm"]
            and all(other[key] == cell[key] for key in ("labelled", "subset", "seed", "steps"))
        ),
        {},
    )
    shown = []
    try:
        manifest = open_data(Path(data["path"]), data["labels"] and Path(data["labels"]))
        for rank, (value, case) in chosen.items():
            record = manifest.by_id(case)
            if record.label is None:
                continue
            kind = "png" if is_image(record.volume[0]) else "nii.gz"
            prediction = run.path / cell["folder"] / "masks" / f"{case}.{kind}"
            drawn = overlay_figure(Overlay(case, record.volume, record.label, prediction, value))
            view = _view(run, record, prediction)
            found = {"rank": rank, "id": case, "dice": value, "baseline": rival.get(case), "figure": drawn}
            shown.append({**found, "view": view and quote(view.relative_to(run.path).as_posix())})
    except MedclError as error:
        log.warning("the page has no pictures of cases: %s", error)
    return shown


def _view(run: RunFolder, record: Record, prediction: Path) -> Path | None:
    """A page of `medcl view` with the case, of several files of channels the first; None where the viewer is not installed or refuses it."""
    if not has_niivue() or record.label is None:
        return None
    page = run.path / "views" / f"{record.id.replace('/', '_')}.view.html"
    page.parent.mkdir(exist_ok=True)
    masks = [("truth", record.label), ("prediction", prediction)]
    try:
        return write_view(record.volume[0], masks, out=page, name=record.id, limit_mb=_VIEW_MB).path
    except MedclError as error:
        log.warning("%s has no page in the viewer: %s", record.id, error)
        return None


def _stages(run: RunFolder, study: Study) -> list[dict[str, Any]]:
    """How many runs of each kind there were, and the time they took."""
    shown = []
    for name, entries in (("pretraining", study["pretrainings"]), ("fine-tuning", study["cells"])):
        times = []
        for entry in entries:
            folder = RunFolder(run.path / entry["folder"])
            if folder.is_finished():
                times.append(float(folder.read_facts().get("wall_seconds", 0.0)))
        if entries:
            shown.append({"name": name, "runs": len(entries), "finished": len(times), "seconds": sum(times)})
    return shown


def _repeat(facts: Mapping[str, Any]) -> str:
    argv = [str(part) for part in facts.get("argv", [])]
    return shlex.join(["medcl", *argv]) if argv and argv[0] in ("run", "demo") else "medcl run config.yaml"


def _mean(values: Sequence[float | None] | Any) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("-inf")
