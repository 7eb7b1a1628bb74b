"""What a pipeline will do: every pretraining and every cell with its whole configuration.

Everything is resolved and validated here, before anything runs, so that a wrong key in the last arm is reported in
the first second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import medcl.objectives  # noqa: F401  (announces the objectives that arms may name)
from medcl.config.data import DataConfig, Labelled
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import read_values, validate
from medcl.config.pipeline import PipelineConfig
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config
from medcl.config.split import read_split
from medcl.config.views import PartitionCentre
from medcl.errors import ConfigError

Model = TypeVar("Model", PretrainConfig, FinetuneConfig)

_OWN_KEYS = ("out", "data", "recipe", "encoder", "init")
"""Keys of a run that the pipeline sets for every arm."""

_BOOKKEEPING = ("device", "workers", "threads", "checkpoint_every", "log_every")
"""Keys of ``trainer`` that do not change what a run computes."""

_LATER: dict[str, Any] = {
    "data.pool": "fixed",
    "data.count": "records",
    "recipe.convention": "medcl",
    "encoder_lr_decay": 1.0,
    "optimiser.betas": [0.9, 0.999],
    "optimiser.eps": 1e-8,
    "stages.optimiser.betas": [0.9, 0.999],
    "stages.optimiser.eps": 1e-8,
}
"""Keys that came later, with the value that does what was done before: it leaves the identity as it was, so that a
finished study is not run again by a newer medcl. A new key of a run's configuration belongs here."""


@dataclass(frozen=True)
class Pretraining:
    """One pretraining; arms with the same configuration share it."""

    config: PretrainConfig

    @property
    def folder(self) -> Path:
        return self.config.out

    @property
    def name(self) -> str:
        return f"pretrain/{self.folder.name}"


@dataclass(frozen=True, eq=False)
class Cell:
    """One fine-tuning of the grid: an arm with a labelled count, a labelled subset, a seed and, in a grid of steps, these."""

    arm: str
    labelled: Labelled
    subset: int
    seed: int
    steps: int | None
    config: FinetuneConfig
    pretraining: Pretraining | None
    teacher: Cell | None = None

    @property
    def folder(self) -> Path:
        return self.config.out

    @property
    def name(self) -> str:
        return f"cells/{self.arm}/{self.folder.name}"

    @property
    def generation(self) -> int:
        """How many cells must be finished one after another before this one."""
        return self.teacher.generation + 1 if self.teacher else 0


@dataclass(frozen=True)
class Plan:
    """All of a pipeline, in the order in which it runs."""

    config: PipelineConfig
    data: DataConfig
    pretrainings: tuple[Pretraining, ...]
    cells: tuple[Cell, ...]


def make_plan(config: PipelineConfig) -> Plan:
    """Resolve every run of ``config``. Raises ConfigError that names every wrong key of every arm."""
    data = config.data.model_copy(update={"store": config.data.store or config.out / "prepared"})
    pretrainings: dict[str, Pretraining] = {}
    cells: list[Cell] = []
    problems: list[str] = []
    for arm in sorted(config.arms, key=config.generation):
        try:
            for seed in config.grid.seeds:
                cells.extend(_cells(config, data, arm, seed, pretrainings, cells))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    counts, arms = list(config.counts), list(config.arms)
    # the first subset of every count and arm comes first: an interrupted study already shows its shape
    cells.sort(
        key=lambda cell: (cell.subset, cell.seed, counts.index(cell.labelled), cell.steps or 0, arms.index(cell.arm))
    )
    return Plan(config, data, tuple(pretrainings.values()), tuple(cells))


def identity(
    config: PretrainConfig | FinetuneConfig, data: str, start: str | None = None, teacher: str | None = None
) -> str:
    """A digest of what a run computes: its configuration, the data's digest, the identities of what it starts from and of what teaches it.

    Folders, devices and logging leave it as it is, so that a study that was moved is not run again.
    """
    values = config.model_dump(mode="json", exclude={"out", "init"})
    for key in ("path", "labels", "store", "split"):  # the data's digest holds that of the split
        values["data"].pop(key)
    for path, usual in _LATER.items():
        _drop(values, path.split("."), usual)
    for key in _BOOKKEEPING:
        values["trainer"].pop(key)
    if teacher is not None:
        values["distil"]["teacher"] = teacher
    return digest(values, data, start)


def _drop(values: Any, path: Sequence[str], usual: Any) -> None:
    """Remove the key at ``path`` where it is ``usual``; a list on the way stands for all of its items."""
    if isinstance(values, list):
        for item in values:
            _drop(item, path, usual)
    elif isinstance(values, dict) and path[0] in values:
        if len(path) > 1:
            _drop(values[path[0]], path[1:], usual)
        elif values[path[0]] == usual:
            del values[path[0]]


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits that depend on ``parts`` (plain values) only."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def merged(base: Any, over: Any) -> Any:
    """``over`` laid upon ``base``: mappings key by key, anything else replaced.

    A mapping of numbers upon a list changes those items, counted from 0; null drops one. A mapping whose ``name`` differs chooses another kind of
    thing, so that it replaces ``base`` whole.
    """
    if isinstance(base, list) and isinstance(over, Mapping) and all(isinstance(key, int) for key in over):
        result = list(base)
        for index, value in over.items():
            if value is None and index >= len(result):
                continue
            if not 0 <= index < len(result):
                raise ConfigError(f"{index}: the list has {len(result)} items, counted from 0")
            result[index] = merged(result[index], value)
        return [item for item in result if item is not None]
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if "name" in base and over.get("name", base["name"]) != base["name"]:
        return over
    return {**base, **{key: merged(base[key], value) if key in base else value for key, value in over.items()}}


