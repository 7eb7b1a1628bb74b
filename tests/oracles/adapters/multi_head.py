from __future__ import annotations

import torch

from medcl.objectives.kernel import unit
from medcl.objectives.multi_head import PairTemperature, amcl, omega
from tests.oracles.rows import Adapters, Computed, Given, gradients


def amcl_row(given: Given) -> Computed:
    z, hyper = given.leaf("z"), given.hyper
    heads, _, items, width = z.shape
    hidden = given["phi_b1"].shape[1]
    networks = []
    for head in range(heads):
        network = PairTemperature(width, hidden, hyper["tau_lower"], hyper["tau_upper"]).to(given.dtype)
        network.load_state_dict(
            {
                "inner.weight": given["phi_w1"][head],
                "inner.bias": given["phi_b1"][head],
                "outer.weight": given["phi_w2"][head][None],
                "outer.bias": given["phi_b2"][head][None],
            }
        )
        networks.append(network)
    rows = unit(z).flatten(1, 2)
    tau = torch.stack([network(own, own[None]) for network, own in zip(networks, rows, strict=True)])
    same = torch.arange(2 * items) % items
    cosine = (rows @ rows.mT).masked_fill(same[:, None] == same[None], -2)
    found = {mode: amcl(z, networks, beta=hyper["beta"], mode=mode) for mode in ("max", "lse")}
    return {
        "tau": tau,
        "omega": omega(tau, width),
        "hardest": cosine.argmax(-1),
        **{f"loss_{mode}": output.loss for mode, output in found.items()},
        **gradients(found["max"].loss, grad_z_max=z),
        **gradients(found["lse"].loss, grad_z_lse=z),
    }


ADAPTERS: Adapters = {("objectives", "amcl"): amcl_row}
