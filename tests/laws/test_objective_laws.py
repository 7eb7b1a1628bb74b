"""Properties that every contrastive objective has (volumetric.md 0, P1-P6; objectives.md 1.5, 10), and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.dense import LocalLD, LocalLR
from medcl.objectives.instance import Clip, InfoNCE, NTXent, clip, info_nce, nt_xent
from medcl.objectives.output import LossOutput
from medcl.objectives.partition import GlobalGD, GlobalGDMinus
from medcl.objectives.segmentation import segmentation_loss, soft_dice
from medcl.objectives.supervised import SupCon, supcon

ENTRIES: dict[str, ObjectiveConfig] = {
    "info_nce": InfoNCE(),
    "clip": Clip(),
    "nt_xent": NTXent(),
    "nt_xent, patients": NTXent(exclude_same_subject=True),
    "supcon": SupCon(),
    "global_gd_minus": GlobalGDMinus(),
    "global_gd": GlobalGD(norm="paper", guard=0.3),
    "local_lr": LocalLR(code=None),
    "local_lr, all": LocalLR(code=None, neighbours=None, inside=0.3),
    "local_ld": LocalLD(code=None),
    "local_ld, 3D": LocalLD(code=None, layout="bcc15"),
}
each_objective = pytest.mark.parametrize("name", ENTRIES)


def _codes(name: str, *, items: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> Codes:
    """A batch of two views; local objectives get maps that are not square."""
    draw = torch.Generator().manual_seed(seed)
    space = () if ENTRIES[name].reads == "vectors" else (6, 5, 5) if "3D" in name else (9, 7)
    position = torch.rand(2, items, 3, generator=draw)
    return Codes(
        z=torch.randn(2, items, 3, *space, generator=draw, dtype=torch.float64).to(dtype),
        record=torch.arange(items) // 2,
        subject=torch.arange(items) // 3,
        partition=(torch.arange(items) % 2).expand(2, items),
        parts=(1, 1, 2),
        position=position,
        labels=torch.arange(items) % 3,
        body=torch.rand(2, items, *space, generator=draw) < 0.5 if space else None,
    )


def _loss(name: str, codes: Codes, **changes: Any) -> LossOutput:
    entry = ENTRIES[name].model_copy(update=changes)
    space = 3 if codes.z.ndim < 5 or codes.z.ndim == 6 else 2
    module = entry.build(Setting(codes.z.shape[2], space))
    found: LossOutput = module(codes)
    return found


def _with_items(codes: Codes, order: Tensor) -> Codes:
    per_item = ("record", "subject", "labels")
    per_view = ("z", "partition", "position", "body")
    values = {name: getattr(codes, name)[order] for name in per_item}
    values |= {name: getattr(codes, name)[:, order] for name in per_view if getattr(codes, name) is not None}
    return replace(codes, **values)


def _with_views(codes: Codes, order: list[int]) -> Codes:
    per_view = ("z", "partition", "position", "body")
    return replace(
        codes, **{name: getattr(codes, name)[order] for name in per_view if getattr(codes, name) is not None}
    )


def _scaled(codes: Codes, factors: Tensor) -> Codes:
    return replace(codes, z=codes.z * factors.view(*factors.shape, *[1] * (codes.z.ndim - 2)))


@each_objective
def test_order_of_items_does_not_matter(name: str) -> None:
    codes = _codes(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(_loss(name, _with_items(codes, order)).loss, _loss(name, codes).loss)


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - {"info_nce"}))  # there one view asks and the other answers
def test_order_of_views_does_not_matter(name: str) -> None:
    codes = _codes(name)
    torch.testing.assert_close(_loss(name, _with_views(codes, [1, 0])).loss, _loss(name, codes).loss)


@each_objective
def test_length_of_embeddings_does_not_matter(name: str) -> None:
    codes = _codes(name)
    factors = torch.logspace(-2, 2, 12, dtype=torch.float64).view(2, 6)
    torch.testing.assert_close(_loss(name, _scaled(codes, factors)).loss, _loss(name, codes).loss)


@each_objective
def test_one_rotation_of_all_embeddings_does_not_matter(name: str) -> None:
    codes = _codes(name)
    draw = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=draw, dtype=torch.float64)).Q
    turned = replace(codes, z=torch.einsum("vbc...,cd->vbd...", codes.z, rotation))
    torch.testing.assert_close(_loss(name, turned).loss, _loss(name, codes).loss)


@each_objective
def test_gradient_equals_central_differences(name: str) -> None:
    codes = _codes(name, items=4)
    if ENTRIES[name].reads == "maps":  # a map of the smallest size that still has several regions
        codes = replace(codes, z=codes.z[..., :5, :5].contiguous(), body=None)
    changes = {"inside": None} if "local" in name else {}
    z = codes.z.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: _loss(name, replace(codes, z=z), **changes).loss, [z], fast_mode=z.numel() > 100
    )


@each_objective
@pytest.mark.parametrize("length", [1e-8, 1.0, 1e8])
def test_finite_at_low_temperature_and_extreme_lengths(name: str, length: float) -> None:
    codes = _codes(name, dtype=torch.float32)
    unit = codes.z.flatten(2)
    z = (unit / unit.norm(dim=-1, keepdim=True) * length).view(codes.z.shape).requires_grad_()
    found = _loss(name, replace(codes, z=z), temperature=0.01)
    assert found.loss.isfinite()
    (gradient,) = torch.autograd.grad(found.loss, [z])
    assert gradient.isfinite().all()
    assert gradient.any()


@each_objective
def test_autocast_computes_in_float32(name: str) -> None:
    codes = _codes(name, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = _loss(name, codes)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, _loss(name, replace(codes, z=codes.z.float())).loss, rtol=0, atol=0)
    exact = _loss(name, _codes(name, dtype=torch.float32)).loss
    torch.testing.assert_close(found.loss, exact, rtol=1e-2, atol=1e-2)


@each_objective
def test_identical_embeddings_give_the_all_equal_value(name: str) -> None:
    codes = _codes(name)
    level = _loss(name, codes).all_equal
    assert level is not None
    found = _loss(name, replace(codes, z=torch.ones_like(codes.z)))
    torch.testing.assert_close(found.loss, level)
    torch.testing.assert_close(found.all_equal, level)
    assert found.parts["positive_cosine"] == pytest.approx(1)
    assert found.parts["negative_cosine"] == pytest.approx(1)


@each_objective
def test_parts_are_detached_scalars(name: str) -> None:
    codes = _codes(name)
    found = _loss(name, replace(codes, z=codes.z.requires_grad_()))
    assert {"positive_cosine", "negative_cosine", "valid_terms", "without_positive"} <= set(found.parts)
    assert all(value.ndim == 0 and not value.requires_grad for value in found.parts.values())
    assert found.loss.requires_grad


@each_objective
def test_entry_is_known_by_its_name(name: str) -> None:
    entry = ENTRIES[name]
    assert ObjectiveConfig.known[entry.name] is type(entry)
    assert type(entry).model_validate(entry.model_dump()) == entry


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_same_value_on_the_accelerator() -> None:
    for name, entry in ENTRIES.items():
        codes = _codes(name)
        tensors = {key: value.cuda() for key, value in vars(codes).items() if isinstance(value, Tensor)}
        module = entry.build(Setting(3, 3 if "3D" in name else 2))
        expected = module(codes).loss
        torch.testing.assert_close(module.cuda()(replace(codes, **tensors)).loss.cpu(), expected, rtol=1e-6, atol=1e-9)


# Closed forms: volumetric.md 15, objectives.md 4.1


def test_nt_xent_closed_forms() -> None:
    count, tau = 5, 0.1
    equal = torch.ones(2, count, 7, dtype=torch.float64)
    apart = torch.eye(count, 7, dtype=torch.float64).expand(2, count, 7)
    assert nt_xent(equal, temperature=tau).loss == pytest.approx(math.log(2 * count - 1))
    expected = math.log(1 + (2 * count - 2) * math.exp(-1 / tau))
    assert nt_xent(apart, temperature=tau).loss == pytest.approx(expected, rel=1e-9)
    assert nt_xent(apart, temperature=1e6).loss == pytest.approx(math.log(2 * count - 1), abs=1e-5)


def test_info_nce_closed_forms() -> None:
    apart = torch.eye(2, 3, dtype=torch.float64)
    assert info_nce(apart, apart, temperature=0.5).loss == pytest.approx(math.log(1 + math.exp(-2)))
    assert clip(apart, apart, temperature=0.5).loss == pytest.approx(math.log(1 + math.exp(-2)))
    assert info_nce(torch.ones(4, 3), torch.ones(4, 3)).loss == pytest.approx(math.log(4))


def test_nt_xent_of_three_views_is_the_mean_over_pairs() -> None:
    views = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = [nt_xent(views[list(pair)]).loss for pair in ((0, 1), (0, 2), (1, 2))]
    found = nt_xent(views)
    torch.testing.assert_close(found.loss, torch.stack(pairs).mean())
    torch.testing.assert_close(found.per_anchor.mean(), found.loss)
    torch.testing.assert_close(nt_xent(views, reduction="sum").loss, nt_xent(views, reduction="none").loss.sum())


def test_clip_reductions_agree() -> None:
    first, second = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = clip(first, second, reduction="none").loss
    assert terms.shape == (8,)
    torch.testing.assert_close(clip(first, second, reduction="sum").loss, terms.sum())
    torch.testing.assert_close(clip(first, second).loss, terms.mean())


def test_supcon_of_one_class_and_without_labels() -> None:
    equal = torch.ones(2, 3, 4, dtype=torch.float64)
    assert supcon(equal, torch.zeros(3, dtype=torch.long)).loss == pytest.approx(math.log(5))
    views = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = supcon(views, torch.arange(6), temperature=0.1)
    torch.testing.assert_close(found.loss, nt_xent(views, temperature=0.1).loss)


def test_singletons_count_only_where_asked() -> None:
    views = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    kept, counted = supcon(views, labels), supcon(views, labels, count_empty=True)
    torch.testing.assert_close(counted.loss, kept.loss * 2 / 6)
    torch.testing.assert_close(counted.all_equal, kept.all_equal * 2 / 6)
    assert kept.parts["without_positive"] == pytest.approx(4 / 6)


def test_same_patient_is_never_a_negative() -> None:
    views = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    subject = torch.tensor([0, 0, 1, 2])
    found = nt_xent(views, subject=subject, reduction="none").loss
    (gradient,) = torch.autograd.grad(found[0], [views])
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, 2:] != 0).any()
    both = clip(views[0], views[1], subject=subject, reduction="none").loss
    assert (torch.autograd.grad(both[0], [views])[0][:, 1] == 0).all()


def test_soft_dice_of_a_perfect_prediction_is_zero() -> None:
    target = torch.arange(4).repeat(2, 5, 2)
    logits = 50.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).double()
    assert soft_dice(logits, target).loss == pytest.approx(0, abs=1e-9)
    assert segmentation_loss(logits, target).loss == pytest.approx(0, abs=1e-9)
