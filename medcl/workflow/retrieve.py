"""`medcl retrieve` as an evaluation: how well each modality finds the others, on held-out records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medcl.config.alignment_use import RetrieveConfig
from medcl.errors import ConfigError
from medcl.evaluation.directions import RetrievalReport, directions_of, gaps_of
from medcl.evaluation.joint_codes import JointCodes
from medcl.files import write_json
from medcl.modalities.duplicates import text_groups
from medcl.records.record import Record
from medcl.reporting.alignment_page import write_retrieval_page
from medcl.types import Array
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.alignment_texts import captions_of, text_of
from medcl.workflow.compared import last_terms, similarity_for, takes_unit_codes, trained_similarity
from medcl.workflow.examples import examples_of
from medcl.workflow.inversion import inversion_scores
from medcl.workflow.joint_space import JointSpace, ids_of
from medcl.workflow.triplets import triplet_scores

Pair = tuple[tuple[str, ...], str]


def retrieve(config: RetrieveConfig) -> RetrievalReport:
    """Score retrieval as ``config`` says; write JSON and a page to ``config.out``, if given.

    Raises ConfigError where the weights lack a modality or nothing is held out, DataError where the triplets do not fit the records.
    """
    space = JointSpace.of(config)
    pairs = _pairs(config, space)
    terms = last_terms(space.card)
    trained, unit_codes = trained_similarity(terms), takes_unit_codes(terms)
    chosen = [similarity_for(config.similarity, trained, queries) for queries, _ in pairs]
    with space.opened(config.data, config.part) as data:
        ids = ids_of(data, config.part)
        codes = codes_of(config, space, data, ids)
        records, seen = data.records(ids), space.seen(data, ids)
        groups = relevance_groups(config, space, records)
        report = RetrievalReport(
            part=config.part,
            records=len(ids),
            relevance=config.relevance,
            directions=directions_of(codes, pairs, groups, seen, chosen, normalize=unit_codes, seed=config.seed),
            gaps=gaps_of(codes, seed=config.seed),
            triplets=triplet_scores(config.triplets, space, data, codes, seed=config.seed) if config.triplets else None,
            inversion=inversion_scores(config.inversion, space, codes, groups, seed=config.seed)
            if config.inversion
            else [],
            notes=_notes(config, seen),
        )
        if not report.directions:
            raise ConfigError(
                f"part: no {config.part} record has what is asked for: {', '.join('+'.join(q) + ' to ' + g for q, g in pairs)}"
            )
        if config.out is not None:
            write_json(config.out, report.as_dict())
            examples = examples_of(report, codes, groups, seen, space, data, normalize=unit_codes)
            write_retrieval_page(config.out.with_suffix(".html"), report, examples, str(config.weights))
    return report


def codes_of(config: RetrieveConfig, space: JointSpace, data: AlignmentData, ids: Sequence[str]) -> JointCodes:
    """The codes of the records ``ids``, from the file that ``config`` names or made now."""
    if config.codes is None:
        return space.codes(data, ids)
    subjects = [record.subject for record in data.records(ids)]
    return read_codes(config.codes, space).select(ids).with_subjects(subjects)


def read_codes(path: Path, space: JointSpace) -> JointCodes:
    """The codes of ``path``. Raises ConfigError where they are of other weights."""
    codes = JointCodes.read(path)
    if codes.weights != space.card.sha256:
        raise ConfigError(f"codes: {path} was made by other weights than {space.file.folder}; run medcl embed again")
    return codes


def _pairs(config: RetrieveConfig, space: JointSpace) -> list[Pair]:
    asked = [tuple(name.split("+")) for name in config.queries or space.modalities]
    searched = config.galleries or space.modalities
    space.require([name for names in asked for name in names], "queries")
    space.require(searched, "galleries")
    pairs = [(queries, gallery) for queries in asked for gallery in searched if gallery not in queries]
    if not pairs:
        raise ConfigError("galleries: a modality that asks is not searched as well; name another one")
    return pairs


def relevance_groups(config: RetrieveConfig, space: JointSpace, records: Sequence[Record]) -> Array:
    """Of every record what makes another one relevant to it, as ``(N,)`` or ``(N, targets)``."""
    if config.relevance == "subject":
        return np.array([record.subject for record in records])
    if config.relevance == "text":
        report = space.card.modalities.report
        if report is None:
            raise ConfigError("relevance: text needs reports, and these weights align none")
        captions = captions_of(report, records)
        return np.asarray(text_groups([text_of(report, record, captions) for record in records]))
    if config.relevance == "labels":
        names = config.targets or tuple(sorted({name for record in records for name in record.targets}))
        if unknown := [name for name in names if not any(name in record.targets for record in records)]:
            raise ConfigError(f"targets: no record has {', '.join(unknown)}")
        if not names:
            raise ConfigError("relevance: labels needs records with targets, and these have none")
        rows = [[str(record.targets.get(name, "")) for name in names] for record in records]
        alone = [record.id if not any(row) else "" for record, row in zip(records, rows, strict=True)]
        return np.array([[*row, own] for row, own in zip(rows, alone, strict=True)])
    return np.array([record.id for record in records])


def _notes(config: RetrieveConfig, seen: Sequence[bool]) -> list[str]:
    notes = []
    if any(seen):
        notes.append(
            f"{sum(seen)} of {len(seen)} records were seen in pretraining (seen_in_pretraining): these numbers are no estimate for new records."
        )
    if config.relevance != "record":
        notes.append(f"An item belongs to a query if it is of the same {config.relevance}.")
    return notes
