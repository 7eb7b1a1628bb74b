"""A named split: which records a published study tested on, pretrained on and took labels of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from medcl.config.load import load_config
from medcl.config.shipped import find_config, shipped_configs
from medcl.config.strict import Strict
from medcl.errors import ConfigError

Number = NonNegativeInt
Numbers = Annotated[tuple[Number, ...], Field(min_length=1)]
PLACE = "{number}"


class CombinationConfig(Strict):
    """A labelled subset with the records that choose its checkpoint."""

    name: str = Field(description="what the study called it")
    train: Numbers
    validation: Numbers


class SplitConfig(Strict):
    """A file for ``data.split``. Records are named by their numbers in the data set."""

    version: Literal[1] = 1
    name: str
    source: str = Field(description="where the lists come from")
    pattern: str = Field(
        description="regular expression of a record's id, with {number} where its number stands; leading zeros do not matter"
    )
    test: Numbers
    pool: Numbers = Field(description="whose images are seen without their labels")
    labelled: dict[PositiveInt | Literal["all"], Annotated[tuple[CombinationConfig, ...], Field(min_length=1)]] = Field(
        min_length=1, description="by labelled count: the combinations, subset 0 first"
    )
    notes: tuple[str, ...] = Field((), description="what to know of the lists: is said whenever they are used")

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        try:
            re.compile(self.pattern.replace(PLACE, "1"))
        except re.error as error:
            raise ValueError(f"pattern is no regular expression ({error})") from None
        if PLACE not in self.pattern:
            raise ValueError(f"pattern has no {PLACE}")
        problems = [f"test: {_shown(both)} are in the pool too" for both in [{*self.test} & {*self.pool}] if both]
        for count, where, each in self.combinations():
            parts = {"train": each.train, "validation": each.validation}
            if count != "all" and len(each.train) != count:
                problems.append(f"{where}: lists {len(each.train)} training records")
            if both := {*each.train} & {*each.validation}:
                problems.append(f"{where}: {_shown(both)} are in train and in validation")
            for part, numbers in parts.items():
                if both := {*numbers} & {*self.test}:
                    problems.append(f"{where}: {_shown(both)} are in {part} and in test")
        for where, numbers in self._lists():
            if repeated := {number for number in numbers if numbers.count(number) > 1}:
                problems.append(f"{where}: {_shown(repeated)} stand there twice")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def combinations(self) -> Iterator[tuple[int | str, str, CombinationConfig]]:
        """Every combination with its labelled count and where it stands."""
        for count, entries in self.labelled.items():
            for each in entries:
                yield count, f"labelled.{count} {each.name}", each

    def _lists(self) -> Iterator[tuple[str, Numbers]]:
        yield "test", self.test
        yield "pool", self.pool
        for _, where, each in self.combinations():
            yield where, each.train
            yield where, each.validation


def find_split(name: str) -> Path:
    """The file of a split: its path, or the name of one that comes with medcl. Raises ConfigError where there is none."""
    if name.endswith((".yaml", ".yml")):
        return find_config(name)
    shipped = {path.stem: path for path in shipped_configs() if path.parent.name == "splits"}
    if name not in shipped:
        raise ConfigError(
            f"data.split: no split {name}; those that come with medcl are {', '.join(shipped)}; or name a .yaml file"
        )
    return shipped[name]


def read_split(name: str) -> SplitConfig:
    """The split of that name or path. Raises ConfigError where there is none, or it contradicts itself."""
    return load_config(SplitConfig, find_split(name))


def _shown(numbers: set[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))
