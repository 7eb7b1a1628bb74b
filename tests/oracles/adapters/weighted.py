from __future__ import annotations

import torch

from medcl.objectives.masks import Count, Same
from medcl.objectives.weighted import LearnedWeight, ipw_weights, proto_nce, weighted_info_nce
from tests.oracles.rows import Adapters, Computed, Given, gradients


def ipw_infonce(given: Given) -> Computed:
    z1, z2, hyper = given.leaf("z1"), given.leaf("z2"), given.hyper
    weights = ipw_weights(given["propensity"], largest=hyper["clip"])
    found = weighted_info_nce(z1, z2, weight=weights, temperature=hyper["temperature"], normalize=hyper["normalize"])
    return {
        "weights": weights,
        "loss": found.loss,
        "loss_per_anchor": found.per_anchor,
        **gradients(found.loss, grad_z1=z1, grad_z2=z2),
    }


def meow(given: Given) -> Computed:
    anchor, other, hyper = given.leaf("z_anchor"), given.leaf("z_other"), given.hyper
    ids = {side: given[f"cluster_{side}"] for side in "ab"}
    weights = Count([~Same(found) for found in ids.values()])
    info = weighted_info_nce(anchor, other, weight=weights, positive="none", temperature=hyper["temperature"]).loss
    terms = [proto_nce(anchor, ids[side], given[f"centroid_{side}"], given[f"density_{side}"]).mean() for side in ids]
    standard = torch.stack(terms).mean()
    sizes = torch.tensor([float(count) for count in hyper["num_clusters"]], dtype=given.dtype)
    published = standard + (len(anchor) / sizes).log().mean()  # mean over prototypes times N instead of their sum
    total = info + hyper["lambda_proto"] * standard
    return {
        "weights": weights.block().to(given.dtype),
        "loss_info": info,
        "loss_proto_standard": standard,
        "loss_proto": published,
        **gradients(total, grad_anchor=anchor, grad_other=other),
    }


def adameow(given: Given) -> Computed:
    anchor, other = given.leaf("z_anchor"), given.leaf("z_other")
    hidden, channels = given["mlp_w1"].shape
    network = LearnedWeight(channels, hidden).to(given.dtype)
    arrays = {"inner.weight": given["mlp_w1"], "inner.bias": given["mlp_b1"], "outer.bias": given["mlp_b2"]}
    network.load_state_dict({**arrays, "outer.weight": given["mlp_w2"][None]})
    weights = network(anchor, other)
    found = weighted_info_nce(
        anchor, other, weight=weights, positive="weighted", temperature=given.hyper["temperature"]
    )
    return {
        "weights": weights,
        "loss": found.loss,
        **gradients(found.loss, grad_anchor=anchor, grad_other=other),
    }


ADAPTERS: Adapters = {
    ("objectives", "ipw_infonce"): ipw_infonce,
    ("objectives", "meow"): meow,
    ("objectives", "adameow"): adameow,
}
