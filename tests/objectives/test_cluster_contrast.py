"""Clusters in the denominator: limits, bounds, and the clusters of records that an objective keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.cluster_contrast import Centre, ClusterProxy, ClusterRestricted, cluster_proxy, cluster_restricted
from medcl.objectives.clusters import RecordClusters, kmeans
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL
from medcl.objectives.instance import nt_xent
from medcl.objectives.kernel import unit
from medcl.objectives.state import commit_all


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VIEWS = draw(3, 8, 5)


def test_one_cluster_is_nt_xent_and_a_batch_of_one_cluster_is_the_masked_batch() -> None:
    one = torch.zeros(8, dtype=torch.long)
    torch.testing.assert_close(cluster_restricted(VIEWS, one).loss, nt_xent(VIEWS).loss)
    cluster = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    masked = cluster_restricted(VIEWS, cluster).per_anchor.view(3, 8)
    torch.testing.assert_close(masked[:, :5].flatten(), nt_xent(VIEWS[:, :5]).per_anchor)
    torch.testing.assert_close(masked[:, 5:].flatten(), nt_xent(VIEWS[:, 5:]).per_anchor)


def test_an_item_alone_in_its_cluster_has_no_loss_and_no_gradient() -> None:
    views = VIEWS.clone().requires_grad_()
    found = cluster_restricted(views, torch.tensor([0, 1, 1, 1, 2, 2, 2, 2]))
    assert not found.per_anchor.view(3, 8)[:, 0].any()
    assert not torch.autograd.grad(found.loss, views)[0][:, 0].any()


@pytest.mark.parametrize("seed", range(5))
def test_restricting_can_only_lower_the_loss(seed: int) -> None:
    cluster = torch.randint(0, 3, (8,), generator=torch.Generator().manual_seed(seed))
    assert (cluster_restricted(VIEWS, cluster).per_anchor <= nt_xent(VIEWS).per_anchor + 1e-12).all()


@pytest.mark.parametrize("centre", ["unit", "mean"])
def test_proxies_are_exact_where_each_row_is_its_own_cluster(centre: Centre) -> None:
    """The positive is then counted once, and the anchor not at all."""
    views = VIEWS.clone().requires_grad_()
    own = torch.arange(24).view(3, 8)
    found, exact = cluster_proxy(views, own, temperature=0.3, centre=centre), nt_xent(views, temperature=0.3)
    torch.testing.assert_close(found.per_anchor, exact.per_anchor)
    torch.testing.assert_close(*(torch.autograd.grad(output.loss, views)[0] for output in (found, exact)))


@pytest.mark.parametrize("centre", ["unit", "mean"])
def test_proxies_are_exact_where_the_rows_of_a_cluster_are_equal(centre: Centre) -> None:
    cluster = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]).expand(2, 8)
    views = draw(3, 5)[cluster]
    found = cluster_proxy(views, cluster, temperature=0.3, centre=centre)
    torch.testing.assert_close(found.per_anchor, nt_xent(views, temperature=0.3).per_anchor)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_unnormalised_means_bound_nt_xent_from_below(count: int) -> None:
    cluster = kmeans(unit(VIEWS).flatten(0, 1), count)[0].view(3, 8)
    found = cluster_proxy(VIEWS, cluster, temperature=0.3, centre="mean")
    assert (found.per_anchor <= nt_xent(VIEWS, temperature=0.3).per_anchor + 1e-12).all()


def test_more_clusters_come_closer_to_nt_xent() -> None:
    views, exact = draw(2, 64, 5), nt_xent(draw(2, 64, 5)).loss
    gaps = []
    for count in (1, 8, 64, 128):
        cluster = kmeans(unit(views).flatten(0, 1), count)[0].view(2, 64)
        gaps.append(float(exact - cluster_proxy(views, cluster, temperature=0.1, centre="mean").loss))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == pytest.approx(0, abs=1e-9)


def test_the_gradient_reaches_the_proxies() -> None:
    views = VIEWS[:2].clone().requires_grad_()
    found = cluster_proxy(views, torch.zeros(2, 8, dtype=torch.long), reduction="none")
    assert torch.autograd.grad(found.loss[0], views)[0][1, 5].abs().sum() > 0


# The clusters of records

SETTING = Setting(2, records=12, data_digest="d", seed=1)


def batch(records: Tensor) -> Codes:
    """Two views of records that lie in three tight groups, by their number modulo 3."""
    angle = (records % 3) * 2.1 + 0.05 * torch.arange(len(records))
    z = torch.stack([angle.cos(), angle.sin()], 1).double()
    return Codes(z=torch.stack([z, z + 0.01]), record=records)


def test_records_are_clustered_after_a_pass_and_late_ones_join_the_nearest() -> None:
    clusters = RecordClusters([3], SETTING, refresh=1.0).double()
    early = torch.arange(11).repeat(2)[:12]
    clusters.observe(early, batch(early).z, LOCAL)
    assert not clusters.ready
    again = torch.arange(11)
    clusters.observe(again, batch(again).z, LOCAL)  # a pass is over: first cluster, then remember
    assert clusters.ready
    assert clusters.ids[0, 11] == -1
    late = torch.tensor([11])
    clusters.observe(late, batch(late).z, LOCAL)
    ids = clusters.ids[0]
    assert len(ids.unique()) == 3
    for group in range(3):
        assert len(ids[group::3].unique()) == 1


def test_evaluation_does_not_move_the_clusters() -> None:
    clusters = RecordClusters([3], SETTING, refresh=1.0).double().eval()
    clusters.observe(torch.arange(12), batch(torch.arange(12)).z, LOCAL)
    assert not clusters.seen.any()


def test_state_continues_bit_for_bit() -> None:
    def steps(module: torch.nn.Module, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            records = torch.randperm(12, generator=torch.Generator().manual_seed(step))[:6]
            losses.append(float(module(batch(records)).loss))
            commit_all(module)
        return losses

    whole = ClusterRestricted(clusters=3, refresh=1.0).build(SETTING).double()
    expected = steps(whole, 0, 12)
    begun = ClusterRestricted(clusters=3, refresh=1.0).build(SETTING).double()
    steps(begun, 0, 6)
    resumed = ClusterRestricted(clusters=3, refresh=1.0).build(SETTING).double()
    resumed.load_state_dict(begun.state_dict())
    assert steps(resumed, 6, 12) == expected[6:]
    assert expected[0] != expected[-1]


def test_clusters_of_other_data_are_refused() -> None:
    state = ClusterRestricted().build(SETTING).state_dict()
    other = ClusterRestricted().build(Setting(2, records=12, data_digest="other", seed=1))
    with pytest.raises(ConfigError, match="other data"):
        other.load_state_dict(state)


def test_clusters_of_an_earlier_stage_replace_the_own() -> None:
    module = ClusterRestricted().build(Setting(5, records=8, clustered=True)).double()
    assert not list(module.buffers())
    cluster = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    codes = Codes(z=VIEWS, record=torch.arange(8), cluster=cluster)
    torch.testing.assert_close(module(codes).loss, cluster_restricted(VIEWS, cluster).loss)


def test_the_objective_clusters_the_batch_itself() -> None:
    module = ClusterProxy(clusters=16, centre="mean").build(Setting(5))
    found = module(Codes(z=VIEWS[:2])).per_anchor
    torch.testing.assert_close(found, nt_xent(VIEWS[:2], temperature=0.5).per_anchor)
