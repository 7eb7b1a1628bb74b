from __future__ import annotations

import torch

from medcl.objectives.decoupled import dcl, dclw
from medcl.objectives.instance import nt_xent
from tests.oracles.rows import Adapters, Computed, Given, gradients


def dcl_row(given: Given) -> Computed:
    z1, z2, tau = given.leaf("z1"), given.leaf("z2"), given.hyper["temperature"]
    views = torch.stack([z1, z2])
    found = dcl(views, temperature=tau, normalize=False)
    first, second = found.per_anchor.view(2, -1).mean(1)
    return {
        "loss": found.loss,
        "loss_12": first,
        "loss_21": second,
        "ntxent_same_inputs": nt_xent(views, temperature=tau, normalize=False).loss,
        **gradients(found.loss, grad_z1=z1, grad_z2=z2),
    }


def dclw_row(given: Given) -> Computed:
    z1, z2, tau, sigma = given.leaf("z1"), given.leaf("z2"), given.hyper["temperature"], given.hyper["sigma"]
    views, settings = torch.stack([z1, z2]), {"temperature": tau, "normalize": False}
    found = dclw(views, sigma=sigma, **settings)
    through = dclw(views, sigma=sigma, grad_through_weight=True, **settings)
    plain = dcl(views, **settings)
    positive = (z1 * z2).sum(1) / tau
    weights = 1 + (plain.per_anchor - found.per_anchor)[: len(z1)] / positive  # l_w = l - (w - 1) s / t
    return {
        "loss": found.loss,
        "loss_12": found.per_anchor[: len(z1)].mean(),
        "weights": weights,
        **gradients(found.loss, grad_z1_detached=z1, grad_z2_detached=z2),
        **gradients(through.loss, grad_z1_through_weights=z1, grad_z2_through_weights=z2),
    }


ADAPTERS: Adapters = {("objectives", "dcl"): dcl_row, ("objectives", "dclw"): dclw_row}
