"""The rotation pretext: closed forms, and what its entry reads."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.rotation import Rotation, rotation


def test_equal_scores_cost_log_4() -> None:
    turns = torch.tensor([0, 1, 2, 3, 3])
    found = rotation(torch.full((5, 4), 7.0, dtype=torch.float64), turns)
    assert found.loss == pytest.approx(math.log(4))
    assert found.all_equal == pytest.approx(math.log(4))
    summed = rotation(torch.full((5, 4), 7.0, dtype=torch.float64), turns, reduction="sum")
    assert summed.loss == pytest.approx(5 * math.log(4))


def test_sure_scores_cost_nothing_or_their_margin() -> None:
    turns = torch.tensor([0, 1, 2, 3])
    scores = 50 * torch.eye(4, dtype=torch.float64)
    assert rotation(scores, turns).loss == pytest.approx(0, abs=1e-9)
    assert rotation(scores, turns).parts["accuracy"] == 1
    wrong = rotation(scores, (turns + 1) % 4)
    assert wrong.per_anchor.tolist() == pytest.approx([50.0] * 4)
    assert wrong.parts["accuracy"] == 0


def test_small_views_are_not_asked() -> None:
    draw = torch.Generator().manual_seed(0)
    z, turns = torch.randn(4, 3, 4, generator=draw), torch.randint(0, 4, (2, 3), generator=draw)
    found = Rotation().build(Setting(4))(Codes(z=z, turns=turns))
    torch.testing.assert_close(found.loss, rotation(z[:2].flatten(0, 1), turns.flatten()).loss)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError, match=r"set views\.corruption\.name=turns"):
        Rotation().build(Setting(4))(Codes(z=torch.zeros(1, 2, 4)))
    with pytest.raises(ValueError, match=r"must be \(N, 4\)"):
        rotation(torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))
