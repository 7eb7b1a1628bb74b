"""Rows of ``volumetric.json``: from the arrays of a row to medcl's functions and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medcl.encoders.heads import Reweight
from medcl.evaluation.metrics import dice as hard_dice
from medcl.evaluation.segmentation import score_case
from medcl.objectives.cells import Cells, cell_distances, correspondences
from medcl.objectives.class_means import at_voxels, class_mean_contrast, class_means
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.core_tuning import focal_supcon, hardest, mixed_cross_entropy, mixtures
from medcl.objectives.dense import local_ld, local_lr, region_codes
from medcl.objectives.distillation import body_distillation, class_edges, edge_distillation, edge_shares
from medcl.objectives.instance import nt_xent as nt_xent_loss
from medcl.objectives.kernel import unit
from medcl.objectives.overlap import base_spread, overlap_logits, voco
from medcl.objectives.partition import Strategy, partition_contrastive
from medcl.objectives.pixels import PixPro, pix_contrast, pix_pro, propagate
from medcl.objectives.quality import agreement, foreground_masks, pair_quality
from medcl.objectives.regression import mixing_pairs, supremix
from medcl.objectives.segmentation import soft_dice
from medcl.objectives.separation import sepclr
from medcl.objectives.super_resolution import feature_info_nce
from medcl.objectives.supervised import supcon as supcon_loss
from medcl.objectives.swav import swav, swav_codes
from medcl.views.geometry import cell_centres
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


def _boxes(given: Given, name: str, shape: tuple[int, ...]) -> Cells:
    """The cells of maps of ``shape`` of crops at the corners ``x0 y0 x1 y1``, the unit being the image."""
    x0, y0, x1, y1 = given[name].double().T
    width, height = (x1 - x0) / shape[1], (y1 - y0) / shape[0]
    row, column = torch.cartesian_prod(*[torch.arange(size) + 0.5 for size in shape]).double().T
    nothing = torch.zeros_like(width)
    place = [y0[:, None] + row * height[:, None], x0[:, None] + column * width[:, None]]
    edges = [torch.stack([height, nothing, nothing], -1), torch.stack([nothing, width, nothing], -1)]
    return Cells(torch.stack([*place, torch.zeros_like(place[0])], -1), torch.stack(edges, 1))


def _both(first: Cells, second: Cells) -> Cells:
    return Cells(torch.stack([first.centres, second.centres]), torch.stack([first.edges, second.edges]))


def _volumes(given: Given, name: str, shape: tuple[int, ...]) -> Cells:
    """The cells of maps of ``shape`` of views with the affines ``name``."""
    affine, strides = given[name].double(), given.hyper["feature_stride"]
    return Cells(cell_centres(affine, shape, strides), affine[:, :3, :3].mT * torch.tensor(strides)[:, None])


def pixcontrast_2d(given: Given) -> Computed:
    f1, f2 = given.leaf("f1"), given.leaf("f2")
    cells = [_boxes(given, name, f1.shape[2:]) for name in ("coord1", "coord2")]
    threshold = given.hyper["threshold"]
    found = pix_contrast(
        torch.stack([f1, f2]), _both(*cells), threshold=threshold, temperature=given.hyper["temperature"]
    )
    return {
        "distance": cell_distances(*cells),
        "positive_mask": correspondences(*cells, threshold=threshold),
        "loss": found.loss,
        "loss_per_image_direction": found.per_anchor.T,
        **gradients(found.loss, grad_f1=f1, grad_f2=f2),
    }


def pixpro_2d(given: Given) -> Computed:
    x1, x2 = given.leaf("x1"), given.leaf("x2")
    cells = [_boxes(given, name, x1.shape[2:]) for name in ("coord1", "coord2")]
    threshold = given.hyper["threshold"]
    entry = PixPro(threshold=threshold, sharpness=given.hyper["sharpness"], transform=given.hyper["transform_layers"])
    module = entry.build(Setting(channels=x1.shape[1], spatial_dims=2)).to(x1.dtype)
    with torch.no_grad():
        module.transform[0].weight.copy_(given["value_weight"][..., 0, 0])
        module.transform[0].bias.copy_(given["value_bias"])
    maps, teacher = torch.stack([x1, x2]), torch.stack([given["k1"], given["k2"]])
    found = module(Codes(z=maps, teacher=teacher, cells=_both(*cells)))
    values = module.transform(maps.movedim(2, -1)).movedim(-1, 2)
    y1, y2 = propagate(maps, values, sharpness=given.hyper["sharpness"], clamp=given.hyper["clamp"])
    return {
        "y1": y1,
        "y2": y2,
        "positive_mask": correspondences(*cells, threshold=threshold),
        "loss": found.loss,
        **gradients(found.loss, grad_x1=x1, grad_x2=x2),
    }


def pix3d(given: Given) -> Computed:
    f1, f2, x1 = given.leaf("f1"), given.leaf("f2"), given.leaf("x1")
    first, second = (_volumes(given, name, f1.shape[2:]) for name in ("affine1", "affine2"))
    threshold = given.hyper["threshold"]
    cells = _both(first, second)
    contrast = pix_contrast(torch.stack([f1, f2]), cells, threshold=threshold, temperature=given.hyper["temperature"])
    maps = torch.stack([x1, x1])
    y1, _ = propagate(maps, maps, sharpness=given.hyper["sharpness"], clamp=given.hyper["clamp"])
    targets = torch.stack([given["k2"], given["k2"]])
    one_way = pix_pro(torch.stack([y1, y1]), targets, cells, threshold=threshold).per_anchor[0].mean()
    return {
        "world1": first.centres,
        "world2": second.centres,
        "distance": cell_distances(first, second),
        "positive_mask": correspondences(first, second, threshold=threshold),
        "pixcontrast_loss": contrast.loss,
        "ppm_y1": y1,
        "pixpro_one_way_loss": one_way,
        **gradients(contrast.loss, grad_f1=f1, grad_f2=f2),
        **gradients(one_way, grad_x1=x1),
    }


def swav_row(given: Given) -> Computed:
    z, prototypes, queue = given.leaf("z"), given.leaf("prototypes"), given["queue"]
    hyper = given.hyper
    balance: Any = {"epsilon": hyper["epsilon"], "iterations": hyper["sinkhorn_iterations"]}
    settings: Any = {**balance, "assign": len(hyper["crops_for_assign"]), "temperature": hyper["temperature"]}
    found = swav(z, prototypes, **settings)
    rows = unit(z[: settings["assign"]])
    return {
        "assignments": swav_codes(rows, prototypes, **balance),
        "loss": found.loss,
        **gradients(found.loss, grad_z=z, grad_prototypes=prototypes),
        "assignments_with_queue": swav_codes(rows, prototypes, queue=queue, **balance),
        "loss_with_queue": swav(z, prototypes, queue=queue, **settings).loss,
    }


def voco_row(given: Given) -> Computed:
    crops, bases = given.leaf("crop_embed"), given.leaf("base_embed")
    logits = overlap_logits(crops, bases)
    found = voco(logits, given["overlap_label"], epsilon=given.hyper["eps"])
    spread = base_spread(bases)
    return {
        "logits": logits,
        "position_loss": found.parts["position"],
        "negative_loss": found.parts["negative"],
        "base_reg": spread.view(1),
        **gradients(found.loss + spread, grad_crop=crops, grad_base=bases),
    }


def core_tuning(given: Given) -> Computed:
    features, labels = given["features"], given["labels"]
    raw, logits = given.leaf("contrast_raw"), given.leaf("logits")
    temperature, items = given.hyper["temperature"], len(features)
    positive, negative = hardest(features, labels)
    # The released code mines among similarities times a mask of zeros and ones, where a masked zero may win, and takes
    # item 0 for "none found".
    cosine = unit(features) @ unit(features).T
    same = (labels[:, None] == labels[None]) & ~torch.eye(items, dtype=torch.bool)
    released = (cosine * same).argmin(1)
    mixed = mixtures(
        features,
        functional.one_hot(labels, logits.shape[1]),
        positive=torch.where(released == 0, torch.arange(items), released),
        negative=(cosine * (labels[:, None] != labels[None])).argmax(1),
        partner=given["shuffle_order"],
        positive_share=given["lam_positive"],
        negative_share=given["lam_negative"],
        floor=given.hyper["neg_lambda_floor"],
    )
    paper = focal_supcon(raw, labels, temperature=temperature)
    terms = focal_supcon(raw, labels, temperature=temperature, reduction="none").loss
    positives = (labels[:, None] == labels).sum(1) - 1
    summed = (terms * positives).sum() / items / (positives > 0).sum()
    entropy = mixed_cross_entropy(logits, mixed.targets)
    return {
        "mined_hard_negative": negative,
        "mined_hard_positive": positive,
        "mixed_features_released": mixed.features,
        "mixed_targets_released": mixed.targets,
        "focal_supcon_released": summed,
        "focal_supcon_mean_over_positives": paper.loss,
        **gradients(summed, grad_contrast_raw=raw),
        "mixed_ce": entropy,
        **gradients(entropy, grad_logits=logits),
    }


def bpkd(given: Given) -> Computed:
    student, teacher = given.leaf("student"), given.leaf("teacher")
    edges = class_edges(given["target"], student.shape[1], given.hyper["radius"]).to(student.dtype)
    shares = edge_shares(edges, student.shape[2:])
    edge = edge_distillation(student, teacher, shares, temperature=given.hyper["temperature"]).loss
    body = body_distillation(student, teacher, shares, temperature=given.hyper["temperature"]).loss
    computed: Computed = {
        "edge_full": edges,
        "edge_mask": shares,
        "edge_loss": edge,
        "body_loss": body,
        **gradients(edge, grad_student_edge=student),
        **gradients(body, grad_student_body=student),
    }
    assert teacher.grad is None
    return computed


def supremix_row(given: Given) -> Computed:
    raw, targets = given.leaf("z_raw"), given["labels"]
    window, tau = given.hyper["window"], given.hyper["temperature"]
    settings: Any = {"temperature": tau, "window": window, "most": len(raw) ** 2}
    found = supremix(raw, targets, negative_share=given["lam_negative"], **settings)
    again = supremix(raw, targets, negative_share=given["lam_negative"], renormalise=True, **settings)
    return {
        "n_mixpos": mixing_pairs(targets, window, len(raw) ** 2)[1].sum(1),
        "loss": found.loss,
        "loss_renormalised_mixtures": again.loss,
        "loss_no_mixtures": supremix(raw, targets, window=None, temperature=tau).loss,
        **gradients(found.loss, grad_z_raw=raw),
    }


def sepclr_row(given: Given) -> Computed:
    leaves = {name: given.leaf(name) for name in ("common1", "common2", "salient1", "salient2")}
    common, salient = (torch.stack([leaves[f"{kind}1"], leaves[f"{kind}2"]]) for kind in ("common", "salient"))
    hyper = given.hyper
    found = sepclr(
        common,
        salient,
        given["label"] == 1,
        tau=hyper["tau"],
        uniform=hyper["uniform_weight"],
        salient_weight=hyper["salient_weight"],
        silent_weight=hyper["info_less_weight"],
        joint_weight=hyper["jem_weight"],
    )
    parts = dict(found.parts)
    return {
        **{
            name: parts[name]
            for name in ("common_align", "common_uniform", "salient_align", "salient_uniform", "k_jem")
        },
        "info_less": parts["silence"],
        "total": found.loss,
        **gradients(found.loss, **{f"grad_{name}": leaf for name, leaf in leaves.items()}),
    }


def genview_quality(given: Given) -> Computed:
    first, second, direction = given["tokens1"], given["tokens2"], given["pca_vector"]
    masks = [foreground_masks(tokens, direction) for tokens in (first, second)]
    foreground = agreement(first, second, (masks[0][0], masks[1][0]))
    background = agreement(first, second, (masks[0][1], masks[1][1]))
    side = round(first.shape[1] ** 0.5)
    shape = (len(first), 1, side, side)
    return {
        "fg_mask1": masks[0][0].view(shape),
        "bg_mask1": masks[0][1].view(shape),
        "sim_foreground": foreground,
        "sim_background": background,
        "weight": pair_quality(foreground, background, gamma=given.hyper["gamma"]),
    }


def pcl_sr(given: Given) -> Computed:
    restored = given.leaf("sr_feat")
    found = feature_info_nce(restored, given["hr_feats"], given["lr_feats"], temperature=given.hyper["temperature"])
    return {"loss": found.loss, **gradients(found.loss, grad_sr_feat=restored)}


def projection_reweight(given: Given) -> Computed:
    return {"y": Reweight(given["x"].shape[1], given.hyper["kappa"])(given["x"])}


def pseudo_label_local(given: Given) -> Computed:
    maps, masks = [given.leaf("f1"), given.leaf("f2")], [given["mask1"], given["mask2"]]
    classes, width = given.hyper["n_classes"], maps[0].shape[-1]
    found = [class_means(values, mask, classes) for values, mask in zip(maps, masks, strict=True)]
    index = given["pixels"][..., 0] * width + given["pixels"][..., 1]
    codes = [at_voxels(values, where) for values, where in zip(maps, index, strict=True)]
    everywhere = torch.ones(index.shape[1:], dtype=torch.bool)
    loss = class_mean_contrast(
        *codes,
        anchors=(everywhere, everywhere),
        means=(found[0][0], found[1][0]),
        present=(found[0][1], found[1][1]),
        temperature=given.hyper["temperature"],
    ).loss
    return {"loss": loss, **gradients(loss, grad_f1=maps[0], grad_f2=maps[1])}


ADAPTERS: Adapters = {
    ("volumetric", "swav"): swav_row,
    ("volumetric", "voco"): voco_row,
    ("volumetric", "core_tuning"): core_tuning,
    ("volumetric", "bpkd_2d"): bpkd,
    ("volumetric", "bpkd_3d"): bpkd,
    ("volumetric", "supremix"): supremix_row,
    ("volumetric", "sepclr"): sepclr_row,
    ("volumetric", "genview_quality"): genview_quality,
    ("volumetric", "pcl_sr"): pcl_sr,
    ("volumetric", "projection_reweight"): projection_reweight,
    ("volumetric", "pseudo_label_local"): pseudo_label_local,
    ("volumetric", "pixcontrast_2d"): pixcontrast_2d,
    ("volumetric", "pixpro_2d"): pixpro_2d,
    ("volumetric", "pix3d"): pix3d,
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
