"""What a configuration makes of an optimiser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.config.encoder import ResidualEncoderConfig, SegResNetConfig, SwinUNETRConfig
from medcl.config.load import validate
from medcl.config.training import OptimiserConfig
from medcl.config.tuning import TuningConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.errors import ConfigError
from medcl.tasks.optimisation import build_optimiser, tuned_groups


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


@pytest.mark.parametrize(
    "config",
    [ResidualEncoderConfig(dims=2), SegResNetConfig(filters=8, dims=2), SwinUNETRConfig(features=12, dims=2)],
    ids=lambda c: c.name,
)
def test_rates_fall_from_each_level_of_a_pretrained_encoder_to_the_finer_one(config: object) -> None:
    network = Segmenter(build_encoder(config, 1, (64, 64)), 2)
    values = {"out": "run", "data": {"path": "x"}, "encoder_lr": 0.5, "encoder_lr_decay": 0.8}
    tuning = validate(TuningConfig, values)
    groups = tuned_groups(network.parameters(), network.encoder, tuning)
    levels = len(network.encoder.channels)
    assert [group.get("scale", 1.0) for group in groups] == pytest.approx([*(0.5 * 0.8**k for k in range(levels)), 1.0])
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    encoder = {id(p) for p in network.encoder.encoder.parameters()}
    assert not encoder & {id(p) for p in groups[-1]["params"]}
    maps = network.encoder.encode(torch.zeros(1, 1, 64, 64, requires_grad=True))
    for level, group in enumerate(reversed(groups[:-1])):
        if not group["params"]:  # the image itself is a level
            continue
        uses = [
            [
                grad is not None
                for grad in torch.autograd.grad(found.sum(), group["params"], None, True, allow_unused=True)
            ]
            for found in maps
        ]
        assert all(uses[level])
        assert not any(any(used) for used in uses[:level])
    for start in (None, network.encoder):
        same = tuning.model_copy(update={"encoder_lr": 1.0, "encoder_lr_decay": 1.0})
        assert len(tuned_groups(network.parameters(), start, same if start else tuning)) == 1