def _pretraining(
    config: PipelineConfig, data: DataConfig, arm: str, seed: int, known: dict[str, Pretraining]
) -> Pretraining | None:
    """What cells of ``arm`` start from; ``data`` says whether it sees the fixed pool or a labelled subset."""
    section = config.arms[arm].pretrain
    if section is None:
        return None
    folder = arm if data.pool == "fixed" else f"{arm}.n{data.labelled}-s{data.subset}"
    own: dict[str, Any] = {"data": data}
    if config.grid.pretrain_per_seed:
        folder += f"-r{seed}"
        own["seed"] = seed
    own["out"] = config.out / "pretrain" / folder
    found = Pretraining(_resolve(PretrainConfig, config, "pretrain", arm, section, own))
    _refuse_too_many_volumes(found.config, arm)
    return known.setdefault(identity(found.config, ""), found)


def _refuse_too_many_volumes(config: PretrainConfig, arm: str) -> None:
    count = config.data.labelled
    if config.data.pool == "fixed" or count == "all":
        return
    for stage in config.stages:
        centre = stage.views.centre
        if isinstance(centre, PartitionCentre) and centre.volumes > count:
            raise ConfigError(
                f"arms.{arm}.pool: a pretraining on {count} labelled sees {count}, but stage '{stage.name}' draws "
                f"{centre.volumes} volumes for a batch; set volumes in its views.centre for this arm, or take {count} out "
                "of grid.labelled"
            )


def _subsets(config: PipelineConfig) -> dict[Labelled, int]:
    """How many labelled subsets there are of every count."""
    counts = config.counts
    if config.data.split is None:
        return {count: 1 if count == "all" else config.grid.subsets for count in counts}
    split = read_split(config.data.split)
    unknown = [count for count in counts if count not in split.labelled]
    if unknown:
        known = ", ".join(map(str, split.labelled))
        raise ConfigError(f"labelled: {split.name} has no labelled subset of {unknown[0]}; it has {known}")
    return {count: min(config.grid.subsets, len(split.labelled[count])) for count in counts}


def _cells(
    config: PipelineConfig,
    data: DataConfig,
    arm: str,
    seed: int,
    pretrainings: dict[str, Pretraining],
    others: Sequence[Cell],
) -> list[Cell]:
    """The cells of ``arm``, taught by some of ``others``."""
    cells = []
    subsets = _subsets(config)
    pool = config.arms[arm].pool
    shared = _pretraining(config, data, arm, seed, pretrainings) if pool == "fixed" else None
    for count in config.counts_of(arm):
        for subset in range(subsets[count]):
            chosen = data.model_copy(update={"labelled": count, "subset": subset, "pool": pool})
            source = shared if pool == "fixed" else _pretraining(config, chosen, arm, seed, pretrainings)
            for steps in config.grid.steps or (None,):
                folder = f"n{count}-s{subset}-r{seed}" + (f"-t{steps}" if steps else "")
                own = {
                    "data": chosen,
                    "out": config.out / "cells" / arm / folder,
                    "init": source.folder if source else None,
                    "seed": seed,
                    **({"steps": steps} if steps else {}),
                }
                place = (config.arms[arm].teacher, count, subset, seed, steps)
                teacher = next((c for c in others if (c.arm, c.labelled, c.subset, c.seed, c.steps) == place), None)
                section = config.arms[arm].finetune
                if teacher is not None:
                    section = merged(section, {"distil": {"teacher": teacher.folder}})
                resolved = _resolve(FinetuneConfig, config, "finetune", arm, section, own)
                cells.append(Cell(arm, count, subset, seed, steps, resolved, source, teacher))
    return cells


def _resolve(
    model: type[Model], config: PipelineConfig, stage: str, arm: str, section: Mapping[str, Any], own: Mapping[str, Any]
) -> Model:
    """The configuration of one run: a file, the shared section, the arm's section, then what the pipeline sets."""
    shared: Mapping[str, Any] = getattr(config, stage)
    where = {**dict.fromkeys(shared, stage), **dict.fromkeys(section, f"arms.{arm}.{stage}")}
    overridden = {"steps"} - set(section)  # grid.steps may stand beside the shared section's, not beside an arm's own
    forbidden = [key for key in where if key in {*_OWN_KEYS, *own} - overridden]
    if forbidden:
        raise ConfigError([f"{where[key]}.{key}: is set by the pipeline for every arm" for key in forbidden])
    try:
        given = merged(shared, section)
        base = given.pop("config", None)
        values = merged(read_values(find_config(base)) if base else {}, given)
    except ConfigError as error:
        raise ConfigError([f"arms.{arm}.{stage}: {problem}" for problem in error.problems]) from None
    values |= {"recipe": config.recipe, **({"encoder": config.encoder.model_dump()} if config.encoder else {}), **own}
    if config.arms[arm].encoder:
        values["encoder"] = merged(values.get("encoder", {}), config.arms[arm].encoder)
    if config.jobs > 1:
        values["trainer"] = {"threads": 1, **values.get("trainer", {})}
    try:
        return validate(model, values)
    except ConfigError as error:
        raise ConfigError([_placed(problem, where, f"arms.{arm}.{stage}") for problem in error.problems]) from None


def _placed(problem: str, where: Mapping[str, str], otherwise: str) -> str:
    """A problem of a run's configuration, named by where in the pipeline its key stands."""
    key = problem.partition(":")[0].partition(".")[0]
    if key == "configuration":
        return otherwise + problem.removeprefix("configuration")
    return f"{where.get(key, otherwise)}.{problem}"
