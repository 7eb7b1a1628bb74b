"""Shards: shares of the same work for processes that need to know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from medcl.errors import ConfigError

_WANTED = "write i/n with i from 1 to n, such as 3/8"
_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Shard:
    """Share ``number`` (from 1) of ``count``; all of them together are the whole, and no two have anything in common."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``text`` means: ``3/8`` is the third of eight. Raises ConfigError where it is none."""
        found = _FORM.fullmatch(text.strip())
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ConfigError(f"shard: {_WANTED} (given: '{text}')")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.number}-of-{self.count}"

    def share(self, names: Iterable[str]) -> tuple[str, ...]:
        """Every ``count``-th of the sorted ``names``, from the ``number``-th on: nothing but the names counts."""
        return tuple(sorted(set(names))[self.number - 1 :: self.count])


def _read(value: object) -> object:
    """A shard as it is written; ValueError is what pydantic collects."""
    if not isinstance(value, str):
        return value
    try:
        return Shard.parse(value)
    except ConfigError:
        raise ValueError(_WANTED) from None


ShardSetting = Annotated[Shard, BeforeValidator(_read), PlainSerializer(str, return_type=str)]
"""A shard as a value of a configuration."""
