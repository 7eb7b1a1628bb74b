"""The row of objectives without negatives, with one side of MoCo v3 and NNCLR."""

from __future__ import annotations

import torch

from medcl.objectives.decorrelation import barlow, vicreg
from medcl.objectives.prediction import byol, simsiam
from medcl.objectives.queue import moco_v3, nnclr
from tests.oracles.rows import Adapters, Computed, Given, gradients


def noncontrastive_baselines(given: Given) -> Computed:
    z1, z2, p1 = given.leaf("z1"), given.leaf("z2"), given.leaf("p1")
    hyper, weights = given.hyper, given.hyper["vicreg"]
    guess = byol(p1, z2)
    correlated = barlow(
        z1, z2, redundancy=hyper["barlow_lambda"], scale=hyper["barlow_scale"], eps=hyper["barlow_bn_eps"]
    )
    vicreg_weights = {
        "invariance": weights["sim"],
        "variance": weights["var"],
        "covariance": weights["cov"],
        "eps": weights["std_eps"],
    }
    varied = vicreg(z1, z2, **vicreg_weights)
    asked = moco_v3(p1, z2, temperature=hyper["mocov3_temperature"])
    near = nnclr(z2, p1, temperature=hyper["nnclr_temperature"])
    return {
        "byol": guess.loss,
        **gradients(guess.loss, byol_grad_p1=p1),
        "simsiam": simsiam(p1, z2).loss,
        "barlow": correlated.loss,
        **gradients(correlated.loss, barlow_grad_z1=z1, barlow_grad_z2=z2),
        "vicreg_terms": torch.stack([varied.parts[name] for name in ("invariance", "variance", "covariance")]),
        "vicreg": varied.loss,
        "vicreg_half_variance": vicreg(z1, z2, **vicreg_weights, variance_halved=True).loss,
        **gradients(varied.loss, vicreg_grad_z1=z1, vicreg_grad_z2=z2),
        "mocov3_one_side": asked.loss,
        **gradients(asked.loss, mocov3_grad_p1=p1),
        "nnclr_one_side": near.loss,
        **gradients(near.loss, nnclr_grad_p1=p1),
    }


ADAPTERS: Adapters = {("objectives", "noncontrastive_baselines"): noncontrastive_baselines}
