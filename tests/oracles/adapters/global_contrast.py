"""Five consecutive steps of every row, with the state after each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medcl.objectives.codes import Codes, Setting
from medcl.objectives.global_contrast import AveragedObjective, ISogCLIP, ISogCLR, SogCLIP, SogCLR, sog_clip
from tests.oracles.rows import Adapter, Adapters, Computed, Given


def _module(entry: type, given: Given) -> AveragedObjective:
    hyper = given.hyper
    settings: dict[str, Any] = {"gamma": hyper["gamma"], "temperature": hyper["temperature"]}
    if "rho" in hyper:
        settings |= {name: hyper[name] for name in ("rho", "eta", "beta", "grad_clip")}
        settings["range"] = (hyper["tau_min"], hyper["tau_max"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(given.dtype)
    try:
        module: AveragedObjective = entry(**settings).build(Setting(4, records=hyper["num_samples"]))
    finally:
        torch.set_default_dtype(before)
    return module


def _steps(entry: type, first: str, second: str, sides: tuple[str, ...]) -> Adapter:
    def adapter(given: Given) -> Computed:
        module = _module(entry, given)
        found: dict[str, list[Tensor]] = {}

        def note(name: str, value: Tensor) -> None:
            found.setdefault(name, []).append(value.detach().clone())

        one, two, index = given.leaf(first), given.leaf(second), given["index"]
        for x, y, record in zip(one, two, index, strict=True):
            if sides == ("",):
                output = module(Codes(z=torch.stack([x, y]), record=record))
            else:  # the rows are unit rows, and the expected gradient is that of no normalisation
                before = {"log_u": module.log_u[:, record], "first_visit": module.visits[record] == 0}
                tau = given.hyper["temperature"] if module.tau is None else module.tau[:, record]
                settings = {"gamma": given.hyper["gamma"], "temperature": tau, "normalize": False}
                output = sog_clip(x, y, **before, **settings).output
                published = sog_clip(x, y, **before, **settings, published_scale=True).output
                note("loss_published_scale", published.loss)
                module(Codes(z=torch.stack([x, y]).detach(), record=record))
            note("loss", output.loss)
            for name, gradient in zip((first, second), torch.autograd.grad(output.loss, [x, y]), strict=True):
                note(f"grad_{name}", gradient)
            if sides == ("",):
                note("u_after", torch.where(module.visits > 0, module.log_u[0].exp(), 0.0))
            else:
                for number, side in enumerate(sides):
                    note(f"log_u{side}_after", module.log_u[number])
            if module.tau is not None and module.tau_momentum is not None:
                for number, side in enumerate(sides):
                    note(f"tau{side}_after", module.tau[number])
                if sides == ("",):
                    note("tau_momentum_after", module.tau_momentum[0])
        return {name: torch.stack(values) for name, values in found.items()}

    return adapter


SIDES = ("_image", "_text")
ADAPTERS: Adapters = {
    ("objectives", "sogclr_unimodal"): _steps(SogCLR, "z1", "z2", ("",)),
    ("objectives", "isogclr_unimodal"): _steps(ISogCLR, "z1", "z2", ("",)),
    ("objectives", "sogclr_bimodal"): _steps(SogCLIP, "image", "text", SIDES),
    ("objectives", "isogclr_bimodal"): _steps(ISogCLIP, "image", "text", SIDES),
}
