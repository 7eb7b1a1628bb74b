"""Rows of ``volumetric.json``: from the arrays of a row to medcl's functions and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.evaluation.metrics import dice as hard_dice
from medcl.evaluation.segmentation import score_case
from medcl.objectives.dense import local_ld, local_lr, region_codes
from medcl.objectives.instance import nt_xent as nt_xent_loss
from medcl.objectives.partition import Strategy, partition_contrastive
from medcl.objectives.segmentation import soft_dice
from medcl.objectives.supervised import supcon as supcon_loss
from tests.oracles.rows import Adapter, Adapters, Computed, Given, gradients


def nt_xent(given: Given) -> Computed:
    z1, z2 = given.leaf("z1"), given.leaf("z2")
    found = nt_xent_loss(torch.stack([z1, z2]), temperature=given.hyper["temperature"])
    return {
        "loss": found.loss,
        "loss_per_anchor": found.per_anchor,
        **gradients(found.loss, grad_z1=z1, grad_z2=z2),
    }


def supcon(given: Given) -> Computed:
    features, labels = given.leaf("features"), given["labels"]
    tau = given.hyper["temperature"]
    views = features.transpose(0, 1)
    found = supcon_loss(views, labels, temperature=tau, count_empty=True)
    scaled = supcon_loss(views, labels, temperature=tau, base_temperature=0.07, count_empty=True)
    single = supcon_loss(views[:1], given["labels_singletons"], temperature=tau, count_empty=True)
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_features=features),
        "loss_base_temp_0p07": scaled.loss,
        "loss_singletons": single.loss,
    }


def _global(strategy: Strategy) -> Adapter:
    def adapter(given: Given) -> Computed:
        z = given.leaf("z")
        metadata = {name: given[name] for name in ("volume", "partition", "view", "slice_id")}
        settings = {"temperature": given.hyper["temperature"], **metadata}
        found = partition_contrastive(z, strategy=strategy, **settings)
        paper = partition_contrastive(z, strategy=strategy, norm="paper", **settings)
        pairs = given["pairs"]
        explicit = partition_contrastive(z, pairs=torch.cat([pairs, pairs.flip(1)]), **settings)
        torch.testing.assert_close(explicit.loss, found.loss)
        assert explicit.parts["valid_terms"] == found.parts["valid_terms"] == 2 * len(pairs)
        return {
            "loss_mean_directed": found.loss,
            "loss_paper_norm": paper.loss,
            **gradients(found.loss, grad_z=z),
        }

    return adapter


def global_gd_released_layout(given: Given) -> Computed:
    z, pairs = given.leaf("z"), given["directed_pairs"]
    # slot and group say how the pairs came about; the pairs themselves are what the loss reads.
    assert len(given["slot"]) == len(given["group"]) == len(z)
    settings = {"partition": given["partition"], "pairs": pairs, "temperature": given.hyper["temperature"]}
    found = partition_contrastive(z, **settings)
    summed = partition_contrastive(z, reduction="sum", **settings)
    return {
        "loss_mean_directed": found.loss,
        "loss_released_norm": summed.loss / len(z),
        **gradients(found.loss, grad_z=z),
    }


def local_lr_row(given: Given) -> Computed:
    f1, f2, weight = given.leaf("f1"), given.leaf("f2"), given.leaf("proj_weight")
    corners, neighbours = given["region_start"], given["neg_index"]
    tau, size = given.hyper["temperature"], given.hyper["region_size"]
    codes = torch.stack([region_codes(maps, corners, size, weight) for maps in (f1, f2)])
    found = local_lr(codes, neighbours, temperature=tau)
    others = local_lr(codes, _all_others(len(corners)), temperature=tau)
    return {
        "loss": found.loss,
        "loss_all_negatives": others.loss,
        **gradients(found.loss, grad_f1=f1, grad_f2=f2, grad_proj_weight=weight),
    }


def local_ld_row(given: Given) -> Computed:
    f1, f2, weight = given.leaf("f1"), given.leaf("f2"), given["proj_weight"]
    corners, neighbours = given["region_start"], given["neg_index"]
    tau, size = given.hyper["temperature"], given.hyper["region_size"]
    volume, partition, pairs = given["volume"], given["partition"], given["pairs"]
    codes = region_codes(torch.cat([f1, f2]), corners, size, weight)
    found = local_ld(codes, neighbours, partition=partition.repeat(2), temperature=tau)
    assert found.per_anchor.shape == (2 * len(pairs), len(corners))
    computed: Computed = {"loss": found.loss, **gradients(found.loss, grad_f1=f1, grad_f2=f2)}
    if "loss_released_form" in given:
        computed["loss_released_form"] = _released_form(codes, volume, partition, neighbours[:, :-1], tau)
    return computed


def _released_form(codes: Tensor, volume: Tensor, partition: Tensor, neighbours: Tensor, tau: float) -> Tensor:
    """Anchors from view 1 only; partners are the own view 2 and the view-1 maps of the other volumes, one fewer negative.

    The terms are medcl's; which of them the released code adds up, and what it divides by, is said here.
    """
    maps, regions = len(partition), codes.shape[1]
    both = partition.repeat(2)
    found = local_ld(codes, neighbours, partition=both, temperature=tau, reduction="none")
    linked = (both[:, None] == both[None]) & ~torch.eye(2 * maps, dtype=torch.bool)
    anchor, partner = linked.nonzero(as_tuple=True)
    own_other_view = partner == anchor + maps
    other_volume = (partner < maps) & (volume.repeat(2)[anchor] != volume.repeat(2)[partner])
    used = (anchor < maps) & (own_other_view | other_volume)
    return found.loss[used].sum() / (regions * 2 * maps)


def _all_others(count: int) -> Tensor:
    index = torch.arange(count).expand(count, count)
    return index[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)


def dice(given: Given) -> Computed:
    logits, target = given.leaf("logits"), given["target"]
    settings: Any = {"absent": "zero", "epsilon": given.hyper["epsilon"]}
    found = soft_dice(logits, target, **settings)
    predicted, true = given["pred_volume"], given["true_volume"]
    classes = logits.shape[1]
    per_class = [hard_dice((predicted == k).numpy(), (true == k).numpy()) for k in range(classes)]
    case = score_case(predicted.numpy(), true.numpy(), np.eye(4), range(1, classes))
    return {
        "loss_with_background": found.loss,
        "loss_without_background": soft_dice(logits, target, background=False, **settings).loss,
        **gradients(found.loss, grad_logits=logits),
        "dice_per_class": torch.tensor(per_class, dtype=torch.float64),
        "foreground_dice": torch.tensor(case.value("dice"), dtype=torch.float64),
    }


ADAPTERS: Adapters = {
    ("volumetric", "nt_xent"): nt_xent,
    ("volumetric", "supcon"): supcon,
    ("volumetric", "global_gd_minus"): _global("gd_minus"),
    ("volumetric", "global_gd"): _global("gd"),
    ("volumetric", "global_gd_released_layout"): global_gd_released_layout,
    ("volumetric", "local_lr_2d"): local_lr_row,
    ("volumetric", "local_lr_3d"): local_lr_row,
    ("volumetric", "local_ld_2d"): local_ld_row,
    ("volumetric", "local_ld_3d"): local_ld_row,
    ("volumetric", "dice"): dice,
}
