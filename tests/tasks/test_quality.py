"""Weights by the quality of views: for every objective that takes them, exact without effect, and refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.encoder import ResidualEncoderConfig
from medcl.config.load import validate
from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import PretrainConfig, QualityConfig
from medcl.encoders.build import build_encoder
from medcl.errors import ConfigError
from medcl.objectives.gather import LOCAL
from medcl.objectives.quality import weighted_by_item
from medcl.tasks.quality import view_quality
from medcl.tasks.requirements import check_requirements
from medcl.views.view import View
from medcl.workflow.pretrain import pretrain
from tests.laws.cases import CASES

WEIGHABLE = [name for name, case in CASES.items() if case.entry.by_item]


def config(cohort: Path, out: Path, objective: str, quality: Any, **views: Any) -> PretrainConfig:
    maps = ObjectiveConfig.known[objective].reads == "maps"
    term = {
        "objective": {"name": objective},
        "at": "decoder.0" if maps else "pooled",
        "head": {"name": "dense"} if maps else {"name": "projection", "hidden": 16, "out": 8},
        "quality": quality,
    }
    stage = {"name": "stage", "steps": 3, "batch": 4, "terms": [term], "views": {"jitter": 0.3, **views}}
    values = {
        "out": out,
        "data": {"path": cohort, "store": out.parent / "store"},
        "recipe": {"patch": [16, 16, 16]},
        "stages": [{**stage, "train": ["encoder", *["decoder"] * maps]}],
        "trainer": {"device": "cpu", "log_every": 1},
    }
    return validate(PretrainConfig, values)


@pytest.mark.parametrize("name", WEIGHABLE)
def test_weights_multiply_the_terms_of_their_item(name: str) -> None:
    """Weights of 1 change no bit; the loss is linear in the weights, and an item of weight 0 has no terms."""
    case = CASES[name]
    codes = case.codes()
    found = case.loss(codes)
    even = weighted_by_item(found, torch.ones(6))
    assert torch.equal(even.loss, found.loss)
    assert torch.equal(even.per_anchor, found.per_anchor)
    alone = [weighted_by_item(found, torch.eye(6)[item]).loss for item in range(6)]
    torch.testing.assert_close(torch.stack(alone).sum(), found.loss)
    weight = torch.tensor([0.5, 2.0, 0.0, 1.5, 1.0, 1.0], dtype=torch.float64)
    weighted = weighted_by_item(found, weight)
    torch.testing.assert_close(weighted.loss, (torch.stack(alone) * weight).sum())
    terms = found.per_anchor.reshape(-1, 6)
    assert not weighted.per_anchor.reshape(-1, 6)[:, 2].any()
    counted = found.loss / terms.sum()
    torch.testing.assert_close(alone[3], terms[:, 3].sum() * counted)


@pytest.mark.parametrize(("objective", "mask"), [("nt_xent", "pca"), ("nt_xent", "body"), ("pix_pro", "pca")])
def test_it_trains_and_without_effect_it_is_not_there(
    objective: str, mask: str, small_cohort: Path, tmp_path: Path
) -> None:
    traces = []
    for number, quality in enumerate((None, {"gamma": 0, "mask": mask}, {"gamma": 5, "mask": mask})):
        run = pretrain(config(small_cohort, tmp_path / f"run{number}", objective, quality), progress=False)
        traces.append(run.read_metrics())
    losses = [[row["loss"] for row in rows] for rows in traces]
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]
    assert all(1 < row["largest_weight"] < 4 for row in traces[2])


def test_views_that_share_their_subject_weigh_more() -> None:
    """Of four pairs one shows the same twice; the network's mode and gradients are left as they were."""
    torch.manual_seed(0)
    network = build_encoder(ResidualEncoderConfig(), 1, (16, 16, 16))
    first, second = torch.randn(2, 4, 1, 16, 16, 16)
    second[2] = first[2]
    body = torch.zeros(4, 16, 16, 16, dtype=torch.bool)
    body[:, :8] = True
    second[2, :, 8:] = torch.randn(1, 8, 16, 16)  # the same body before another background
    nothing = torch.zeros(4)
    views = [
        View(data, torch.eye(4).expand(4, 4, 4), nothing, nothing, slot, None, nothing, nothing, body=body)
        for slot, data in enumerate((first, second))
    ]
    for chunk in (None, 3):
        weight = view_quality(QualityConfig(gamma=20, mask="body"), network, views, LOCAL, chunk=chunk)
        assert weight.argmax() == 2
        assert weight.mean().item() == pytest.approx(1)
    assert network.encoder.training
    assert not weight.requires_grad


@pytest.mark.parametrize(
    ("objective", "views", "message"),
    [
        ("barlow", {}, "quality could weigh; set quality=null, or take clip, info_nce, nt_xent"),
        ("nt_xent", {"slots": 1}, "quality compares two views; set views.slots=2"),
    ],
)
def test_where_it_has_no_meaning_it_is_refused(objective: str, views: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_requirements(config(Path("scans"), Path("run"), objective, {}, **views))
