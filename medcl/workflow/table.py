"""The files of a study's results: the table in three formats, and the scores of every case."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from medcl.evaluation.scores import without_nan
from medcl.files import write_json, write_text
from medcl.reporting.page import worth
from medcl.workflow.study import Row, Scored


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``table.csv``, ``table.json`` and ``table.md`` to ``folder``."""
    write_json(folder / "table.json", without_nan([asdict(row) for row in rows]))
    write_text(folder / "table.csv", _csv([field.name for field in fields(Row)], [asdict(row) for row in rows]))
    write_text(folder / "table.md", markdown(rows))


def write_cases(folder: Path, scored: Scored) -> None:
    """Write ``cases.csv`` to ``folder``: a row for every scored record of every cell, ``dice_NAME`` for each class.

    An empty field is a score that does not exist: the class is in neither mask.
    """
    names = list(dict.fromkeys(name for scores in scored.values() for name in scores.labels.values()))
    rows: list[dict[str, Any]] = []
    for cell, scores in scored.items():
        place = {
            "arm": cell.arm,
            "labelled": cell.labelled,
            "subset": cell.subset,
            "seed": cell.seed,
            "steps": cell.config.steps,
        }
        for case in scores.cases:
            classes = {f"dice_{name}": case.value("dice", label) for label, name in scores.labels.items()}
            means = {metric: case.value(metric) for metric in ("dice", "hd95_mm", "surface_dice")}
            rows.append({**place, "record": case.id, **without_nan({**classes, **means})})
    columns = ["arm", "labelled", "subset", "seed", "steps", "record", *(f"dice_{name}" for name in names)]
    write_text(folder / "cases.csv", _csv([*columns, "dice", "hd95_mm", "surface_dice"], rows))


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown: Dice in fractions, differences in Dice points (hundredths); bold where a row is the best for sure."""
    several = len({(row.arm, row.labelled) for row in rows}) < len(rows)
    titles = {
        "labelled": "---:",
        **({"steps": "---:"} if several else {}),
        "arm": ":---",
        "pool": ":---",
        "Dice ± SD": ":---",
        "95 % interval": ":---",
        "difference in points [95 %]": ":---",
        "worth in labels [95 %]": ":---",
        "share of all labels": "---:",
        "CPU min, pretraining + fine-tuning": ":---",
        "steps, pretraining + fine-tuning": ":---",
        "subsets x seeds": "---:",
    }
    lines = [_line(titles), _line(titles.values())]
    for row in rows:
        spread = f"{row.dice:.3f}" + (f" ± {row.sd:.3f}" if row.sd is not None else "")
        lines.append(
            _line(
                [
                    str(row.labelled),
                    *([str(row.steps)] if several else []),
                    row.label,
                    row.pool or "",
                    f"**{spread}**" if row.best else spread,
                    f"{row.low:.3f} to {row.high:.3f}",
                    _difference(row),
                    _worth(row),
                    f"{100 * row.share:.1f} %" if row.share is not None else "",
                    f"{_minutes(row.pretrain_cpu_minutes)} + {_minutes(row.finetune_cpu_minutes)}",
                    f"{row.pretrain_steps} + {row.finetune_steps}",
                    f"{row.subsets} x {row.seeds}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(columns: list[str], rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _minutes(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


def _worth(row: Row) -> str:
    if row.worth is None or row.worth == row.worth_low == row.worth_high:
        return "" if row.worth is None else worth(row.worth)
    return f"{worth(row.worth)} [{worth(row.worth_low)}, {worth(row.worth_high)}]"


def _difference(row: Row) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ""
    return f"{100 * row.difference:+.1f} [{100 * row.difference_low:+.1f}, {100 * row.difference_high:+.1f}]"
