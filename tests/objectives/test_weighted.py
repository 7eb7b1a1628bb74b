"""Weighted negatives: limits of every provider."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.objectives.clusters import concentrations
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.decoupled import dcl
from medcl.objectives.gather import LOCAL
from medcl.objectives.instance import info_nce
from medcl.objectives.masks import Count, Same
from medcl.objectives.weighted import (
    ClusterCount,
    IPWSampler,
    Learned,
    WeightedInfoNCE,
    ipw_weights,
    proto_nce,
    weighted_info_nce,
)

Q, K = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("largest", [5.0, 1.0])
def test_a_constant_propensity_or_a_low_limit_is_info_nce(largest: float) -> None:
    draw = torch.rand(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    propensity = torch.full((7, 7), 0.3, dtype=torch.float64) if largest > 1 else draw
    weight = ipw_weights(propensity, largest=largest)
    torch.testing.assert_close(weight.sum(1), torch.full((7,), 6.0, dtype=torch.float64))
    assert not weight.diagonal().any()
    found = weighted_info_nce(Q, K, weight=weight, temperature=0.2)
    torch.testing.assert_close(found.loss, info_nce(Q, K, temperature=0.2).loss)


def test_a_weight_of_zero_is_a_mask() -> None:
    weight = torch.ones(7, 7, dtype=torch.float64)
    weight[:, 3] = 0
    keys = K.clone().requires_grad_()
    loss = weighted_info_nce(Q, keys, weight=weight, reduction="none").loss
    gradient = torch.autograd.grad(loss[0], keys)[0]
    assert not gradient[3].any()
    masked = info_nce(Q, K, neg_mask=weight > 0)
    torch.testing.assert_close(loss, masked.per_anchor)


def test_one_clustering_of_singletons_is_dcl_one_way() -> None:
    weight = Count([~Same(torch.arange(7))])
    both = [weighted_info_nce(*pair, weight=weight, positive="none", temperature=0.2) for pair in ((Q, K), (K, Q))]
    assert torch.stack([output.loss for output in both]).mean() < dcl(torch.stack([Q, K]), temperature=0.2).loss
    equal = torch.ones(7, 3, dtype=torch.float64)
    assert weighted_info_nce(equal, equal, weight=weight, positive="none").loss == pytest.approx(math.log(6))


def test_rows_of_one_cluster_only_are_left_out() -> None:
    clusters = torch.tensor([0, 0, 0, 0, 0, 0, 0])
    found = weighted_info_nce(Q, K, weight=Count([~Same(clusters)]), positive="none")
    assert found.loss == 0
    assert found.parts["anchors_skipped"] == 7


def test_frequent_classes_repel_less() -> None:
    entry, labels = WeightedInfoNCE(), torch.tensor([0, 0, 0, 0, 0, 1, 2])
    module = entry.build(Setting(5))
    weight, _ = module._weights(Q, K, Codes(z=torch.stack([Q, K]), labels=labels), LOCAL)
    assert weight[0, 5] > weight[0, 1]
    plain = module(Codes(z=torch.stack([Q, K]), labels=torch.arange(7))).loss
    expected = torch.stack([info_nce(*pair, temperature=0.1).loss for pair in ((Q, K), (K, Q))]).mean()
    torch.testing.assert_close(plain, expected)


def test_learned_weights_cannot_vanish_together() -> None:
    """The released form, and also the penalty on their mean, let the loss fall without end as all weights go to 0."""
    codes, losses = Codes(z=torch.stack([Q, K])), {}
    for normalise in (True, False):
        torch.manual_seed(0)
        module = WeightedInfoNCE(weights=Learned(hidden=8, normalise=normalise)).build(Setting(5)).double()
        before = module(codes).loss
        with torch.no_grad():
            module.weight.outer.bias.sub_(40)
        losses[normalise] = float(module(codes).loss - before)
    assert losses[False] < -30
    assert abs(losses[True]) < 0.5


def test_prototypes() -> None:
    centroids = torch.nn.functional.normalize(torch.randn(3, 5, dtype=torch.float64), dim=1)
    assigned = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    found = proto_nce(Q, assigned, centroids, torch.full((3,), 0.5))
    unit = torch.nn.functional.normalize(Q, dim=1)
    logits = unit @ centroids.T / 0.5
    torch.testing.assert_close(found, logits.logsumexp(1) - logits.gather(1, assigned[:, None]).squeeze(1))
    phi = concentrations(torch.rand(7, dtype=torch.float64), assigned, 3, temperature=0.4)
    assert phi.mean() == pytest.approx(0.4)
    assert (phi > 0).all()
    alone = concentrations(torch.tensor([0.0, 0.2, 0.4, 0.1, 0.3]), torch.tensor([0, 1, 1, 2, 2]), 3, temperature=0.4)
    assert alone[0] == pytest.approx(float(alone.amax()))


def test_members_of_one_cluster_stop_repelling_and_the_prototypes_join_in() -> None:
    setting = Setting(5, records=7, data_digest="d", seed=1)
    weights = ClusterCount(records_per_cluster=(3.5, 1.75), refresh=1.0)
    module = WeightedInfoNCE(weights=weights, temperature=0.4).build(setting).double()
    codes = Codes(z=torch.stack([Q, K]), record=torch.arange(7))
    before = module(codes)
    plain = [
        weighted_info_nce(*pair, weight=Count([~Same(torch.arange(7))]), positive="none", temperature=0.4).loss
        for pair in ((Q, K), (K, Q))
    ]
    torch.testing.assert_close(before.loss, torch.stack(plain).mean())
    after = module(codes)
    assert after.parts["prototypes"] > 0
    assert module.clusters.counts == (2, 4)
    ids = module.clusters.ids
    counted = Count([~Same(run) for run in ids])
    expected = [
        weighted_info_nce(*pair, weight=counted, positive="none", temperature=0.4).loss for pair in ((Q, K), (K, Q))
    ]
    torch.testing.assert_close(after.loss - after.parts["prototypes"], torch.stack(expected).mean())


def test_pairs_are_drawn_by_score_over_propensity() -> None:
    score = torch.tensor([[1.0, 2.0, 0.0], [4.0, 1.0, 1.0]])
    propensity = torch.tensor([[0.5, 0.5, 0.5], [0.8, 0.1, 0.5]])
    sampler = IPWSampler(score, propensity, largest=100.0)
    expected = torch.tensor([[2.0, 4.0, 0.0], [5.0, 10.0, 2.0]], dtype=torch.float64) / 23
    torch.testing.assert_close(sampler.probability, expected, rtol=1e-6, atol=0)
    pairs = sampler.draw(40_000, torch.Generator().manual_seed(0))
    seen = torch.bincount(pairs[:, 0] * 3 + pairs[:, 1], minlength=6).view(2, 3) / 40_000
    assert seen[0, 2] == 0
    assert (seen - expected).abs().max() < 0.01
    assert torch.equal(pairs, sampler.draw(40_000, torch.Generator().manual_seed(0)))


def test_a_rare_pair_is_not_drawn_without_limit() -> None:
    propensity = torch.full((4, 4), 0.5)
    propensity[1, 2] = 1e-6
    sampler = IPWSampler(torch.ones(4, 4), propensity, largest=5.0)
    torch.testing.assert_close(sampler.probability[1, 2] / sampler.probability[0, 0], torch.tensor(2.5).double())


@pytest.mark.parametrize(
    ("score", "propensity", "message"),
    [
        (torch.zeros(2, 2), torch.ones(2, 2), "every score is 0"),
        (torch.ones(2, 2), torch.zeros(2, 2), "propensities above 0"),
        (torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2), "without NaN"),
        (torch.ones(2, 2), torch.ones(2, 3), "are not both"),
    ],
)
def test_pairs_that_cannot_be_drawn_are_refused(score: torch.Tensor, propensity: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IPWSampler(score, propensity)
