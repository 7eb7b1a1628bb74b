"""Rows of the objectives with one term an instance: from a row's arrays to medcl's functions and back."""

from __future__ import annotations

from typing import Any

from medcl.objectives.instance import nt_xent
from medcl.objectives.multi_view import mv_dhel as mv_dhel_loss
from medcl.objectives.multi_view import mv_info_nce
from tests.oracles.rows import Adapters, Computed, Given, gradients


def _settings(given: Given) -> dict[str, Any]:
    return {"temperature": given.hyper["temperature"], "normalize": given.hyper["normalize"]}


def mv_infonce(given: Given) -> Computed:
    z = given.leaf("z")
    found = mv_info_nce(z, **_settings(given))
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_z=z),
        "loss_two_views": mv_info_nce(z[:2], **_settings(given)).loss,
        "ntxent_two_views": nt_xent(z[:2], **_settings(given)).loss,
    }


def mv_dhel(given: Given) -> Computed:
    z = given.leaf("z")
    found = mv_dhel_loss(z, **_settings(given))
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_z=z),
        "loss_two_views": mv_dhel_loss(z[:2], **_settings(given)).loss,
    }


ADAPTERS: Adapters = {
    ("objectives", "mv_infonce"): mv_infonce,
    ("objectives", "mv_dhel"): mv_dhel,
}
