"""Which records a study trains on and which it holds out, and the scores of those."""

from __future__ import annotations

from pathlib import Path

from medcl.config.data import DataConfig
from medcl.config.pipeline import StudyEvaluateConfig
from medcl.config.split import read_split
from medcl.errors import DataError
from medcl.evaluation import segmentation
from medcl.records.layouts import open_data
from medcl.records.parts import parts_of
from medcl.workflow.cells import StudyData
from medcl.workflow.plan import Plan, digest


def study_data(plan: Plan) -> StudyData:
    """The records of each part and of every labelled subset. Raises DataError where there are too few."""
    config = plan.data
    manifest = open_data(config.path, config.labels)
    parts = parts_of(manifest, config, labels=False)
    places = {
        "all" if cell.labelled == "all" else f"n{cell.labelled}-s{cell.subset}": cell.config.data for cell in plan.cells
    }
    subsets = {place: parts_of(manifest, data).labelled for place, data in places.items()}
    known = manifest.digest
    if config.split is not None:
        known = digest(known, read_split(config.split).model_dump(mode="json"))
    everyone = subsets.get("all", parts.train)
    labels = len({manifest.by_id(each).subject for each in everyone} if config.count == "subjects" else everyone)
    return StudyData(
        known, parts.train, parts.validation, parts.test, subsets, parts.pool, parts.prepared, labels, parts.notes
    )


def evaluate_records(
    masks: Path, data: DataConfig, ids: tuple[str, ...], out: Path, config: StudyEvaluateConfig
) -> None:
    """Score the masks of ``ids`` into ``out``; DataError where one is missing, for a mean over fewer would mislead."""
    manifest = open_data(data.path, data.labels)
    names = {value: name for value, name in manifest.label_names.items() if value != 0}
    truth = data.path if data.labels is None else data.labels
    found = segmentation.evaluate(masks, truth, labels=names or None, tolerance=config.tolerance, ids=ids)
    if found.missing:
        raise DataError(f"{masks}: no prediction for {', '.join(found.missing[:5])}; run the same command again")
    found.write(out)
