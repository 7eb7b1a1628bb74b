"""An objective as the laws see it: its entry, the batch it is given, and the laws that it does not obey, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.cells import Cells
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.output import LossOutput

Law = Literal[
    "items",  # the order of items does not matter
    "views",  # nor that of views
    "length",  # nor the length of embeddings
    "rotation",  # nor one rotation of all of them
    "gradient",  # the gradient equals central differences
    "low temperature",  # finite at temperature 0.01 and extreme lengths
    "equal",  # identical embeddings give the all-equal value
    "cosines",  # positive_cosine, negative_cosine, valid_terms, without_positive are reported
    "several processes",  # the gradient on several processes is that of the whole batch
]
WIDTH = 3


@dataclass(frozen=True)
class Case:
    """``space``: size of the maps, () for vectors.   ``width``: of the codes.   ``exempt``: why a law does not hold."""

    entry: ObjectiveConfig
    views: int = 2
    space: tuple[int, ...] = ()
    width: int = WIDTH
    exempt: Mapping[Law, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert set(self.exempt) <= set(get_args(Law)), f"no such law: {set(self.exempt) - set(get_args(Law))}"
        assert all(self.exempt.values()), "say why"

    def codes(self, *, items: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> Codes:
        """A batch of ``items`` view centres with everything that an objective can ask for."""
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

        shape = (self.views, items)
        return Codes(
            z=normal(*shape, self.width, *self.space),
            teacher=normal(*shape, self.width, *self.space),
            record=torch.arange(items) // 2,
            subject=torch.arange(items) // 3,
            partition=(torch.arange(items) % 2).expand(shape),
            parts=(1, 1, 2),
            position=torch.rand(*shape, 3, generator=draw),
            box=torch.tensor([[0.0, 0, 0], [9, 9, 9]]).expand(items, 2, 3) + torch.rand(items, 1, 3, generator=draw),
            labels=torch.arange(items) % 3,
            targets=torch.tensor([3.0, 5.0, 3.5, 8.0, 4.0, 6.5], dtype=torch.float64)[torch.arange(items) % 6],
            image=normal(*shape, self.width, *self.space) if self.space else None,
            hidden=torch.rand(*shape, *self.space, generator=draw) < 0.5 if self.space else None,
            body=torch.rand(*shape, *self.space, generator=draw) < 0.5 if self.space else None,
            cells=self._cells(shape, draw) if self.space else None,
            affine=self._affines(shape, draw),
            patch=((4, 4, 4),) * self.views,
            turns=torch.randint(0, 4, shape, generator=draw),
            present=(torch.arange(self.views)[:, None] != 1) | (torch.arange(items) != 2),
            words=torch.randint(0, self.width, shape, generator=draw).where(torch.arange(items) != 2, -100),
            step=3,
        )

    def _affines(self, shape: tuple[int, int], draw: torch.Generator) -> Tensor:
        """Crops of 4 voxels, 2 mm each: the first views of the items of a record side by side, the others up to a crop away."""
        affine = (2 * torch.eye(4, dtype=torch.float64)).repeat(*shape, 1, 1)
        affine[..., 3, 3] = 1
        affine[..., 0, 3] = 8.0 * (torch.arange(shape[1]) % 2)
        affine[1:, ..., :3, 3] += 16 * torch.rand(shape[0] - 1, shape[1], 3, generator=draw) - 8
        return affine

    def _cells(self, shape: tuple[int, int], draw: torch.Generator) -> Cells:
        """Views of one place that differ by a shift of up to a cell, in cells of 2 mm."""
        grid = torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) * 2 for size in self.space])
        grid = torch.nn.functional.pad(grid, (0, 3 - len(self.space)))
        shift = torch.rand(*shape, 1, 3, generator=draw, dtype=torch.float64) * 2
        return Cells(grid + shift, 2 * torch.eye(3, dtype=torch.float64)[: len(self.space)].expand(*shape, -1, -1))

    def module(self, dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
        """A new module of the entry, always with the same first weights."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            entry = self.entry.model_copy(update=changes)
            setting = Setting(
                channels=self.width,
                spatial_dims=len(self.space) or 3,
                records=24,
                data_digest="laws",
                classes=("control", "one", "two"),
                steps=10,
                seed=1,
            )
            module: torch.nn.Module = entry.build(setting).to(dtype)
        return module

    def loss(self, codes: Codes, gather: Gather = LOCAL, **changes: Any) -> LossOutput:
        """What a new module says of ``codes``."""
        dtype = torch.promote_types(codes.z.dtype, torch.float32)
        found: LossOutput = self.module(dtype, **changes)(codes, gather)
        return found


PER_ITEM = ("record", "subject", "box", "labels", "targets")
PER_VIEW = (
    "z",
    "teacher",
    "partition",
    "position",
    "affine",
    "image",
    "hidden",
    "turns",
    "body",
    "cells",
    "present",
    "words",
)


def with_items(codes: Codes, order: Tensor | slice) -> Codes:
    """The items ``order`` of every view."""
    values = {name: getattr(codes, name)[order] for name in PER_ITEM if getattr(codes, name) is not None}
    values |= {name: getattr(codes, name)[:, order] for name in PER_VIEW if getattr(codes, name) is not None}
    return replace(codes, **values)


def with_views(codes: Codes, order: list[int]) -> Codes:
    """The views in another order."""
    return replace(codes, **{n: getattr(codes, n)[order] for n in PER_VIEW if getattr(codes, n) is not None})
