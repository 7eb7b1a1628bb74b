from __future__ import annotations

import torch

from medcl.objectives.cluster_contrast import pamc, proxies
from medcl.objectives.kernel import unit
from tests.oracles.rows import Adapters, Computed, Given, gradients


def pamc_row(given: Given) -> Computed:
    z, hyper = given.leaf("z"), given.hyper
    found = pamc(z, given["cluster"], given["adjacency"], scale=hyper["scale"], eps=hyper["eps"])
    # The denominator sums raw members, and takes the cosine: rows of any length, proxies of length 1.
    similarity, sizes = proxies(unit(z.detach()), z.detach(), given["cluster"])
    denominator = torch.logsumexp(hyper["scale"] * similarity + sizes.log(), 1)
    return {"loss": found.loss, "proxy_log_denominator": denominator, **gradients(found.loss, grad_z=z)}


ADAPTERS: Adapters = {("objectives", "pamc"): pamc_row}
