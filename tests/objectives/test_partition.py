"""G^{D-} and G^D: which pairs take part, closed forms, and what is refused or warned about."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.partition import GlobalGD, GlobalGDMinus, partition_contrastive


def batch(volumes: int, parts: int, views: int, width: int = 6) -> dict[str, Tensor]:
    """One centre in every partition of every volume, view-major."""
    items = volumes * parts
    return {
        "z": torch.randn(views * items, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        "volume": torch.arange(volumes).repeat_interleave(parts).repeat(views),
        "partition": torch.arange(parts).repeat(volumes).repeat(views),
        "view": torch.arange(views).repeat_interleave(items),
        "slice_id": torch.arange(items).repeat(views),
    }


@pytest.mark.parametrize("strategy", ["gd_minus", "gd"])
def test_all_equal(strategy: Any) -> None:
    given = batch(3, 4, 2)
    given["z"] = torch.ones_like(given["z"])
    found = partition_contrastive(**given, strategy=strategy)
    assert found.loss == pytest.approx(math.log(1 + 24 * 3 / 4))
    assert found.all_equal == pytest.approx(math.log(1 + 24 * 3 / 4))


@pytest.mark.parametrize(("strategy", "views", "volumes", "positives"), [("gd_minus", 3, 2, 2), ("gd", 2, 4, 1 + 3)])
def test_positives_of_an_anchor(strategy: Any, views: int, volumes: int, positives: int) -> None:
    """volumetric.md 17.2: V further views for G^{D-}; the other view and m - 1 volumes for G^D."""
    given = batch(volumes, 4, views)
    found = partition_contrastive(**given, strategy=strategy)
    assert found.parts["valid_terms"] == positives * len(given["z"])


@pytest.mark.parametrize("strategy", ["gd_minus", "gd"])
def test_names_of_partitions_and_volumes_do_not_matter(strategy: Any) -> None:
    given = batch(3, 4, 2)
    renamed = {
        **given,
        "partition": torch.tensor([7, 3, 9, 1])[given["partition"]],
        "volume": torch.tensor([5, 0, 2])[given["volume"]],
    }
    torch.testing.assert_close(
        partition_contrastive(**renamed, strategy=strategy).loss, partition_contrastive(**given, strategy=strategy).loss
    )


def test_one_volume_makes_both_strategies_equal() -> None:
    given = batch(1, 4, 3)
    torch.testing.assert_close(
        partition_contrastive(**given, strategy="gd").loss, partition_contrastive(**given, strategy="gd_minus").loss
    )


def test_own_partition_does_not_repel() -> None:
    """A term does not change when another row of its anchor's partition moves."""
    given = batch(2, 4, 2)
    z = given.pop("z").requires_grad_()
    terms = partition_contrastive(z, **given, strategy="gd_minus", reduction="none").loss
    (gradient,) = torch.autograd.grad(terms[0], [z])
    apart = given["partition"] != given["partition"][0]
    same = ~apart & (given["slice_id"] != given["slice_id"][0])
    assert (gradient[same] == 0).all()
    assert (gradient[apart] != 0).all()


def test_explicit_pairs_count_with_multiplicity() -> None:
    given = batch(2, 2, 2)
    pairs = torch.tensor([[0, 4], [0, 4], [4, 0], [1, 5]])
    found = partition_contrastive(**given, pairs=pairs)
    terms = [partition_contrastive(**given, pairs=pairs[[k]]).loss for k in range(4)]
    torch.testing.assert_close(found.loss, torch.stack(terms).mean())
    summed = partition_contrastive(**given, pairs=pairs, reduction="sum")
    torch.testing.assert_close(summed.loss, torch.stack(terms).sum())


def test_views_of_one_centre_across_a_border_still_attract() -> None:
    given = batch(2, 4, 2)
    given["partition"] = given["partition"].clone()
    given["partition"][8] = 1  # the second view of centre 0 was jittered into partition 1
    z = given.pop("z").requires_grad_()
    terms = partition_contrastive(z, **given, strategy="gd_minus", reduction="none").loss
    alone = partition_contrastive(z, pairs=torch.tensor([[0, 8]]), partition=given["partition"], reduction="none").loss
    assert terms[0] < alone[0]  # as a negative of itself the partner would have made the term larger
    assert terms[0] > 0


def test_guard_ignores_neighbours_across_a_border() -> None:
    given = batch(2, 2, 1)
    place = torch.tensor([[0.5], [1.1], [0.95], [1.5]])
    z = given.pop("z").requires_grad_()
    settings: dict[str, Any] = {**given, "pairs": torch.tensor([[2, 0]]), "place": place}
    term = partition_contrastive(z, **settings, guard=0.25).loss
    (gradient,) = torch.autograd.grad(term, [z])
    assert (gradient[1] == 0).all()  # 0.15 partitions away, on the other side of the border
    assert (gradient[3] != 0).all()
    assert torch.autograd.grad(partition_contrastive(z, **settings).loss, [z])[0][1].any()


def _codes(partition: Tensor, record: Tensor) -> Codes:
    return Codes(z=torch.randn(2, 4, 3, requires_grad=True), record=record, partition=partition.expand(2, 4))


def test_one_partition_gives_zero_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    module = GlobalGDMinus().build(Setting(3, 3))
    codes = _codes(torch.zeros(4, dtype=torch.long), torch.arange(4))
    with caplog.at_level(logging.WARNING):
        losses = [module(codes).loss, module(codes).loss]
    assert losses[0] == 0
    assert not torch.autograd.grad(losses[0], [codes.z])[0].any()
    assert [record.getMessage() for record in caplog.records] == [
        "global_gd_minus: all views lie in one partition, so there are no negatives and the loss is 0; raise views.centre.parts"
    ]


def test_one_volume_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        GlobalGD().build(Setting(3, 3))(_codes(torch.arange(4), torch.zeros(4, dtype=torch.long)))
    assert "the batch holds one volume" in caplog.text


def test_missing_partitions_name_the_key_to_set() -> None:
    codes = Codes(z=torch.randn(2, 4, 3), record=torch.arange(4))
    with pytest.raises(ConfigError, match=r"global_gd: needs partitions; set views\.centre\.name=partition"):
        GlobalGD().build(Setting(3, 3))(codes)
