"""Refusing, before any data are read, a term that an alignment cannot serve."""

from __future__ import annotations

from medcl.config.align import AlignConfig
from medcl.config.align_stage import AlignTermConfig
from medcl.config.objective import NEEDS
from medcl.errors import ConfigError
from medcl.objectives.teacher import TaughtObjective


def check_alignment(config: AlignConfig) -> None:
    """Raise ConfigError naming every term that compares another number of places, or lacks what its objective needs."""
    problems = []
    for number, stage in enumerate(config.stages):
        for place, term in enumerate(stage.terms):
            at = f"stages.{number}.terms.{place} ({term.objective.name})"
            problems += [f"{at}: {message}" for message in (*_places(term), *_lacking(config, term))]
            needed = sum(grid**2 for grid in term.mosaic)
            if stage.batch < needed:
                problems.append(
                    f"{at}: mosaics of {list(term.mosaic)} take {needed} images, but batch is {stage.batch}"
                )
        taught = [term.objective for term in stage.terms if isinstance(term.objective, TaughtObjective)]
        if len({(entry.momentum, entry.momentum_schedule) for entry in taught}) > 1:
            problems.append(
                f"stages.{number}.terms: they share one teacher; give them one momentum and momentum_schedule"
            )
    if problems:
        raise ConfigError(problems)


def _places(term: AlignTermConfig) -> list[str]:
    given, wanted = len(term.between), term.objective.compares
    if wanted is not None and given != wanted:
        return [f"compares {wanted} places, but between names {given}; give it {wanted}, in terms of their own"]
    several = {"two_views", "complete", "modalities"} & term.objective.needed()
    if wanted is None and several and given < 2:
        return ["compares places of a record with each other; name two or more in between"]
    return []


def _lacking(config: AlignConfig, term: AlignTermConfig) -> list[str]:
    served = {
        "labels": (
            len(config.classes) == 1,
            "needs a class for every record; set classes=[NAME], a target or attribute",
        ),
        "findings": (
            bool(config.classes),
            "needs what says which records are alike; set classes=[NAME, ...], targets or attributes",
        ),
        **dict.fromkeys(("two_views", "complete", "modalities", "report", "sample_ids", "teacher"), (True, "")),
    }
    return [
        served[need][1] if need in served else f"needs {NEEDS[need]}; give it in medcl pretrain"
        for need in sorted(term.objective.needed())
        if need not in served or not served[need][0]
    ]
