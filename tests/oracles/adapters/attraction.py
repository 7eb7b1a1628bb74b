from __future__ import annotations

from typing import Any

from medcl.objectives.attraction import cacr
from tests.oracles.rows import Adapters, Computed, Given, gradients


def cacr_row(given: Given) -> Computed:
    z, hyper = given.leaf("z"), given.hyper
    settings: dict[str, Any] = {
        "attraction": hyper["alpha"],
        "repulsion": hyper["beta"],
        "positive_sharpness": hyper["tau_pos"],
        "negative_sharpness": hyper["tau_neg"],
    }
    found = cacr(z, **settings)
    through = cacr(z, **settings, grad_through_weight=True)
    uniform = cacr(z, **{**settings, "positive_sharpness": 0.0, "negative_sharpness": 0.0})
    debiased = cacr(z, **settings, debias=hyper["tau_plus"])
    return {
        "loss": found.loss,
        "attraction": found.parts["attraction"],
        "repulsion": found.parts["repulsion"],
        **gradients(found.loss, grad_z_detached_weights=z),
        **gradients(through.loss, grad_z=z),
        "attraction_uniform": uniform.parts["attraction"],
        "repulsion_uniform": uniform.parts["repulsion"],
        "repulsion_debiased": debiased.parts["repulsion"],
    }


ADAPTERS: Adapters = {("objectives", "cacr"): cacr_row}
