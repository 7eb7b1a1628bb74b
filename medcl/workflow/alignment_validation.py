"""How well an alignment in training retrieves among its validation records."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np

from medcl.config.align import AlignConfig
from medcl.config.align_stage import AlignStageConfig
from medcl.encoders.joint import JointEncoders
from medcl.errors import ConfigError
from medcl.evaluation.directions import mean_reciprocal_rank
from medcl.modalities.duplicates import text_groups
from medcl.seeds import derive_seed
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.alignment_texts import text_of
from medcl.workflow.compared import similarity_for, takes_unit_codes, trained_similarity
from medcl.workflow.encode import RecordEncoder

MOST_RECORDS = 1000
"""Validation records that are encoded every time; of more, that many are drawn once."""


def check_validation(config: AlignConfig, data: AlignmentData) -> None:
    """Raise ConfigError where the best weights are to be kept and there is nothing to tell them by."""
    for stage in config.stages:
        if stage.select == "best" and not _records(config, stage, data):
            raise ConfigError(
                f"stage '{stage.name}': select=best needs two validation records that have two of {', '.join(stage.modalities)}; "
                "set data.validation, or select=last"
            )


def validation_of(
    config: AlignConfig, stage: AlignStageConfig, network: JointEncoders, data: AlignmentData
) -> Callable[[], float] | None:
    """The mean reciprocal rank over all directions between two modalities of ``stage`` among the validation records; None without any.

    What belongs to a query is of the same record, or has the same text where records with the same text are no negatives of each other.
    """
    ids, names = _records(config, stage, data), stage.modalities
    if not ids:
        return None
    pairs = [((query,), gallery) for query, gallery in permutations(names, 2)]
    terms = [term.model_dump() for term in stage.terms]
    trained = trained_similarity(terms)
    kinds = [similarity_for(None, trained, queries) for queries, _ in pairs]
    report = config.modalities.report
    if report is not None and config.duplicates == "mask":
        groups = np.asarray(text_groups([text_of(report, record, data.captions) for record in data.records(ids)]))
    else:
        groups = np.array(ids)

    def score() -> float:
        device = next(network.parameters()).device
        codes = RecordEncoder(network, config.modalities, device, stage.batch, title=None).codes(data, ids, names)
        return mean_reciprocal_rank(codes, pairs, groups, kinds, normalize=takes_unit_codes(terms))

    return score


def _records(config: AlignConfig, stage: AlignStageConfig, data: AlignmentData) -> tuple[str, ...]:
    """The validation records that have two modalities of ``stage`` or more; none where fewer than two do."""
    found = [record_id for record_id in data.split.validation if len({*stage.modalities} & data.present[record_id]) > 1]
    if len(found) > MOST_RECORDS:
        drawn = np.random.default_rng(derive_seed(config.seed, "validation")).choice(found, MOST_RECORDS, replace=False)
        found = sorted(drawn.tolist())
    return tuple(found) if len(found) > 1 else ()
