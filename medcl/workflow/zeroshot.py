"""`medcl zeroshot`: classes told by prompts alone, and how good that is on held-out records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from medcl.config.alignment_use import Scoring, ZeroshotConfig
from medcl.config.prompts import PromptBank, read_prompts
from medcl.errors import ConfigError
from medcl.evaluation.classification import score_classes
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.statistics import Interval, bootstrap_mean
from medcl.evaluation.zero_shot import choose_thresholds, prompt_scores, score_all_findings, standardised
from medcl.files import write_json
from medcl.reporting.alignment_page import methods_table, write_alignment_page
from medcl.types import Array
from medcl.workflow.alignment_data import AlignmentData, has
from medcl.workflow.joint_space import JointSpace, ids_of
from medcl.workflow.prompt_targets import check_prompt_targets, truth_of

_FINDINGS = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "accuracy": "accuracy"}
_CLASSES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


def zeroshot(config: ZeroshotConfig) -> dict[str, MethodScores]:
    """Scores by modality; written as JSON and a page to ``config.out``, if given.

    Raises ConfigError where the weights read no texts, nothing is held out, or no record has a target of the prompts.
    """
    space, bank = JointSpace.of(config), read_prompts(config.prompts)
    space.require(["report"], "prompts")
    names = config.modalities or tuple(name for name in space.modalities if name != "report")
    space.require(names, "modalities")
    scoring = config.scoring or ("pos_neg" if bank.has_negatives else "mean_ensemble")
    if scoring == "pos_neg" and not bank.has_negatives:
        raise ConfigError(f"scoring: pos_neg needs negatives of every class, and {config.prompts} lacks some")
    teller = _Teller(space, bank, scoring, config.standardise)
    with space.opened(config.data, config.part) as data:
        ids = ids_of(data, config.part)
        check_prompt_targets(bank, data.records(ids), config)
        codes = space.codes(data, ids, modalities=names)
        seen = dict(zip(ids, space.seen(data, ids), strict=True))
        every = space.codes(data, data.split.validation, modalities=names) if bank.kind == "findings" else None
        patterns = _patterns(data, ids, space)
        found = {}
        for name in names:
            rows = codes.present[name].nonzero().flatten()
            own = codes.select([ids[row] for row in rows.tolist()])
            if not own.ids:
                continue
            told = _findings if bank.kind == "findings" else _one_of
            scores = told(teller, name, own, every, data, config, patterns)
            if scores is not None:
                count = sum(seen[record_id] for record_id in scores.records)
                found[name] = _with_notes(scores, teller, count)
    if not found:
        raise ConfigError(
            f"part: no {config.part} record has both a target of {config.prompts} and {' or '.join(names)}"
        )
    if config.out is not None:
        write_json(config.out, {name: scores.as_dict() for name, scores in found.items()})
        tables = [methods_table(scores, "class") for scores in found.values()]
        title = f"Zero-shot classification by {config.weights}"
        write_alignment_page(
            config.out.with_suffix(".html"), title, "zeroshot", tables, notes=[bank.about] if bank.about else []
        )
    return found


class _Teller:
    """The prompts of ``bank`` as codes, and what they say of other codes."""

    def __init__(self, space: JointSpace, bank: PromptBank, scoring: Scoring, standardise: bool) -> None:
        self.bank, self.scoring, self.standardise = bank, scoring, standardise
        self.prompts = [space.texts(_stripped(entry.prompts)) for entry in bank.classes.values()]
        self.negatives = None
        if scoring == "pos_neg":
            self.negatives = [space.texts(_stripped(entry.negatives)) for entry in bank.classes.values()]

    def scores(self, codes: Tensor) -> Array:
        """``(N, C)``."""
        found = prompt_scores(codes, self.prompts, scoring=self.scoring, negatives=self.negatives)
        return (standardised(found) if self.standardise else found).double().numpy()


def _findings(
    teller: _Teller,
    name: str,
    codes: JointCodes,
    validation: JointCodes | None,
    data: AlignmentData,
    config: ZeroshotConfig,
    patterns: dict[str, str],
) -> MethodScores | None:
    """AUROC and AUPRC of every class, and accuracy and F1 at thresholds of the validation records; None without any known truth."""
    truth = truth_of(teller.bank, data.records(codes.ids))
    if np.isnan(truth).all():
        return None
    scores, notes = teller.scores(codes.codes[name]), []
    thresholds = None
    if validation is not None and bool(validation.present[name].any()) and config.part != "validation":
        kept = validation.present[name].nonzero().flatten()
        records = data.records([validation.ids[row] for row in kept.tolist()])
        thresholds = choose_thresholds(teller.scores(validation.codes[name][kept]), truth_of(teller.bank, records))
        notes.append(f"F1 and accuracy at thresholds of the best F1 on {len(records)} validation records.")
    else:
        notes.append("No F1 and accuracy: there are no validation records to choose thresholds on (data.validation).")
    subjects = list(codes.subjects)
    found = score_all_findings(scores, truth, subjects, thresholds=thresholds, seed=config.seed)
    rows: dict[str, dict[str, Interval]] = {
        "macro mean": {"auroc": found.macro_auroc, "auprc": found.macro_auprc},
        "micro mean": {"auroc": found.micro_auroc, "auprc": found.micro_auprc},
    }
    for place, label in enumerate(teller.bank.classes):
        rows[label] = {"auroc": found.auroc[place], "auprc": found.auprc[place]}
        if thresholds is not None:
            rows[label] |= {"f1": found.f1[place], "accuracy": found.accuracy[place]}
    for pattern, mask in _by_pattern(codes.ids, patterns).items():
        if not np.isnan(truth[mask]).all():
            part = score_all_findings(
                scores[mask], truth[mask], [s for s, own in zip(subjects, mask, strict=True) if own]
            )
            rows[f"macro mean, records with {pattern}"] = {"auroc": part.macro_auroc, "auprc": part.macro_auprc}
    if absent := [
        label for label, column in zip(teller.bank.classes, truth.T, strict=True) if not (column > 0.5).any()
    ]:
        notes.append(f"Without a positive record, and in no macro mean: {', '.join(absent)}.")
    unknown = int(np.isnan(truth).sum())
    if unknown:
        notes.append(f"{unknown} of {truth.size} truths are unknown or uncertain and left out.")
    return _scores(name, codes.ids, config, _FINDINGS, rows, notes)


def _one_of(
    teller: _Teller,
    name: str,
    codes: JointCodes,
    validation: JointCodes | None,
    data: AlignmentData,
    config: ZeroshotConfig,
    patterns: dict[str, str],
) -> MethodScores | None:
    """Accuracy and AUROC where each record is of one class; None where no record is of any."""
    bank = teller.bank
    numbers = {
        value: place for place, (label, entry) in enumerate(bank.classes.items()) for value in entry.values or (label,)
    }
    said = [str(record.fact(bank.target or "")) for record in data.records(codes.ids)]
    kept = [row for row, value in enumerate(said) if value in numbers]
    if not kept:
        return None
    own = codes.select([codes.ids[row] for row in kept])
    labels, subjects = np.array([numbers[said[row]] for row in kept]), list(own.subjects)
    scores = teller.scores(own.codes[name])
    found = score_classes(scores, labels, subjects, seed=config.seed)
    right = scores.argmax(1) == labels
    rows = {"all": {metric: getattr(found, metric) for metric in _CLASSES}}
    for place, label in enumerate(bank.classes):
        mask = labels == place
        rows[label] = {"accuracy": bootstrap_mean(right[mask], [s for s, m in zip(subjects, mask, strict=True) if m])}
    for pattern, mask in _by_pattern(own.ids, patterns).items():
        rows[f"records with {pattern}"] = {
            "accuracy": bootstrap_mean(right[mask], [s for s, m in zip(subjects, mask, strict=True) if m])
        }
    most = np.bincount(labels).max() / len(labels)
    notes = [f"Always naming the most frequent class is right in {most:.0%}."]
    if absent := [label for place, label in enumerate(bank.classes) if not (labels == place).any()]:
        notes.append(f"Without a record: {', '.join(absent)}.")
    if left := len(said) - len(kept):
        notes.append(f"{left} records are of none of the classes and left out.")
    return _scores(name, own.ids, config, _CLASSES, rows, notes)


def _scores(
    name: str,
    ids: Sequence[str],
    config: ZeroshotConfig,
    metrics: dict[str, str],
    rows: dict[str, dict[str, Interval]],
    notes: list[str],
) -> MethodScores:
    kept = {metric: title for metric, title in metrics.items() if any(metric in row for row in rows.values())}
    return MethodScores(
        title=f"{name} told by prompts: {len(ids)} records (part: {config.part})",
        part=config.part,
        records=ids,
        metrics=kept,
        scores=rows,
        notes=notes,
    )


def _with_notes(scores: MethodScores, teller: _Teller, seen: int) -> MethodScores:
    """With what holds for every modality: how prompts were used, and which records the weights had seen."""
    prompts = sum(len(rows) for rows in teller.prompts)
    notes = [f"Scoring {teller.scoring} of {prompts} prompts.", *scores.notes]
    if teller.standardise:
        notes.append("Scores were standardised over the scored records themselves.")
    notes.append(
        f"Seen in pretraining (seen_in_pretraining): {seen} of {len(scores.records)} records"
        + ("; these numbers are no estimate for new records." if seen else ".")
    )
    return MethodScores(**{**vars(scores), "notes": notes})


def _patterns(data: AlignmentData, ids: Sequence[str], space: JointSpace) -> dict[str, str]:
    return {record.id: "+".join(name for name in space.modalities if has(record, name)) for record in data.records(ids)}


def _by_pattern(ids: Sequence[str], patterns: dict[str, str]) -> dict[str, Array]:
    """Masks by what records have; none where all have the same."""
    own = np.array([patterns[record_id] for record_id in ids])
    names = np.unique(own)
    return {str(name): own == name for name in names} if len(names) > 1 else {}


def _stripped(texts: Sequence[str]) -> list[str]:
    return [text.strip().rstrip(".?!") for text in texts]
