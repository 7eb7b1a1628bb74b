"""From an optimiser's configuration to the optimiser and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from medcl.config.training import OptimiserConfig
from medcl.config.tuning import TuningConfig
from medcl.encoders.volume import Encoder


def build_optimiser(groups: Iterable[dict[str, Any]], config: OptimiserConfig, steps: int) -> dict[str, Any]:
    """Lightning's optimiser dictionary for parameter ``groups`` (``params`` and an optional ``scale`` of the rate).

    Biases and normalisation weights (one-dimensional parameters) get no weight decay.
    """
    split = []
    for group in groups:
        rate = config.lr * group.get("scale", 1.0)
        params: list[nn.Parameter] = list(group["params"])
        matrices = [p for p in params if p.ndim > 1]
        vectors = [p for p in params if p.ndim <= 1]
        split.append({"params": matrices, "lr": rate, "weight_decay": config.weight_decay})
        split.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
    split = [group for group in split if group["params"]]
    optimiser: torch.optim.Optimizer
    if config.name == "sgd":
        optimiser = torch.optim.SGD(split, lr=config.lr, momentum=0.99, nesterov=True)
    else:
        kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        optimiser = kind(split, lr=config.lr, betas=config.betas, eps=config.eps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate_factor(config, steps))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def tuned_groups(
    parameters: Iterable[nn.Parameter], pretrained: Encoder | None, config: TuningConfig
) -> list[dict[str, Any]]:
    """The parameters that train, those of a ``pretrained`` encoder in groups of their own at the rates of ``config``, coarse to fine."""
    trained = {id(p): p for p in parameters if p.requires_grad}
    groups = []
    slower = config.encoder_lr != 1 or config.encoder_lr_decay != 1
    for depth, modules in enumerate(reversed(pretrained.layers if pretrained is not None and slower else [])):
        own = [trained.pop(id(p)) for part in modules for p in part.parameters() if id(p) in trained]
        groups.append({"params": own, "scale": config.encoder_lr * config.encoder_lr_decay**depth})
    return [*groups, {"params": list(trained.values())}]


def rate_factor(config: OptimiserConfig, steps: int) -> Callable[[int], float]:
    """The learning rate at a step, relative to ``config.lr``: linear warm-up, then the schedule to the last step."""
    warmup = min(config.warmup, max(steps - 1, 0))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(steps - warmup, 1), 1.0)
        if config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if config.schedule == "polynomial":
            return float((1 - done) ** 0.9)
        return 1.0

    return factor
