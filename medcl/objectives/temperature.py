"""The temperature of an objective: a number, a schedule, or a learned parameter (objectives.md 1.5, 6.3).

Temperatures of every sample belong to the objectives that learn them (``isog_clr``), and so do those of every pair (``amcl``).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from medcl.config.strict import Strict
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.output import LossOutput


class CosineTemperature(Strict):
    """From ``start`` to ``end`` along half a cosine over the stage, or up and down with a period of that many steps."""

    name: Literal["cosine"] = "cosine"
    start: PositiveFloat = 0.1
    end: PositiveFloat = 0.5
    period: PositiveInt | None = Field(None, description="steps from start to end and back; null: once, over the stage")

    def at(self, step: int, steps: int) -> float:
        """The temperature before optimiser step number ``step`` of ``steps``."""
        share = min(step / max(steps - 1, 1), 1.0) if self.period is None else 2 * step / self.period
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


class LearnedTemperature(Strict):
    """One parameter, in log form, kept in ``range``."""

    name: Literal["learned"] = "learned"
    start: PositiveFloat = 0.07
    range: tuple[PositiveFloat, PositiveFloat] = (0.01, 1.0)

    @model_validator(mode="after")
    def _inside(self) -> LearnedTemperature:
        low, high = self.range
        if not low <= self.start <= high:
            raise ValueError(f"start {self.start} is outside of range {list(self.range)}")
        return self


TemperatureConfig = PositiveFloat | Annotated[CosineTemperature | LearnedTemperature, Field(discriminator="name")]


class Temperature(nn.Module):
    """What ``config`` says at a step of a stage of ``steps`` optimiser steps."""

    def __init__(self, config: TemperatureConfig, steps: int) -> None:
        super().__init__()
        self.config = config
        self.steps = steps
        self.log_scale = (
            nn.Parameter(torch.tensor(-math.log(config.start))) if isinstance(config, LearnedTemperature) else None
        )

    def forward(self, step: int | None) -> float | Tensor:
        """A number, or a scalar tensor where it is learned. ``step`` None is the first."""
        if isinstance(self.config, CosineTemperature):
            return self.config.at(step or 0, self.steps)
        if isinstance(self.config, LearnedTemperature):
            low, high = self.config.range
            assert self.log_scale is not None
            return 1 / self.log_scale.float().exp().clamp(1 / high, 1 / low)
        return self.config


class _Tempered(Protocol):
    @property
    def temperature(self) -> TemperatureConfig: ...
    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput: ...


class TemperedObjective(nn.Module):
    """The module of an objective whose only state is its temperature: its typed entry computes the loss."""

    def __init__(self, entry: _Tempered, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        return self.entry.loss(codes, self.temperature(codes.step), gather)
