"""How a configuration names an objective.

The typed entry of an objective lives beside its function in ``medcl/objectives/``, so that adding an objective is
one file. This module knows no objective: a subclass of :class:`ObjectiveConfig` announces itself by existing, and
:data:`AnyObjective` picks it by ``name`` when a configuration is read. Whoever reads a configuration with terms
imports ``medcl.objectives`` first (the commands that train do).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from medcl.config.strict import Strict

NEEDS = {
    "two_views": "two views of every centre (views.slots=2)",
    "partition": "partitions (views.centre.name=partition)",
    "cells": "maps whose geometry is known (tracked by the views)",
    "shared_geometry": "views that differ by intensity only (views.shared_geometry=true)",
    "aligned": "volumes whose places correspond (assume_aligned=true)",
    "hidden": "hidden voxels (views.corruption.name=blocks or box)",
    "corruption": "views that were corrupted (views.corruption)",
    "turns": "views turned by quarter turns (views.corruption.name=turns)",
    "base_crops": "base crops in the middle of partitions (views.centre.fixed=true)",
    "labels": "a class of every record (classes=NAME)",
    "targets": "a number for every record (targets=NAME)",
    "sample_ids": "records that come again (several passes over the pool)",
    "rehearsal": "earlier stages of other classes (stages.N.only)",
    "findings": "a class, or findings, of every record (medcl align: classes=[NAME, ...])",
    "complete": "records that have every place the term names (medcl align)",
    "modalities": "several modalities of a record (medcl align)",
    "report": "the words of a report (medcl align)",
    "teacher": "a slowly following copy of the network (made by the task)",
}
"""What an objective can need, in words."""


class ObjectiveConfig(Strict):
    """Base of the typed entry of one objective. Subclasses set ``name: Literal[...] = ...``.

    ``function``: the pure function; its docstring, with ``Source:`` and ``Choose ...``, is what `medcl objectives` shows.
    ``reads``: one vector a view, or a map of it; in an alignment also features of places and words, words, or pairs (decision 009).   ``head_out``: how many numbers the head must give, None for any.   ``needs``: what the views and the data set must offer, see
    :data:`NEEDS`.   ``by_item``: the loss is the mean of terms that each belong to one item, listed item last, so that items can be weighted.   ``state``: what is kept from step to step, and how large it is.
    ``compares``: how many views it is of, None for two or more: an alignment refuses another number of places.
    ``localised``: of which of them an objective that reads "local" wants the features of places and words.
    """

    known: ClassVar[dict[str, type[ObjectiveConfig]]] = {}
    function: ClassVar[Callable[..., Any]]
    reads: ClassVar[Literal["vectors", "maps", "local", "words", "pairs"]] = "vectors"
    head_out: ClassVar[int | None] = None
    by_item: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    state: ClassVar[str] = ""
    compares: ClassVar[int | None] = None
    localised: ClassVar[Literal["first", "all"]] = "all"
    name: str

    def needed(self) -> frozenset[str]:
        """Which of ``needs`` these settings need; all of them unless an entry says otherwise."""
        return self.needs

    def build(self, setting: Any) -> Any:
        """The torch module ``(codes: Codes, gather: Gather) -> LossOutput`` for a :class:`~medcl.objectives.codes.Setting`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        name = cls.model_fields["name"].default
        if isinstance(name, str):
            ObjectiveConfig.known[name] = cls


def _pick(value: Any, handler: ValidatorFunctionWrapHandler) -> ObjectiveConfig:
    del handler
    if isinstance(value, ObjectiveConfig):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        raise PydanticCustomError("objective", "give the objective as {{name: ...}}")
    entry = ObjectiveConfig.known.get(str(value["name"]))
    if entry is None:
        close = difflib.get_close_matches(str(value["name"]), ObjectiveConfig.known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(ObjectiveConfig.known))}"
        raise PydanticCustomError("objective", "no objective '{given}'{hint}", {"given": value["name"], "hint": hint})
    return entry.model_validate(dict(value))


AnyObjective = Annotated[
    ObjectiveConfig,
    WrapValidator(_pick),
    PlainSerializer(lambda entry: entry.model_dump(mode="json"), return_type=dict),
]
"""A field of this type takes any objective's entry, chosen by its ``name``."""
