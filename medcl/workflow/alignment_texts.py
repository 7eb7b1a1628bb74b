"""The texts of an alignment: what of a report is read, captions in its place, and texts that stand on both sides of a split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from medcl.config.align import NearDuplicatesConfig, ReportConfig
from medcl.config.captions import read_captions
from medcl.modalities.captions import LabelCaptions, label_captions
from medcl.modalities.duplicates import shared_texts
from medcl.modalities.report import read_report, split_sections
from medcl.modalities.report_text import clean, sentences
from medcl.records.manifest import Manifest
from medcl.records.parts import Parts
from medcl.records.record import Record

log = logging.getLogger(__name__)


def report_sentences(config: ReportConfig, record: Record, section: str = "") -> list[str]:
    """The sentences of a report that a network reads: of one ``section``, of the first of ``config.sections`` that is there, or of all."""
    if not record.report:
        return []
    text = read_report(record.report)
    wanted = (section,) if section else config.sections
    if wanted:
        sections = split_sections(text, lenient=True)
        text = next((part.text for name in wanted for part in sections if part.name == name), "" if section else text)
    return sentences(clean(text) if config.clean else text)


def captions_of(config: ReportConfig | None, records: Sequence[Record]) -> LabelCaptions | None:
    """The captions that stand for reports, None where the configuration asks for none."""
    if config is None or config.captions is None:
        return None
    return label_captions(records, read_captions(config.captions))


def text_of(config: ReportConfig, record: Record, captions: LabelCaptions | None) -> str:
    """What evaluation reads of a record: its report, else its first caption, else nothing."""
    text = " ".join(report_sentences(config, record))
    if not text.strip() and captions is not None and record.id in captions.labels:
        return captions.all(record.id)[0]
    return text


def vocabulary_texts(config: ReportConfig, records: Sequence[Record], captions: LabelCaptions | None) -> list[str]:
    """Every text that training may read of ``records``."""
    found = []
    for record in records:
        text = " ".join(report_sentences(config, record))
        if not text.strip() and captions is not None and record.id in captions.labels:
            found += captions.all(record.id)
        else:
            found.append(text)
    return found


@dataclass(frozen=True)
class SharedReports:
    """How many held-out texts also stand in training, and how many of training stand there; what was left out for it.

    ``near``: whether nearly equal texts were looked for, not only equal ones.
    """

    held_out: int
    of: int
    training: int
    similarity: float | None
    near: bool
    dropped: int = 0


def shared_reports(
    config: ReportConfig,
    near: NearDuplicatesConfig,
    manifest: Manifest,
    split: Parts,
    captions: LabelCaptions | None,
) -> tuple[Parts, SharedReports | None]:
    """Look for texts of the held-out parts among those of training; the split without what ``near.drop`` takes out.

    None where nothing is held out.
    """
    held = (*split.validation, *split.test)
    if not held:
        return split, None
    one, other = ([text_of(config, manifest.by_id(name), captions) for name in ids] for ids in (split.train, held))
    found = shared_texts(one, other, near.similarity)
    inside = {name for name, place in zip(held, found.partner, strict=True) if place >= 0}
    beside = {name for name, hit in zip(split.train, found.first, strict=True) if hit}
    gone = {"none": set(), "train": beside, "held_out": inside}[near.drop]
    facts = SharedReports(len(inside), len(held), len(beside), near.similarity, found.near, len(gone))
    log_shared(facts, near.drop)
    if not gone:
        return split, facts
    kept = {
        name: tuple(one for one in ids if one not in gone) for name, ids in asdict(split).items() if name != "notes"
    }
    return replace(split, **kept), facts


def log_shared(facts: SharedReports, drop: str) -> None:
    """Say what was found."""
    alike = "are equal or nearly equal to" if facts.near else "are equal to"
    if facts.held_out:
        remedy = f"{facts.dropped} records are left out" if facts.dropped else "near_duplicates.drop leaves them out"
        log.info("%d of %d held-out texts %s one of training; %s (%s)", facts.held_out, facts.of, alike, remedy, drop)
    if facts.similarity is not None and not facts.near:
        log.info("too many texts to look for nearly equal ones; equal ones alone were counted")
