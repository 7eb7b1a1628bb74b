"""Properties that every objective has (volumetric.md 0, P1-P6; objectives.md 1.5, 10), and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes
from medcl.objectives.instance import clip, info_nce, nt_xent
from medcl.objectives.segmentation import segmentation_loss, soft_dice
from medcl.objectives.state import StatefulObjective
from medcl.objectives.supervised import supcon
from tests.laws.case import Case, Law, with_items, with_views
from tests.laws.cases import CASES

each_objective = pytest.mark.parametrize("name", CASES)


def obeying(law: Law) -> pytest.MarkDecorator:
    """Parametrised with the names of the objectives that obey ``law``."""
    return pytest.mark.parametrize("name", [name for name, case in CASES.items() if law not in case.exempt])


def scaled(codes: Codes, factors: Tensor) -> Codes:
    return replace(codes, z=codes.z * factors.view(*factors.shape, *[1] * (codes.z.ndim - 2)))


def test_every_objective_has_a_case() -> None:
    assert {case.entry.name for case in CASES.values()} == set(ObjectiveConfig.known)


@obeying("items")
def test_order_of_items_does_not_matter(name: str) -> None:
    case, order = CASES[name], torch.tensor([3, 0, 5, 1, 4, 2])
    codes = case.codes()
    torch.testing.assert_close(case.loss(with_items(codes, order)).loss, case.loss(codes).loss)


@obeying("views")
def test_order_of_views_does_not_matter(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    turned = with_views(codes, [*range(1, case.views), 0])
    torch.testing.assert_close(case.loss(turned).loss, case.loss(codes).loss)


@obeying("length")
def test_length_of_embeddings_does_not_matter(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    factors = torch.logspace(-2, 2, 6 * case.views, dtype=torch.float64).view(case.views, 6)
    torch.testing.assert_close(case.loss(scaled(codes, factors)).loss, case.loss(codes).loss)


@obeying("rotation")
def test_one_rotation_of_all_embeddings_does_not_matter(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    draw = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=draw, dtype=torch.float64)).Q
    z, teacher = (torch.einsum("vbc...,cd->vbd...", given, rotation) for given in (codes.z, codes.teacher))
    torch.testing.assert_close(case.loss(replace(codes, z=z, teacher=teacher)).loss, case.loss(codes).loss)


@obeying("gradient")
def test_gradient_equals_central_differences(name: str) -> None:
    case = CASES[name]
    codes, changes = case.codes(items=4), {}
    if case.space:  # a map of the smallest size that still has several regions
        near = (..., *[slice(5)] * len(case.space))
        small = {part: getattr(codes, part)[near].contiguous() for part in ("z", "image", "hidden")}
        codes, changes = replace(codes, **small, body=None), {"inside": None} if "local" in name else {}
    z = codes.z.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: case.loss(replace(codes, z=z), **changes).loss, [z], fast_mode=z.numel() > 100
    )


@obeying("low temperature")
@pytest.mark.parametrize("length", [1e-8, 1.0, 1e8])
def test_finite_at_low_temperature_and_extreme_lengths(name: str, length: float) -> None:
    case = CASES[name]
    codes = case.codes(dtype=torch.float32)
    unit = codes.z.flatten(2)
    z = (unit / unit.norm(dim=-1, keepdim=True) * length).view(codes.z.shape).requires_grad_()
    cold = {"temperature": 0.01} if "temperature" in type(case.entry).model_fields else {}
    found = case.loss(replace(codes, z=z), **cold)
    assert found.loss.isfinite()
    (gradient,) = torch.autograd.grad(found.loss, [z])
    assert gradient.isfinite().all()
    assert gradient.any()


@each_objective
def test_autocast_computes_in_float32(name: str) -> None:
    case = CASES[name]
    codes = case.codes(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.loss(codes)
    assert found.loss.dtype == torch.float32
    teacher = None if codes.teacher is None else codes.teacher.float()
    image = None if codes.image is None else codes.image.float()
    as_float = replace(codes, z=codes.z.float(), teacher=teacher, image=image)
    torch.testing.assert_close(found.loss, case.loss(as_float).loss, rtol=0, atol=0)
    exact = case.loss(case.codes(dtype=torch.float32)).loss
    torch.testing.assert_close(found.loss, exact, rtol=1e-2, atol=1e-2)


@obeying("equal")
def test_identical_embeddings_give_the_all_equal_value(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    level = case.loss(codes).all_equal
    assert level is not None
    found = case.loss(replace(codes, z=torch.ones_like(codes.z), teacher=torch.ones_like(codes.z)))
    torch.testing.assert_close(found.loss, level)
    torch.testing.assert_close(found.all_equal, level)


@obeying("cosines")
def test_similarities_are_reported(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    assert {"positive_cosine", "negative_cosine", "valid_terms", "without_positive"} <= set(case.loss(codes).parts)
    found = case.loss(replace(codes, z=torch.ones_like(codes.z), teacher=torch.ones_like(codes.z)))
    assert found.parts["positive_cosine"] == pytest.approx(1)
    assert found.parts["negative_cosine"] == pytest.approx(1)


@each_objective
def test_parts_are_detached_scalars(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    found = case.loss(replace(codes, z=codes.z.requires_grad_()))
    assert all(value.ndim == 0 and not value.requires_grad for value in found.parts.values())
    assert found.loss.requires_grad
    assert found.all_equal is None or not found.all_equal.requires_grad


@each_objective
def test_entry_is_known_by_its_name(name: str) -> None:
    entry = CASES[name].entry
    assert ObjectiveConfig.known[entry.name] is type(entry)
    assert type(entry).model_validate(entry.model_dump()) == entry


# State (objectives.md 1.4)

STATEFUL = [name for name, case in CASES.items() if isinstance(case.module(), StatefulObjective)]


def _trace(module: torch.nn.Module, case: Case, steps: range) -> list[float]:
    return [float(module(case.codes(seed=step)).loss.detach()) for step in steps]


@pytest.mark.parametrize("name", STATEFUL)
def test_saved_and_loaded_state_goes_on_bit_for_bit(name: str) -> None:
    case = CASES[name]
    whole, first, second = case.module(), case.module(), case.module()
    expected = _trace(whole, case, range(6))
    assert _trace(first, case, range(3)) == expected[:3]
    second.load_state_dict(first.state_dict())
    assert _trace(second, case, range(3, 6)) == expected[3:]


@pytest.mark.parametrize("name", STATEFUL)
def test_evaluation_never_writes_state(name: str) -> None:
    case = CASES[name]
    module = case.module()
    _trace(module, case, range(1))
    before = {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    module.eval()
    _trace(module, case, range(1, 3))
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    module.train()
    _trace(module, case, range(3, 4))
    assert any(not torch.equal(before[key], module.state_dict()[key]) for key in before)


@pytest.mark.parametrize("name", STATEFUL)
def test_state_of_other_data_is_refused(name: str) -> None:
    case = CASES[name]
    module, other = case.module(), case.module()
    other.data_digest = "of other data"
    with pytest.raises(Exception, match="other data"):
        other.load_state_dict(module.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@each_objective
def test_same_value_on_the_accelerator(name: str) -> None:
    case = CASES[name]
    codes = case.codes()
    tensors = {key: value.cuda() for key, value in vars(codes).items() if isinstance(value, Tensor)}
    found = case.module().cuda()(replace(codes, **tensors)).loss.cpu()
    torch.testing.assert_close(found, case.loss(codes).loss, rtol=1e-6, atol=1e-9)


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
