"""Rows of the objectives that tell instances apart, and of SupCon: from a row's arrays to medcl's functions and back."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.instance import clip, info_nce, nt_xent
from medcl.objectives.kernel import Backend, unit
from medcl.objectives.masks import Same
from medcl.objectives.supervised import supcon as supcon_loss
from tests.oracles.rows import Adapters, Close, Computed, Given, gradients


def infonce_oneway(given: Given) -> Computed:
    query, key = given.leaf("query"), given.leaf("key")
    found = info_nce(query, key, temperature=given.hyper["temperature"], normalize=given.hyper["normalize"])
    return {
        "loss": found.loss,
        "loss_per_anchor": found.per_anchor,
        **gradients(found.loss, grad_query=query, grad_key=key),
    }


def mnrl_triplet(given: Given) -> Computed:
    anchor, positive, hard = given.leaf("anchor"), given.leaf("positive"), given.leaf("hard_negative")
    found = info_nce(anchor, positive, extra_keys=hard, temperature=1 / given.hyper["scale"])
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_anchor=anchor, grad_positive=positive, grad_hard_negative=hard),
    }


def infonce_symmetric(given: Given) -> Computed:
    image, text = given.leaf("image"), given.leaf("text")
    scale = torch.tensor(given.hyper["logit_scale"], dtype=given.dtype, requires_grad=True)
    found = clip(image, text, temperature=1 / scale, normalize=False)
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_image=image, grad_text=text, grad_logit_scale=scale),
    }


def ntxent(given: Given) -> Computed:
    z = given.leaf("z")
    found = nt_xent(z, temperature=given.hyper["temperature"], normalize=given.hyper["normalize"])
    return {"loss": found.loss, **gradients(found.loss, grad_z=z)}


def supcon(given: Given) -> Computed:
    z, labels = given.leaf("z"), given["labels"]
    scale = {"temperature": given.hyper["temperature"], "base_temperature": given.hyper["base_temperature"]}
    found = supcon_loss(z, labels, count_empty=True, **scale)
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_z=z),
        "loss_one": supcon_loss(z, labels, anchors="one", count_empty=True, **scale).loss,
        "loss_single": supcon_loss(given["z_single"], labels, count_empty=True, **scale).loss,
    }


def mcl_masked(given: Given) -> Computed:
    z1, z2 = given.leaf("z1"), given.leaf("z2")

    def restricted(clusters: Tensor | None) -> Computed:
        mask = None if clusters is None else Same(clusters.repeat(2))
        found = nt_xent(torch.stack([z1, z2]), temperature=given.hyper["temperature"], neg_mask=mask)
        return {"loss": found.loss, "loss_per_anchor": found.per_anchor}

    stages = torch.stack([given["stage0"], given["stage1"]], 1)
    composite = given["composite"]
    agree = (stages[:, None] == stages[None]).all(-1)
    assert torch.equal(agree, composite[:, None] == composite[None])
    found = restricted(composite)
    return {
        **found,
        **gradients(found["loss"], grad_z1=z1, grad_z2=z2),
        "loss_stage0_only": restricted(given["stage0"])["loss"],
        "loss_unrestricted": restricted(None)["loss"],
    }


def tiled_infonce(given: Given) -> Computed:
    whole, tiles = _infonce_of(given, "dense"), _infonce_of(given, "tiled")
    for name in tiles:
        first, second = (v.value if isinstance(v, Close) else v for v in (whole[name], tiles[name]))
        limit = torch.finfo(given.dtype).eps ** 0.75 * first.abs().max()
        assert (first - second).abs().max() <= limit, f"tiled_infonce.{name}: the backends differ"
    return tiles


def _infonce_of(given: Given, backend: Backend) -> Computed:
    count, width, tau = given.hyper["N"], given.hyper["D"], given.hyper["temperature"]

    def pattern(c: float, d: float, phase: float) -> Tensor:
        i = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
        j = torch.arange(1, width + 1, dtype=torch.float64)[None]
        return torch.sin(c * i * j + phase) + torch.cos(d * i + j * j + phase)

    first = pattern(0.37, 0.11, 0)
    q, k = (raw.to(given.dtype).requires_grad_(True) for raw in (first, first + 0.8 * pattern(0.28, 0.42, 1.3)))
    oneway, back = (info_nce(*pair, temperature=tau, backend=backend) for pair in ((q, k), (k, q)))
    positive = (unit(q) * unit(k)).sum(1) / tau
    losses = {
        "oneway": oneway.loss,
        "symmetric": clip(q, k, temperature=tau, backend=backend).loss,
        "ntxent": nt_xent(torch.stack([q, k]), temperature=tau, backend=backend).loss,
    }
    found: Computed = {f"loss_{name}": loss for name, loss in losses.items()}
    for name, loss in losses.items():
        for side, grad in zip("qk", torch.autograd.grad(loss, [q, k], retain_graph=True), strict=True):
            found[f"checksum_{side}_{name}"] = _checksums(grad)
            if name == "oneway":
                found[f"grad_{side}_oneway_head"] = grad[: len(given.arrays[f"grad_{side}_oneway_head"])]
    head = len(given.arrays["row_lse"])
    found["row_lse"] = (oneway.per_anchor + positive)[:head]
    found["col_lse"] = (back.per_anchor + positive)[:head]
    found["input_head"] = torch.stack([q, k])[:, : given.arrays["input_head"].shape[1]]
    return found


def _checksums(grad: Tensor) -> Tensor | Close:
    flat = grad.double().flatten()
    wave = torch.cos(torch.arange(len(flat), dtype=torch.float64))
    sums = torch.stack([flat.sum(), flat.abs().sum(), flat.square().sum(), flat @ wave])
    if grad.dtype == torch.float64:
        return sums
    # The row's note: the first and the last sum cancel, so float32 is compared with atol 1e-4 there.
    return Close(sums, torch.tensor([1e-4, 1e-5, 1e-5, 1e-4], dtype=torch.float64))


def mm_clip(given: Given) -> Computed:
    image, text, scale = given.leaf("image"), given.leaf("text"), given.leaf("logit_scale")
    found = clip(image, text, temperature=1 / scale, normalize=False)
    return {"loss": found.loss, **gradients(found.loss, grad_image=image, grad_text=text, grad_logit_scale=scale)}


ADAPTERS: Adapters = {
    ("objectives", "infonce_oneway"): infonce_oneway,
    ("objectives", "mnrl_triplet"): mnrl_triplet,
    ("objectives", "infonce_symmetric"): infonce_symmetric,
    ("objectives", "ntxent"): ntxent,
    ("objectives", "supcon"): supcon,
    ("objectives", "mcl_masked"): mcl_masked,
    ("objectives", "tiled_infonce"): tiled_infonce,
    ("multimodal", "mm_clip"): mm_clip,
}
