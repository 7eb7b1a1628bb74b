"""What classifiers say of records, and how good that is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medcl.config.align import ModalitiesConfig
from medcl.config.classification import ClassificationConfig
from medcl.encoders.classifier import Classifier
from medcl.evaluation.classification import (
    Statistic,
    mean_over_classes,
    mean_over_findings,
    score_classes,
    score_findings,
    weighted_average_precision,
)
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_statistic,
    difference_of_statistics,
    paired_difference,
)
from medcl.files import atomic_path
from medcl.inference.predictor import torch_device
from medcl.types import Array
from medcl.weights.alignment import AlignmentFile
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.encode import RecordEncoder

RANDOM = "from random weights"
_CLASS_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "mean AUROC"}
_MOST_FINDINGS = 14  # with a column each


@torch.no_grad()
def logits_of(
    classifier: Classifier,
    modalities: ModalitiesConfig,
    data: AlignmentData,
    ids: Sequence[str],
    device: torch.device,
    batch: int = 16,
) -> Array:
    """``(N, outputs)`` of the records ``ids``, from inputs as they are; NaN for a record that has nothing to tell from."""
    encoder = RecordEncoder(classifier.network, modalities, device, batch, title=None)
    whole, seen = torch.zeros(len(ids), classifier.head.in_features), torch.zeros(len(ids), dtype=torch.bool)
    start = 0
    for name, width in classifier.widths.items():
        for rows, inputs in encoder.inputs(name, data, ids):
            every = {other: torch.full((len(rows),), other == name, device=device) for other in classifier.names}
            found = classifier.features({name: inputs}, every)
            whole[rows, start : start + width] = found[:, start : start + width].cpu()
            seen[rows] = True
        start += width
    scores = classifier.head(whole.to(device)).cpu().double()
    return scores.masked_fill(~seen[:, None], torch.nan).numpy()


def probabilities_of(logits: Array, *, findings: bool) -> Array:
    """Of every class, or of each finding by itself, from logits ``(N, C)``."""
    scores = torch.from_numpy(logits)
    return (scores.sigmoid() if findings else scores.softmax(1)).numpy()


def mean_auroc(scores: Array, labels: Sequence[int | Array]) -> Statistic:
    """Over classes, of labels that are their numbers, or over findings ``(F,)`` 1, 0 or NaN."""
    truth = np.array(labels)
    return mean_over_classes(scores, truth) if truth.ndim == 1 else mean_over_findings(scores, truth)


def score_classifiers(
    config: ClassificationConfig,
    part: str,
    held_out: Sequence[str],
    data: AlignmentData,
    classes: Sequence[str],
    labels: dict[str, int | Array],
    labelled: int,
    alignment: AlignmentFile,
    trained: dict[str, Classifier],
    folder: Path,
) -> MethodScores:
    """The run beside the same network from random weights, on the same records."""
    device = torch_device(config.trainer.device)
    found = {
        name: logits_of(one.to(device), alignment.card.modalities, data, held_out, device, config.batch)
        for name, one in trained.items()
    }
    truth = [labels[record_id] for record_id in held_out]
    subjects = [data.manifest.by_id(record_id).subject for record_id in held_out]
    told = probabilities_of(found["this run"], findings=bool(config.findings))
    write_classes(folder / "predictions.csv", held_out, classes, told, truth)
    if config.findings:
        metrics, scores = _finding_scores(classes, found, np.array(truth), subjects)
    else:
        metrics, scores = _class_scores(found, np.array(truth), subjects)
    differences: dict[str, dict[str, PairedDifference]] = {}
    if RANDOM in found:
        own, other = found["this run"], found[RANDOM]
        differences[RANDOM] = {
            "auroc": difference_of_statistics(
                mean_auroc(own, truth), mean_auroc(other, truth), subjects, seed=config.seed
            )
        }
        if not config.findings:
            right = [(scores.argmax(1) == np.array(truth)).astype(float) for scores in (own, other)]
            differences[RANDOM]["accuracy"] = paired_difference(*right, subjects, seed=config.seed)
    notes = [f"{config.steps} steps on the labels of {labelled} training records."]
    if seen := len(set(held_out) & set(alignment.card.records)):
        notes.append(
            f"Seen in the training of the alignment (seen_in_pretraining; its inputs, no labels): {seen} of these {len(held_out)}."
        )
    report = alignment.card.modalities.report
    if RANDOM in found and "report" in trained[RANDOM].names and report is not None and report.encoder.name != "bert":
        notes.append("The text network of the network from random weights is the pretrained one.")
    return MethodScores(
        title=f"{config.target or 'findings'} of {len(held_out)} {part} records by {' and '.join(trained['this run'].names)}",
        part=part,
        records=list(held_out),
        metrics=metrics,
        scores=scores,
        differences=differences,
        notes=notes,
    )


def _class_scores(
    found: dict[str, Array], truth: Array, subjects: Sequence[str]
) -> tuple[dict[str, str], dict[str, dict[str, Interval]]]:
    scores = {}
    for name, logits in found.items():
        told = score_classes(logits, truth, subjects)
        scores[name] = {metric: getattr(told, metric) for metric in _CLASS_METRICS}
    return _CLASS_METRICS, scores


def _finding_scores(
    classes: Sequence[str], found: dict[str, Array], truth: Array, subjects: Sequence[str]
) -> tuple[dict[str, str], dict[str, dict[str, Interval]]]:
    metrics = {"auroc": "mean AUROC", "auprc": "mean AUPRC"}
    if len(classes) <= _MOST_FINDINGS:
        metrics |= {f"auroc/{name}": f"AUROC, {name}" for name in classes}
    scores = {}
    for method, logits in found.items():
        scores[method] = {
            "auroc": bootstrap_statistic(mean_over_findings(logits, truth), subjects),
            "auprc": bootstrap_statistic(mean_over_findings(logits, truth, weighted_average_precision), subjects),
        }
        if len(classes) <= _MOST_FINDINGS:
            each = score_findings(logits, truth, subjects)
            scores[method] |= {f"auroc/{name}": interval for name, interval in zip(classes, each, strict=True)}
    return metrics, scores


def write_classes(
    path: Path,
    ids: Sequence[str],
    classes: Sequence[str],
    probabilities: Array,
    truth: Sequence[int | Array] | None = None,
) -> None:
    """Write a row a record and class: its probability, blank where there was nothing to tell from, and, with ``truth``, 1, 0 or blank."""
    with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "class", "probability", *(["true"] if truth is not None else [])])
        for row, (record_id, values) in enumerate(zip(ids, probabilities, strict=True)):
            for number, (name, value) in enumerate(zip(classes, values, strict=True)):
                told = "" if np.isnan(value) else f"{value:.6g}"
                writer.writerow([record_id, name, told, *([_truth(truth[row], number)] if truth is not None else [])])


def _truth(label: int | Array, number: int) -> str:
    value = float(np.asarray(label)[number]) if np.ndim(label) else float(label == number)
    return "" if np.isnan(value) else str(int(value))
