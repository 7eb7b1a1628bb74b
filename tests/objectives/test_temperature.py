"""Temperatures that are learned or follow a schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medcl.objectives.codes import Codes, Setting
from medcl.objectives.instance import Clip, NTXent
from medcl.objectives.temperature import CosineTemperature, LearnedTemperature
from tests.laws.cases import CASES

CODES = Codes(z=torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)))


def test_a_learned_temperature_stays_within_its_range() -> None:
    module = Clip().build(Setting(5))
    found = module(CODES)
    assert found.parts["temperature"] == pytest.approx(0.07)
    found.loss.backward()
    (parameter,) = module.parameters()
    assert parameter.grad.abs() > 0
    with torch.no_grad():
        parameter.fill_(9.0)
    assert module(CODES).parts["temperature"] == pytest.approx(0.01)
    assert not list(Clip(temperature=0.07).build(Setting(5)).parameters())


def test_a_schedule_goes_from_start_to_end() -> None:
    module = NTXent(temperature=CosineTemperature(start=0.1, end=0.5)).build(Setting(5, steps=11))
    seen = [float(module(replace(CODES, step=step)).parts["temperature"]) for step in (0, 5, 10)]
    assert seen == pytest.approx([0.1, 0.3, 0.5])
    wave = CosineTemperature(start=0.1, end=0.5, period=4)
    assert [wave.at(step, 100) for step in (0, 2, 4)] == pytest.approx([0.1, 0.5, 0.1])


def test_every_temperature_that_a_configuration_can_name_is_read() -> None:
    assert NTXent.model_validate({"temperature": {"name": "cosine", "end": 0.2}}).temperature == CosineTemperature(
        end=0.2
    )
    assert isinstance(Clip.model_validate({"temperature": {"name": "learned"}}).temperature, LearnedTemperature)
    for wrong in ({"name": "learned", "start": 3.0}, -0.1, {"name": "warm"}):
        with pytest.raises(ValueError):
            NTXent.model_validate({"temperature": wrong})


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if "temperature" in type(case.entry).model_fields]
)
def test_the_temperature_that_is_set_is_the_one_that_is_used(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    assert case.loss(codes, temperature=0.3).loss != case.loss(codes, temperature=0.31).loss
