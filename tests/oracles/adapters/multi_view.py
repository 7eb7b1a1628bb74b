from __future__ import annotations

from medcl.objectives.instance import nt_xent
from medcl.objectives.multi_view import mv_dhel, mv_info_nce
from tests.oracles.rows import Adapters, Computed, Given, gradients


def mv_infonce_row(given: Given) -> Computed:
    z, settings = given.leaf("z"), {name: given.hyper[name] for name in ("temperature", "normalize")}
    found = mv_info_nce(z, **settings)
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_z=z),
        "loss_two_views": mv_info_nce(z[:2], **settings).loss,
        "ntxent_two_views": nt_xent(z[:2], **settings).loss,
    }


def mv_dhel_row(given: Given) -> Computed:
    z, settings = given.leaf("z"), {name: given.hyper[name] for name in ("temperature", "normalize")}
    found = mv_dhel(z, **settings)
    return {"loss": found.loss, **gradients(found.loss, grad_z=z), "loss_two_views": mv_dhel(z[:2], **settings).loss}


ADAPTERS: Adapters = {("objectives", "mv_infonce"): mv_infonce_row, ("objectives", "mv_dhel"): mv_dhel_row}
