"""Values that can be written down: the rows of volumetric.md 15 that no file of their own tests, and the properties of those objectives.

NT-Xent, SupCon and soft Dice: ``tests/laws/test_objective_laws.py``. G^{D-} and G^D: ``test_partition.py``. L^R and L^D: ``test_dense.py``. VoCo: ``test_overlap.py``.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.cells import Cells, correspondences
from medcl.objectives.class_means import at_voxels, class_mean_contrast, class_means, voxels_of_classes
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.core_tuning import focal_supcon, mixtures
from medcl.objectives.distillation import body_distillation, class_edges, edge_distillation, edge_shares
from medcl.objectives.pixels import PixContrast, PixPro, propagate
from medcl.objectives.quality import agreement, foreground_direction, foreground_masks, pair_quality
from medcl.objectives.regression import supremix
from medcl.objectives.separation import sepclr
from medcl.objectives.super_resolution import feature_info_nce
from medcl.objectives.supervised import supcon
from medcl.objectives.swav import SwAV, sinkhorn, swav

EXACT = 1e-12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(shape: tuple[int, ...], shift: float, *, edge: float = 2.0, items: int = 2) -> Cells:
    """Two views of a grid, the second moved along the last axis by ``shift`` mm."""
    centres = edge * torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) for size in shape])
    centres = functional.pad(centres.view(-1, len(shape)), (0, 3 - len(shape)))
    move = torch.zeros(3, dtype=torch.float64)
    move[len(shape) - 1] = shift
    edges = edge * torch.eye(3, dtype=torch.float64)[: len(shape)]
    return Cells(torch.stack([centres, centres + move])[:, None].repeat(1, items, 1, 1), edges.repeat(2, items, 1, 1))


@pytest.mark.parametrize(
    ("shape", "shift", "threshold"), [((5, 6), 1.0, 1.1), ((3, 4, 5), 1.0, 0.9), ((4, 3, 3), 3, 1)]
)
def test_pix_contrast_of_equal_cells(shape: tuple[int, ...], shift: float, threshold: float) -> None:
    """Mean over cells with a partner of log(P / n_a), where cells have several partners and not equally many."""
    cells = grid(shape, shift)
    partners = correspondences(cells[0], cells[1], threshold=threshold).sum(-1)
    assert len(partners.unique()) > 1
    expected = [math.log(math.prod(shape) / n) for n in partners[0].tolist() if n]
    found = PixContrast(threshold=threshold).build(Setting(4, len(shape)))(
        Codes(z=torch.ones(2, 2, 4, *shape, dtype=torch.float64), cells=cells)
    )
    back = correspondences(cells[1], cells[0], threshold=threshold).sum(-1)[0].tolist()
    reverse = [math.log(math.prod(shape) / n) for n in back if n]
    assert found.loss.item() == pytest.approx((sum(expected) / len(expected) + sum(reverse) / len(reverse)) / 2)
    assert found.all_equal is not None
    assert found.all_equal.item() == pytest.approx(found.loss.item())


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_pix_pro_of_identical_constant_maps_is_minus_four(shape: tuple[int, ...]) -> None:
    module = PixPro().build(Setting(4, len(shape))).double()
    maps = torch.ones(2, 2, 4, *shape, dtype=torch.float64)
    transformed = module.transform(torch.ones(4, dtype=torch.float64)).view(4, *[1] * len(shape)).expand_as(maps)
    cells = grid(shape, 0.0)
    pairs = correspondences(cells[0], cells[1])[0].sum().item()
    found = module(Codes(z=maps, teacher=transformed, cells=cells))
    assert found.loss.item() == pytest.approx(-4, abs=4e-6 / pairs + EXACT)
    # Constants apart, only cells that all agree reach it: a teacher equal to the student does not.
    varied = normal(2, 2, 4, *shape)
    assert module(Codes(z=varied, teacher=varied, cells=cells)).loss > -3.5


def test_pix_pro_without_correspondence_is_zero_and_never_moves_the_teacher() -> None:
    shape = (3, 4, 3)
    module = PixPro().build(Setting(4, 3)).double()
    maps, teacher = normal(2, 2, 4, *shape).requires_grad_(), normal(2, 2, 4, *shape, seed=1).requires_grad_()
    nothing = module(Codes(z=maps, teacher=teacher, cells=grid(shape, 0.9))).loss
    none = PixPro(threshold=1e-6).build(Setting(4, 3)).double()(Codes(z=maps, teacher=teacher, cells=grid(shape, 0.9)))
    assert none.loss == 0
    assert not torch.autograd.grad(none.loss, [maps])[0].any()
    gradients = torch.autograd.grad(nothing, [maps, teacher], allow_unused=True)
    assert gradients[0].any()
    assert gradients[1] is None


def test_propagation_follows_the_order_of_cells_and_equal_cells_become_parallel() -> None:
    maps, values, order = normal(1, 2, 4, 6), normal(1, 2, 4, 6, seed=1), torch.tensor([3, 0, 5, 1, 4, 2])
    found = propagate(maps, values)
    torch.testing.assert_close(propagate(maps[..., order], values[..., order]), found[..., order])
    alike = functional.normalize(propagate(torch.ones_like(maps), values), dim=2)
    torch.testing.assert_close(alike, alike[..., :1].expand_as(alike))


@pytest.mark.parametrize("name", ["pix_contrast", "pix_pro"])
def test_mirroring_both_views_together_changes_nothing(name: str) -> None:
    """Maps and the order of their cells are turned round; where the cells lie stays with them."""
    shape = (3, 4, 5)
    cells, maps, teacher = grid(shape, 1.0), normal(2, 2, 4, *shape), normal(2, 2, 4, *shape, seed=1)
    centres = cells.centres.unflatten(2, shape).flip(4).flatten(2, 4)
    edges = cells.edges.clone()
    edges[..., 2, :] *= -1
    mirrored = Codes(z=maps.flip(-1), teacher=teacher.flip(-1), cells=Cells(centres, edges))
    torch.manual_seed(0)
    module = {"pix_contrast": PixContrast(), "pix_pro": PixPro()}[name].build(Setting(4, 3)).double()
    torch.testing.assert_close(module(mirrored).loss, module(Codes(z=maps, teacher=teacher, cells=cells)).loss)


@pytest.mark.parametrize("clusters", [3, 16])
def test_swav_of_uniform_predictions_is_the_log_of_the_prototypes(clusters: int) -> None:
    """Whatever the codes: rows at right angles to all prototypes predict each of them alike."""
    prototypes = functional.normalize(functional.pad(normal(clusters, 4), (0, 2)), dim=1)
    rows = functional.pad(normal(2, 6, 2), (4, 0))
    found = swav(rows, prototypes)
    assert found.loss.item() == pytest.approx(math.log(clusters), abs=EXACT)
    module = SwAV(prototypes=clusters, centred=False).build(Setting(5, 3)).double()
    module.prototypes.data[:] = functional.normalize(torch.ones(5, dtype=torch.float64), dim=0)
    assert module(Codes(z=normal(2, 6, 5))).loss.item() == pytest.approx(math.log(clusters), abs=EXACT)


def test_codes_of_swav_are_balanced_and_follow_their_prototypes() -> None:
    scores = normal(6, 4)
    codes = sinkhorn(scores, iterations=3)
    torch.testing.assert_close(codes.sum(1), torch.ones(6, dtype=torch.float64))
    # Scores far apart for their epsilon converge slowly; half as large as cosines they are there.
    even = sinkhorn(scores / 8, iterations=400)
    torch.testing.assert_close(even.sum(0), torch.full((4,), 6 / 4, dtype=torch.float64), rtol=1e-6, atol=0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(sinkhorn(scores[:, order]), codes[:, order])
    torch.testing.assert_close(sinkhorn(scores + 7.5), codes)
    torch.testing.assert_close(sinkhorn(torch.ones(6, 4)), torch.full((6, 4), 1 / 4))


@pytest.mark.parametrize("items", [3, 8])
def test_focal_supcon_of_one_class(items: int) -> None:
    labels = torch.zeros(items, dtype=torch.long)
    found = focal_supcon(torch.ones(items, 5, dtype=torch.float64), labels)
    assert found.loss.item() == pytest.approx((1 - 1 / (items - 1)) * math.log(items - 1))
    assert focal_supcon(normal(items, 5).requires_grad_(), labels).loss.isfinite()


def test_focal_supcon_fades_faster_than_supcon_and_reads_mixtures_of_its_own_anchor_only() -> None:
    labels, ratios = torch.tensor([0, 0, 1, 1]), []
    for apart in (0.02, 0.1, 0.3):
        codes = torch.tensor([[1, 0], [1, 0], [1 - apart, apart], [1 - apart, apart]], dtype=torch.float64)
        ratios.append(focal_supcon(codes, labels).loss / supcon(codes[None], labels).loss)
    assert ratios[0] > ratios[1] > ratios[2]
    rows, extra = normal(4, 5), normal(4, 5, seed=1).requires_grad_()
    terms = focal_supcon(rows, labels, extra_positives=extra, extra_negatives=extra * 2, reduction="none").loss
    assert (torch.autograd.grad(terms[1], [extra])[0][[0, 2, 3]] == 0).all()


def test_a_mixture_with_all_of_its_positive_is_that_positive() -> None:
    features, order = normal(4, 3), torch.tensor([1, 0, 3, 2])
    mixed = mixtures(
        features,
        functional.one_hot(torch.tensor([0, 0, 1, 1])),
        positive=order,
        negative=torch.tensor([2, 3, 0, 1]),
        partner=torch.tensor([3, 2, 1, 0]),
        positive_share=torch.ones(4),
        negative_share=torch.ones(4),
    )
    torch.testing.assert_close(mixed.features[8:], features[order])
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(12, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(8, 6), (6, 4, 4)])
def test_distillation_of_a_student_that_is_its_teacher_is_zero(shape: tuple[int, ...]) -> None:
    labels = (normal(2, *shape) > 0).long() + (normal(2, *shape, seed=1) > 1)
    logits = normal(2, 3, *(size // 2 for size in shape)).requires_grad_()
    shares = edge_shares(class_edges(labels, 3), logits.shape[2:]).double()
    for distil in (edge_distillation, body_distillation):
        teacher = logits.detach().clone().requires_grad_()
        same = distil(logits, teacher, shares)
        assert same.loss.item() == pytest.approx(0, abs=EXACT)
        other = distil(logits, normal(*logits.shape, seed=2).requires_grad_(), shares)
        assert other.loss > 0
        assert torch.autograd.grad(same.loss, [teacher], allow_unused=True)[0] is None


def test_one_class_has_no_edge_and_its_body_is_channel_wise_distillation() -> None:
    labels = torch.zeros(2, 6, 6, dtype=torch.long)
    student, teacher = normal(2, 3, 6, 6), normal(2, 3, 6, 6, seed=1)
    edges = class_edges(labels, 3).double()
    assert not edges.any()
    assert edge_distillation(student, teacher, edges).loss == 0
    goal, guess = ((maps / 4).flatten(2).log_softmax(2) for maps in (teacher, student))
    expected = 16 / 3 * (goal.exp() * (goal - guess)).sum((1, 2)).mean()
    torch.testing.assert_close(body_distillation(student, teacher, edges).loss, expected)


@pytest.mark.parametrize("patients", [0, 1, 3, 6])
def test_sepclr_of_equal_codes_is_zero_in_every_part(patients: int) -> None:
    target = torch.arange(6) < patients
    common = torch.ones(2, 6, 4, dtype=torch.float64)
    found = sepclr(common, torch.zeros(2, 6, 3, dtype=torch.float64), target)
    for name in ("common_align", "salient_align", "common_uniform", "salient_uniform", "k_jem"):
        assert found.parts[name].item() == pytest.approx(0, abs=EXACT), name
    assert found.loss.item() == pytest.approx(0, abs=EXACT)


def test_bounds_and_invariances_of_sepclr() -> None:
    common, salient, target = normal(2, 6, 4), normal(2, 6, 3, seed=1), torch.arange(6) < 3
    found = sepclr(common, salient, target)
    assert -math.log(6) <= found.parts["k_jem"] <= 0
    assert found.parts["common_uniform"] < 0
    turn = torch.linalg.qr(normal(4, 4, seed=2)).Q
    torch.testing.assert_close(sepclr(common @ turn, salient, target).parts["k_jem"], found.parts["k_jem"])
    torch.testing.assert_close(sepclr(common.flip(0), salient.flip(0), target).loss, found.loss)
    alone = salient.clone().requires_grad_()
    loss = sepclr(common, alone, target, silent_weight=0.0).loss
    (gradient,) = torch.autograd.grad(loss, [alone])
    assert not gradient[:, ~target].any()  # codes of controls are moved by their silence alone
    assert gradient[:, target].any()


def test_supremix_of_equal_codes_counts_gaps_of_targets() -> None:
    targets = torch.tensor([1.0, 1.0, 4.0, 4.0, 10.0, 10.0], dtype=torch.float64)
    gap = (targets[:, None] - targets).abs() + 1
    expected = (gap.sum(1) - 1).log().mean()  # without the anchor itself, whose gap counts 1
    found = supremix(torch.ones(6, 3, dtype=torch.float64), targets, window=None)
    torch.testing.assert_close(found.loss, expected)


def test_supremix_knows_gaps_not_places_and_is_lower_for_codes_in_order() -> None:
    targets = torch.arange(8, dtype=torch.float64).repeat(2)
    codes = normal(16, 4)
    found = supremix(codes, targets, window=3.0).loss
    torch.testing.assert_close(supremix(codes, targets + 40, window=3.0).loss, found)
    assert not torch.isclose(supremix(codes, targets * 2, window=3.0).loss, found)
    angle = targets / 8 * math.pi / 2
    arc = torch.stack([angle.cos(), angle.sin()], 1)
    shuffled = arc[torch.tensor([3, 6, 0, 5, 1, 7, 4, 2]).repeat(2) + torch.arange(2).repeat_interleave(8) * 8]
    assert supremix(arc, targets, window=3.0).loss < supremix(shuffled, targets, window=3.0).loss


@pytest.mark.parametrize("blurred", [1, 4])
def test_feature_contrast_of_equal_and_of_orthogonal_maps(blurred: int) -> None:
    maps = torch.ones(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    equal = feature_info_nce(maps, torch.ones(2, 2, 3, 4, 4), torch.ones(blurred, 2, 3, 4, 4))
    assert equal.loss.item() == pytest.approx(math.log(1 + blurred))
    apart = torch.tensor([1.0, -1, 0]).view(3, 1, 1).expand(blurred, 2, 3, 4, 4)
    best = feature_info_nce(maps, torch.ones(1, 2, 3, 4, 4), apart)
    assert best.loss.item() == pytest.approx(math.log(1 + blurred * math.exp(-1)))


def test_only_the_restored_map_gets_a_gradient() -> None:
    restored, sharp, blurred = (normal(*shape).requires_grad_() for shape in ((2, 3, 4), (2, 2, 3, 4), (3, 2, 3, 4)))
    loss = feature_info_nce(restored, sharp, blurred).loss
    mine, first, second = torch.autograd.grad(loss, [restored, sharp, blurred], allow_unused=True)
    assert mine.any()
    assert first is second is None
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(feature_info_nce(restored, sharp.flip(0), blurred[order]).loss, loss)


@pytest.mark.parametrize("foreground", [1, 3])
def test_class_mean_contrast_of_equal_codes(foreground: int) -> None:
    labels = torch.arange(24).view(2, 3, 4) % (foreground + 1)
    maps = torch.ones(2, 5, 3, 4, dtype=torch.float64)
    means, present = class_means(maps, labels, foreground + 1)
    index, exists = voxels_of_classes(labels, foreground + 1, 3, torch.Generator().manual_seed(0))
    codes = at_voxels(maps, index)
    found = class_mean_contrast(
        codes, codes, anchors=(exists, exists), means=(means, means), present=(present, present)
    )
    assert found.loss.item() == pytest.approx(math.log(2 * foreground))


# GenView (volumetric.md 10)


def test_weights_of_pairs_average_to_one_and_do_not_know_the_level_of_scores() -> None:
    foreground, background = normal(7).tanh(), normal(7, seed=1).tanh()
    weight = pair_quality(foreground, background, gamma=2.0)
    assert weight.mean().item() == pytest.approx(1)
    assert ((weight > 0) & (weight < 7)).all()
    torch.testing.assert_close(pair_quality(foreground + 0.4, background, gamma=2.0), weight)
    torch.testing.assert_close(pair_quality(foreground, foreground), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(pair_quality(foreground, background, gamma=0.0), torch.ones(7, dtype=torch.float64))
    assert (weight.argsort() == (foreground - background).argsort()).all()


def test_tokens_that_are_all_alike_have_uniform_masks() -> None:
    tokens = torch.ones(2, 5, 3, dtype=torch.float64)
    varied = normal(2, 5, 3)
    for mask in foreground_masks(tokens, foreground_direction(varied.flatten(0, 1))):
        torch.testing.assert_close(mask, torch.full((2, 5), 1 / 5, dtype=torch.float64))
    masks = foreground_masks(varied, foreground_direction(varied.flatten(0, 1)))
    torch.testing.assert_close(torch.stack(masks).sum(-1), torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(agreement(varied, varied, (masks[0], masks[0])), torch.ones(2, dtype=torch.float64))
