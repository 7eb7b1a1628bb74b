"""Refusing, before any training, a term that its stage cannot serve."""

from __future__ import annotations

from collections.abc import Sequence

from medcl.config.corruption import TurnsCorruption
from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import DenseHeadConfig, PretrainConfig, ProjectionHeadConfig, ReweightHeadConfig, StageConfig
from medcl.config.views import PartitionCentre
from medcl.errors import ConfigError
from medcl.objectives.teacher import TaughtObjective


def objectives_of(config: PretrainConfig, stage: StageConfig) -> list[ObjectiveConfig]:
    """The objective of every term of ``stage``; terms without one take the top-level one."""
    found = [term.objective or config.objective for term in stage.terms]
    return [objective for objective in found if objective is not None]


def check_requirements(config: PretrainConfig) -> None:
    """Raise ConfigError naming every objective that lacks what it needs, and the key that would give it."""
    problems = []
    for number, stage in enumerate(config.stages):
        for place, (term, objective) in enumerate(zip(stage.terms, objectives_of(config, stage), strict=True)):
            at = f"stages.{number}.terms.{place} ({objective.name})"
            lacking = _lacking(config, number, objective)
            problems += [f"{at}: {message}" for message in lacking]
            if objective.reads == "vectors" and isinstance(term.head, DenseHeadConfig):
                problems.append(f"{at}: reads one vector a view; set head.name=projection")
            if objective.reads == "maps" and isinstance(term.head, ProjectionHeadConfig | ReweightHeadConfig):
                problems.append(f"{at}: reads maps; set head.name=dense")
            if term.quality is not None and not objective.by_item:
                known = ", ".join(sorted(name for name, entry in ObjectiveConfig.known.items() if entry.by_item))
                problems.append(
                    f"{at}: its loss is no mean of terms of single items, which quality could weigh; set quality=null, or take {known}"
                )
            if term.quality is not None and stage.views.slots < 2:
                problems.append(f"{at}: quality compares two views; set views.slots=2")
            if objective.reads == "vectors" and term.head.name == "none":
                problems.append(f"{at}: reads one vector a view; set head.name=projection")
            if objective.reads == "maps" and isinstance(stage.views.corruption, TurnsCorruption):
                problems.append(
                    f"{at}: reads maps, which do not lie where their view does once it is turned; set views.corruption=null"
                )
            if objective.head_out is not None and getattr(term.head, "out", None) != objective.head_out:
                problems.append(f"{at}: reads {objective.head_out} numbers a view; set head.out={objective.head_out}")
        if stage.views.local is not None and all(o.reads == "maps" for o in objectives_of(config, stage)):
            problems.append(
                f"stages.{number}.views.local: no term reads vectors, and maps are of large views; set it to null"
            )
        if stage.only is not None and config.classes is None:
            problems.append(f"stages.{number}.only: names classes; set classes to a target or attribute of the records")
        if stage.balanced and config.classes is None:
            problems.append(
                f"stages.{number}.balanced: needs classes; set classes to a target or attribute of the records"
            )
        paces = {
            (entry.momentum, entry.momentum_schedule)
            for entry in objectives_of(config, stage)
            if isinstance(entry, TaughtObjective)
        }
        if len(paces) > 1:
            problems.append(
                f"stages.{number}.terms: they share one teacher; give them one momentum and momentum_schedule"
            )
    if problems:
        raise ConfigError(problems)


def _lacking(config: PretrainConfig, number: int, objective: ObjectiveConfig) -> Sequence[str]:
    views = config.stages[number].views
    turned = isinstance(views.corruption, TurnsCorruption)
    served = {
        "two_views": (views.slots >= 2, "needs two views; set views.slots=2"),
        "partition": (views.centre.name == "partition", "needs partitions; set views.centre.name=partition"),
        "shared_geometry": (views.shared_geometry, "compares voxel by voxel; set views.shared_geometry=true"),
        "hidden": (
            views.corruption is not None and views.corruption.hides,
            "needs hidden voxels; set views.corruption={name: blocks, ratio: 0.6}",
        ),
        "corruption": (
            views.corruption is not None and not turned,
            "restores what was corrupted; set views.corruption={name: genesis}, or box, swaps, blocks",
        ),
        "turns": (turned, "tells how views were turned; set views.corruption={name: turns}"),
        "base_crops": (
            isinstance(views.centre, PartitionCentre) and views.centre.fixed,
            "needs base crops; set views.centre={name: partition, fixed: true}",
        ),
        "aligned": (
            config.assume_aligned,
            "takes equal places of different volumes as corresponding; register the volumes and set assume_aligned=true",
        ),
        "labels": (
            config.classes is not None,
            "needs a class for every record; set classes to a target or attribute of the records, such as site",
        ),
        "targets": (
            config.targets is not None,
            "needs a number for every record; set targets to a numeric target or attribute of the records, such as age",
        ),
        "rehearsal": (
            any(stage.only is not None for stage in config.stages[:number]),
            "rehearses records of earlier stages; give those stages only=[CLASS, ...]",
        ),
        "findings": (False, "compares records by their findings; give it in medcl align"),
        "complete": (False, "compares modalities of a record; give it in medcl align"),
        "modalities": (
            False,
            "compares modalities of a record, which a pretraining has one of; give it in medcl align",
        ),
        "report": (False, "reads the words of a report; give it in medcl align"),
        "cells": (True, ""),  # every view carries its geometry
        "sample_ids": (True, ""),  # a record's index in the pool
        "teacher": (True, ""),  # the task makes one
    }
    return [
        served[need][1] if need in served else f"needs {need}, which this data set does not give"
        for need in sorted(objective.needed())
        if need not in served or not served[need][0]
    ]
