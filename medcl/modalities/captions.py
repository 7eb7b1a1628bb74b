"""Captions written from labels, for images without a report (UniMed-CLIP's idea; the wording is this project's own).

A caption states what its labels state: present findings as present, uncertain ones as uncertain, and never a finding that is
absent or was not mentioned. Such a sentence is generated text, and whoever uses it should say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medcl.config.captions import CaptionsConfig
from medcl.errors import DataError
from medcl.records.chexpert_labels import ABSENT, NO_FINDING, PRESENT, UNCERTAIN
from medcl.records.record import Record
from medcl.seeds import derive_seed

MOST_FINDINGS = 3
"""How many present findings one caption joins."""

_PRESENT = (
    "{modality} of the {anatomy} showing {findings}.",
    "{modality} of the {anatomy} with {findings}.",
    "{modality} of the {anatomy} demonstrating {findings}.",
    "The {anatomy} {modality} shows {findings}.",
    "The {anatomy} {modality} reveals {findings}.",
    "There is evidence of {findings} on this {anatomy} {modality}.",
    "Findings on this {anatomy} {modality} include {findings}.",
    "A patient with {findings}, seen on {modality} of the {anatomy}.",
    "{findings} on {modality} of the {anatomy}.",
    "{modality} of the {anatomy}: {findings}.",
)
_UNCERTAIN = (
    "{modality} of the {anatomy} with possible {findings}.",
    "{modality} of the {anatomy}, which may show {findings}.",
    "The {anatomy} {modality} raises the question of {findings}.",
    "Possible {findings} on {modality} of the {anatomy}.",
    "Suspected {findings} on this {anatomy} {modality}.",
    "{modality} of the {anatomy}: {findings} cannot be confirmed.",
    "Equivocal appearance of {findings} on {modality} of the {anatomy}.",
    "{modality} of the {anatomy} suspicious for {findings}.",
    "Uncertain {findings} on this {anatomy} {modality}.",
    "{findings} is possible on this {modality} of the {anatomy}.",
)
_ADDED_UNCERTAIN = ("Possible {findings}.", "There may be {findings}.", "Uncertain finding of {findings}.")
_NOTHING = (
    "{modality} of the {anatomy} without abnormality.",
    "Normal {modality} of the {anatomy}.",
    "The {anatomy} {modality} is normal.",
    "Unremarkable {modality} of the {anatomy}.",
    "{modality} of the {anatomy} within normal limits.",
    "This {anatomy} {modality} shows nothing abnormal.",
    "A healthy {anatomy} on {modality}.",
    "There is no abnormality on this {anatomy} {modality}.",
    "Regular appearance of the {anatomy} on {modality}.",
    "{modality} of the {anatomy}: nothing abnormal.",
)
_SILENT = ("{modality} of the {anatomy}.", "A {anatomy} {modality}.", "An image of the {anatomy}: {modality}.")
_STATES = (PRESENT, ABSENT, UNCERTAIN)


@dataclass(frozen=True)
class Templates:
    """Sentences with {modality}, {anatomy} and, where findings are ``present`` or ``uncertain``, {findings}."""

    present: tuple[str, ...] = _PRESENT
    uncertain: tuple[str, ...] = _UNCERTAIN
    healthy: tuple[str, ...] = _NOTHING
    silent: tuple[str, ...] = _SILENT


TEMPLATES = Templates()
"""medcl's own wording."""


@dataclass(frozen=True)
class LabelCaptions:
    """The captions that ``config`` writes for records, from the ``labels`` of each (by record id)."""

    config: CaptionsConfig
    labels: Mapping[str, Mapping[str, float]]

    def all(self, record_id: str) -> tuple[str, ...]:
        """Every caption of a record; the first one is what evaluation reads."""
        return captions_by(self.config, self.labels[record_id])

    def draw(self, record_id: str, seed: int) -> str:
        """One of them, by ``seed``; of more findings than fit, which ones is drawn too."""
        draw = np.random.default_rng(derive_seed("caption", seed))
        labels = self.labels[record_id]
        names = list(labels)
        found = captions_by(self.config, {names[n]: labels[names[n]] for n in draw.permutation(len(names))})
        return found[draw.integers(len(found))]


