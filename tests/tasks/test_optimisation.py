"""What a configuration makes of an optimiser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.config.load import validate
from medcl.config.training import OptimiserConfig
from medcl.errors import ConfigError
from medcl.tasks.optimisation import build_optimiser


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_rates_decays_and_moments_are_those_asked_for(name: str, kind: type) -> None:
    layer, other = nn.Linear(2, 3), nn.Linear(3, 1)
    values = {"name": name, "lr": 0.5, "weight_decay": 0.25, "betas": [0.8, 0.95], "eps": 1e-5, "warmup": 0}
    groups = [{"params": layer.parameters(), "scale": 0.1}, {"params": other.parameters()}]
    built = build_optimiser(groups, validate(OptimiserConfig, values), steps=10)["optimizer"]
    assert type(built) is kind
    assert all(group["betas"] == (0.8, 0.95) and group["eps"] == 1e-5 for group in built.param_groups)
    found = {id(part): group for group in built.param_groups for part in group["params"]}
    assert found[id(layer.weight)]["initial_lr"] == pytest.approx(0.05)
    assert found[id(other.bias)]["initial_lr"] == 0.5
    assert [found[id(part)]["weight_decay"] for part in layer.parameters()] == [0.25, 0.0]


def test_a_decay_of_moments_of_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="less than 1"):
        validate(OptimiserConfig, {"betas": [0.9, 1.0]})
