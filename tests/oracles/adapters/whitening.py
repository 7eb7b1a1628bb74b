"""The row of shuffled group whitening."""

from __future__ import annotations

from torch import Tensor

from medcl.objectives.whitening import group_whitening as whiten
from tests.oracles.rows import Adapters, Computed, Given, gradients


def group_whitening(given: Given) -> Computed:
    x, direction, hyper = given.leaf("x"), given["direction"], given.hyper
    assert hyper["covariance"].startswith("biased")

    def whitened(stop_gradient: bool) -> Tensor:
        return whiten(x, given["perm"], groups=hyper["num_groups"], eps=hyper["eps"], stop_gradient=stop_gradient)

    found = whitened(False)
    return {
        "y": found,
        **gradients((found * direction).sum(), grad_x=x),
        **gradients((whitened(True) * direction).sum(), grad_x_stop=x),
    }


ADAPTERS: Adapters = {("objectives", "group_whitening"): group_whitening}
