"""InfoNCE, CLIP and NT-Xent: what is refused, extra keys, the learned scale."""

from __future__ import annotations

import pytest
import torch

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.instance import NTXent, info_nce, nt_xent
from medcl.objectives.masks import Same
from tests.laws import plain_loops


def test_extra_keys_are_negatives_of_every_anchor() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, extra = torch.randn(3, 4, 5, generator=draw, dtype=torch.float64)
    found = info_nce(query, key, extra_keys=extra, temperature=0.3)
    torch.testing.assert_close(found.per_anchor, torch.stack(plain_loops.info_nce(query, key, 0.3, extra)))


def test_negatives_of_one_cluster_only() -> None:
    views = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cluster = torch.tensor([0, 1, 1, 2]).repeat(2)
    spec = nt_xent(views, neg_mask=Same(cluster))
    dense = nt_xent(views, neg_mask=cluster[:, None] == cluster[None])
    torch.testing.assert_close(spec.loss, dense.loss)
    assert spec.per_anchor[[0, 3, 4, 7]].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(spec.per_anchor[[1, 2]], nt_xent(views[:, 1:3]).per_anchor[:2])


def test_a_single_item_has_no_negatives() -> None:
    with pytest.raises(ConfigError, match="nt_xent: a batch of 1 has no negatives; set batch to 2 or more"):
        nt_xent(torch.randn(2, 1, 4))
    with pytest.raises(ConfigError, match="info_nce: a batch of 1"):
        info_nce(torch.randn(1, 4), torch.randn(1, 4))


def test_one_view_or_unpaired_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two views"):
        nt_xent(torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match="one row per instance"):
        info_nce(torch.randn(3, 4), torch.randn(2, 4))


def test_excluding_patients_needs_the_patients() -> None:
    with pytest.raises(ConfigError, match="exclude_same_subject needs the subjects"):
        NTXent(exclude_same_subject=True).build(Setting(4, 3))(Codes(z=torch.randn(2, 3, 4)))
