"""Soft targets, labels, locked encoders, mixtures, centres of classes and the gap of two modalities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medcl.errors import ConfigError
from medcl.objectives.attribution import attribution
from medcl.objectives.gap import gap_numbers, modality_gap
from medcl.objectives.instance import clip, info_nce
from medcl.objectives.mixed_pairs import draw_mixture, mix, mixture_targets, mixup_contrast
from medcl.objectives.output import LossOutput
from medcl.objectives.soft_targets import cwcl, label_clip, self_targets, soft_clip

EYE = torch.eye(6, dtype=torch.float64)


def batch(count: int = 2, records: int = 6, width: int = 5, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, records, width, generator=draw, dtype=torch.float64).requires_grad_()


def logits(first: Tensor, second: Tensor, tau: float) -> Tensor:
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T / tau


def cross_entropy(rows: Tensor, targets: Tensor) -> Tensor:
    return -(targets * rows.log_softmax(1)).sum(1)


# Soft targets


def test_soft_targets_are_a_cross_entropy_both_ways() -> None:
    first, second = batch()
    targets = torch.rand(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)
    rows = logits(first, second, 0.1)
    expected = (cross_entropy(rows, targets).mean() + cross_entropy(rows.T, targets.T).mean()) / 2
    torch.testing.assert_close(soft_clip(first, second, targets).loss, expected)
    same = (cross_entropy(rows, targets).mean() + cross_entropy(rows.T, targets).mean()) / 2
    torch.testing.assert_close(soft_clip(first, second, targets, back=targets).loss, same)
    hard = soft_clip(first, second, EYE, temperature=0.07)
    torch.testing.assert_close(hard.loss, clip(first, second).loss)
    torch.testing.assert_close(hard.per_anchor, clip(first, second).per_anchor)
    assert soft_clip(*torch.ones(2, 6, 3), targets).loss == pytest.approx(math.log(6))


def test_targets_of_one_modality_itself() -> None:
    rows = batch(1)[0]
    found = self_targets(rows, temperature=0.3)
    torch.testing.assert_close(found, logits(rows, rows, 0.3).softmax(1))
    first, second = batch().detach()
    sharp = self_targets(second, temperature=1e-3)
    torch.testing.assert_close(sharp, EYE)
    z = batch()

    def taught(z: Tensor) -> Tensor:
        wanted = self_targets(z[1])
        return soft_clip(z[0], z[1], wanted, back=wanted).loss

    assert torch.autograd.gradcheck(taught, [z], fast_mode=True)
    constant = self_targets(second.detach())
    torch.testing.assert_close(
        taught(torch.stack([first, second])), soft_clip(first, second, constant, back=constant).loss
    )


# Labels


def test_labels_share_the_target_among_their_records() -> None:
    first, second = batch()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    targets = (labels[:, None] == labels).double()
    targets = targets / targets.sum(1, keepdim=True)
    rows = logits(first, second, 0.07)
    expected = torch.cat([cross_entropy(rows, targets), cross_entropy(rows.T, targets)])
    for backend in ("dense", "tiled"):
        found = label_clip(first, second, labels, backend=backend, tile=4)
        torch.testing.assert_close(found.per_anchor, expected)
        torch.testing.assert_close(found.loss, expected.mean())
    torch.testing.assert_close(label_clip(first, second, torch.arange(6)).loss, clip(first, second).loss)
    assert label_clip(*torch.ones(2, 6, 3), labels).loss == pytest.approx(math.log(6))


def test_findings_share_the_target_by_what_they_have_in_common() -> None:
    first, second = batch(2, 4)
    findings = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
    targets = torch.tensor([[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.float64)
    targets = targets / targets.sum(1, keepdim=True)
    rows = logits(first, second, 0.07)
    expected = torch.cat([cross_entropy(rows, targets), cross_entropy(rows.T, targets)])
    torch.testing.assert_close(label_clip(first, second, findings).per_anchor, expected)


def test_identical_texts_are_merged_masked_or_left() -> None:
    first, second = batch()
    second = second.detach().clone()
    text = torch.tensor([0, 1, 0, 2, 3, 0])
    second[[2, 5]] = second[[0, 0]]  # identical texts have identical rows
    torch.testing.assert_close(
        label_clip(first, second, text, alike="mask").loss, clip(first, second, subject=text).loss
    )
    torch.testing.assert_close(label_clip(first, second, text, alike="none").loss, clip(first, second).loss)
    merged = label_clip(first, second, text)
    # The logits of identical texts are equal: for an image merging changes nothing. A text is no longer pushed from the images of the others.
    plain = clip(first, second)
    torch.testing.assert_close(merged.per_anchor[:6], plain.per_anchor[:6])
    assert not torch.allclose(merged.per_anchor[6], plain.per_anchor[6])
    assert label_clip(*torch.ones(2, 6, 3), text, alike="mask").per_anchor[0] == pytest.approx(math.log(4))
    with pytest.raises(ValueError, match="alike is 'drop'"):
        label_clip(first, second, text, alike="drop")
    with pytest.raises(ValueError, match="labels are"):
        label_clip(first, second, text[:3])


def test_findings_in_common_are_masked() -> None:
    first, second = batch(2, 3)
    findings = torch.tensor([[1, 1], [1, 0], [0, 0]]).bool()
    found = label_clip(first, second, findings, alike="mask")
    torch.testing.assert_close(found.loss, clip(first, second, subject=torch.tensor([0, 0, 1])).loss)


@pytest.mark.parametrize("alike", ["multi_positive", "mask", "none"])
def test_one_patient_is_no_negative_whatever_is_alike(alike: str) -> None:
    first, second = batch()
    labels, subject = torch.arange(6), torch.tensor([0, 0, 1, 2, 3, 4])
    found = label_clip(first, second, labels, alike=alike, subject=subject)
    torch.testing.assert_close(found.loss, clip(first, second, subject=subject).loss)


# CWCL


def plain_cwcl(locked: Tensor, learned: Tensor, weights: Tensor, tau: float) -> Tensor:
    rows = logits(locked, learned, tau)
    weighted = cross_entropy(rows, weights / weights.sum(1, keepdim=True)).mean()
    return weighted + functional.cross_entropy(rows.T, torch.arange(len(rows)))


def test_cwcl_weighs_by_the_locked_modality() -> None:
    locked, learned = batch()
    cosine = logits(locked, locked, 1.0).detach()
    torch.testing.assert_close(cwcl(locked, learned).loss, plain_cwcl(locked, learned, cosine / 2 + 0.5, 0.07))
    for gamma in (1.0, 3.0):
        expected = plain_cwcl(locked, learned, cosine.clamp_min(0) ** gamma, 0.07)
        torch.testing.assert_close(cwcl(locked, learned, gamma=gamma).loss, expected)
    with pytest.raises(ValueError, match="gamma is 0"):
        cwcl(locked, learned, gamma=0)


def test_orthogonal_locked_rows_give_the_sum_of_both_directions() -> None:
    learned = batch(1, 6, 6)[0]
    found = cwcl(EYE, learned, gamma=1.0)
    torch.testing.assert_close(found.loss, 2 * clip(EYE, learned).loss)
    assert found.parts["reverse"] == info_nce(learned, EYE, temperature=0.07).loss
    same = cwcl(torch.ones(6, 6, dtype=torch.float64), learned)
    torch.testing.assert_close(
        same.parts["weighted"], -logits(torch.ones_like(learned), learned, 0.07).log_softmax(1).mean().detach()
    )
    equal = cwcl(*torch.ones(2, 6, 3))
    assert equal.loss == pytest.approx(2 * math.log(6))
    assert equal.all_equal == pytest.approx(2 * math.log(6))


# Mixtures


def test_a_mixture_wants_both_of_its_partners() -> None:
    first, second = batch()
    partner, share = torch.tensor([1, 2, 0, 3, 5, 4]), torch.tensor([1, 0.3, 0.8, 0.4, 1, 0.1], dtype=torch.float64)
    mixed = mix(first, partner, share)
    for b in range(6):
        torch.testing.assert_close(mixed[b], share[b] * first[b] + (1 - share[b]) * first[partner[b]])
    volumes = torch.randn(6, 1, 3, 3, 3)
    assert mix(volumes, partner, share).dtype == volumes.dtype
    targets = mixture_targets(partner, share)
    torch.testing.assert_close(targets.sum(1), torch.ones(6).double())
    assert targets[3, 3] == 1  # its own partner: nothing is lost
    assert targets[1].tolist() == [0, 0.3, 0.7, 0, 0, 0]
    rows = logits(mixed, second, 0.1)
    expected = (cross_entropy(rows, targets).mean() + cross_entropy(rows.T, targets.T).mean()) / 2
    torch.testing.assert_close(mixup_contrast(mixed, second, partner, share).loss, expected)


def test_shares_of_one_are_clip() -> None:
    first, second = batch()
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    found = mixup_contrast(first, second, partner, torch.ones(6), temperature=0.07)
    torch.testing.assert_close(found.loss, clip(first, second).loss)


def test_mixtures_are_drawn_from_the_generator() -> None:
    def draws(seed: int, records: int = 4000, **more: float) -> tuple[Tensor, Tensor]:
        return draw_mixture(records, torch.Generator().manual_seed(seed), **more)

    partner, share = draws(0)
    assert torch.equal(partner.sort().values, torch.arange(4000))
    assert 0.45 < (share == 1).double().mean() < 0.6
    assert 0.45 < share[share < 1].mean() < 0.55
    assert ((share >= 0) & (share <= 1)).all()
    assert torch.equal(draws(3)[1], draws(3)[1])
    assert not torch.equal(draws(3)[1], draws(4)[1])
    assert (draws(3, chosen=0.0)[1] == 1).all()


# Attribution


def test_attribution_is_contrast_with_the_centres_of_classes() -> None:
    image, text = batch()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    x, y = functional.normalize(image, dim=1), functional.normalize(text, dim=1)
    centres = [torch.stack([rows[labels == label].mean(0) for label in labels]) for rows in (x, y)]
    target = torch.arange(6)
    terms = [
        functional.cross_entropy(rows / 0.07, target, reduction="none") for rows in (x @ centres[1].T, y @ centres[0].T)
    ]
    torch.testing.assert_close(attribution(image, text, labels).per_anchor, torch.cat(terms))
    classes = [torch.stack([rows[labels == label].mean(0) for label in range(3)]) for rows in (x, y)]
    fewer = [
        functional.cross_entropy(rows / 0.07, labels, reduction="none") for rows in (x @ classes[1].T, y @ classes[0].T)
    ]
    torch.testing.assert_close(attribution(image, text, labels, per_class=True).loss, torch.cat(fewer).mean())


@pytest.mark.parametrize("per_class", [False, True])
def test_closed_forms_of_attribution(per_class: bool) -> None:
    image, text = batch()
    distinct = attribution(image, text, torch.tensor([3, 9, 1, 0, 5, 7]), per_class=per_class)
    torch.testing.assert_close(distinct.loss, clip(image, text).loss)
    shared = attribution(image, text, torch.zeros(6, dtype=torch.long), per_class=per_class)
    assert shared.loss.item() == pytest.approx(0 if per_class else math.log(6))
    equal = attribution(*torch.ones(2, 6, 3), torch.tensor([0, 1, 0, 2, 1, 0]), per_class=per_class)
    assert equal.loss == pytest.approx(math.log(3 if per_class else 6))


def test_gradients_flow_through_the_centres() -> None:
    z, labels = batch(2, 4), torch.tensor([0, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda z: attribution(z[0], z[1], labels, temperature=0.5).loss, [z])
    with pytest.raises(ConfigError, match="attribution: a batch of 1"):
        attribution(z[0, :1], z[1, :1], labels[:1])
    with pytest.raises(ValueError, match="labels"):
        attribution(z[0], z[1], labels[:2])


# The gap of two modalities


def test_terms_of_the_gap_as_loops() -> None:
    first, second = batch()
    x, y = functional.normalize(first, dim=1), functional.normalize(second, dim=1)

    def log_mean(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([(-2 * (a - b).square().sum()).exp() for a, b in pairs]).mean().log()

    within = [log_mean([(rows[i], rows[j]) for i in range(6) for j in range(i)]) for rows in (x, y)]
    cross = log_mean([(x[i], y[j]) for i in range(6) for j in range(6) if i != j])
    align = (x - y).square().sum(1).mean()
    expected = 0.5 * (within[0] + within[1]) / 2 + 2 * cross + 3 * align
    found = modality_gap(first, second, uniform=0.5, cross=2.0, align=3.0)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.parts["alignment"], 2 - 2 * (x * y).sum(1).mean())


def test_closed_forms_of_the_gap() -> None:
    found = modality_gap(EYE, EYE)
    assert found.parts["alignment"] == 0
    for name in ("uniformity_first", "uniformity_second", "cross_uniformity"):
        assert found.parts[name] == pytest.approx(-4)
    equal = torch.ones(6, 3, requires_grad=True)
    collapsed = modality_gap(equal, equal)
    assert collapsed.loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(collapsed.loss, equal)[0].isfinite().all()
    z = batch(2, 3)
    assert torch.autograd.gradcheck(lambda z: modality_gap(z[0], z[1]).loss, [z])
    with pytest.raises(ConfigError, match="modality_gap: a batch of 1"):
        modality_gap(z[0, :1], z[1, :1])
    with pytest.raises(ValueError, match="not both"):
        modality_gap(z[0], z[1, :2])


def test_numbers_of_the_gap() -> None:
    first, second = batch().detach()
    numbers = gap_numbers(first, second)
    cosine = logits(first, first, 1.0)
    torch.testing.assert_close(numbers["first_cosine"], cosine[~EYE.bool()].mean())
    apart = gap_numbers(EYE + 5, EYE - 5)
    assert apart["centroid_cosine"] == pytest.approx(-1)
    assert apart["pair_cosine"] < 0 < apart["first_cosine"]
    together = gap_numbers(first, first)
    assert together["centroid_distance"] == 0
    assert together["pair_cosine"] == pytest.approx(1)


def test_precision_and_extremes() -> None:
    labels = torch.tensor([0, 1, 0, 2, 1, 0])

    def losses(z: Tensor) -> list[LossOutput]:
        return [
            soft_clip(z[0], z[1], torch.full((6, 6), 1 / 6), temperature=0.01),
            label_clip(z[0], z[1], labels, temperature=0.01),
            cwcl(z[0], z[1], temperature=0.01),
            attribution(z[0], z[1], labels, temperature=0.01),
            modality_gap(z[0], z[1]),
        ]

    for length in (1e-8, 1e8):
        z = (functional.normalize(batch().detach(), dim=-1).float() * length).requires_grad_()
        for found in losses(z):
            assert found.loss.isfinite()
            assert torch.autograd.grad(found.loss, z)[0].isfinite().all()
    z = batch().detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = losses(z)
    for found, expected in zip(half, losses(z.float()), strict=True):
        assert found.loss.dtype == torch.float32
        torch.testing.assert_close(found.loss, expected.loss)