def label_captions(records: Iterable[Record], config: CaptionsConfig) -> LabelCaptions:
    """The captions of those of ``records`` that have a label of ``config``: a target of its name, or a target whose text is its name.

    DataError lists every record with a label that is not 1, 0 or -1.
    """
    found, problems = {}, []
    for record in records:
        own = {}
        for name, value in record.targets.items():
            if name in config.labels:
                own[name] = value
            elif value in config.labels:
                own[str(value)] = PRESENT
        problems += [
            f"record {record.id}: {name} is {value!r}; a label is 1, 0, -1 or blank"
            for name, value in own.items()
            if value not in _STATES
        ]
        if own:
            found[record.id] = {name: float(value) for name, value in own.items() if value in _STATES}
    if problems:
        raise DataError(problems)
    return LabelCaptions(config, found)


def captions_by(config: CaptionsConfig, labels: Mapping[str, float]) -> tuple[str, ...]:
    """:func:`captions` in the words of ``config``, and the whole captions of a label that alone is present."""
    given = {
        "present": config.present,
        "uncertain": config.uncertain,
        "healthy": config.healthy,
        "silent": config.silent,
    }
    found = captions(
        labels,
        modality=config.modality,
        anatomy=config.anatomy,
        phrases={name: wording.phrase for name, wording in config.labels.items() if wording.phrase},
        most=config.most,
        normal=config.normal,
        templates=replace(TEMPLATES, **{name: texts for name, texts in given.items() if texts}),
    )
    stated = [name for name, value in labels.items() if value != ABSENT]
    whole = config.labels[stated[0]].captions if len(stated) == 1 and labels[stated[0]] == PRESENT else ()
    return found + whole


def captions(
    labels: Mapping[str, float],
    *,
    modality: str,
    anatomy: str,
    phrases: Mapping[str, str] | None = None,
    most: int = MOST_FINDINGS,
    normal: str | None = NO_FINDING,
    templates: Templates = TEMPLATES,
) -> tuple[str, ...]:
    """Every caption that ``labels`` (name: 1 present, 0 absent, -1 uncertain; no entry: not mentioned) can have.

    ``modality`` ("X-ray"), ``anatomy`` ("chest") and the ``phrases`` by label name (else the name in lower case) fill the
    ``templates``. The first ``most`` present findings are joined; uncertain ones, at most as many, follow in a hedged sentence, or
    stand alone where none is present. The label ``normal`` has wordings of its own, used only where nothing is present or uncertain;
    a record whose labels state nothing at all gets a caption that names the image only.
    Raises ValueError for other label values.
    """
    if wrong := [name for name, value in labels.items() if value not in _STATES]:
        raise ValueError(f"labels must be 1, 0 or -1; wrong for {', '.join(wrong)}")
    words = phrases or {}
    found = {
        state: [words.get(name, name.lower()) for name, value in labels.items() if value == state and name != normal]
        for state in (PRESENT, UNCERTAIN)
    }
    present, uncertain = _joined(found[PRESENT][:most], "and"), _joined(found[UNCERTAIN][:most], "or")
    hedges = [text.format(findings=uncertain) for text in _ADDED_UNCERTAIN] if uncertain else []
    if present:
        texts = _filled(templates.present, modality, anatomy, present)
        return tuple(f"{text} {hedge}" for text in texts for hedge in hedges) or tuple(texts)
    if uncertain:
        return tuple(_filled(templates.uncertain, modality, anatomy, uncertain))
    healthy = normal is not None and labels.get(normal) == PRESENT
    return tuple(_filled(templates.healthy if healthy else templates.silent, modality, anatomy, ""))


def label_sentence(labels: Mapping[str, float | str]) -> str:
    """MoRE's stand-in for an empty report: "A, B is present. uncertain finding of C"; empty where the labels state neither."""
    named = {state: ", ".join(n for n, v in labels.items() if v == state) for state in (PRESENT, UNCERTAIN)}
    parts = [f"{named[PRESENT]} is present."] if named[PRESENT] else []
    return " ".join(parts + ([f"uncertain finding of {named[UNCERTAIN]}"] if named[UNCERTAIN] else []))


def report_pair(radiograph_report: str, ecg_report: str, labels: Mapping[str, float | str]) -> tuple[str, str]:
    """The two segments of MoRE's composite report; an empty radiograph report is written from ``labels``."""
    text = radiograph_report.strip() or label_sentence(labels)
    return (
        f"The report from Xray is: {text}",
        f"The report from ECG is: {ecg_report.strip() or 'ECG note not available.'}",
    )


def _filled(templates: Sequence[str], modality: str, anatomy: str, findings: str) -> list[str]:
    texts = [each.format(modality=modality, anatomy=anatomy, findings=findings) for each in templates]
    return [text[:1].upper() + text[1:] for text in texts]


def _joined(names: Sequence[str], word: str) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"
