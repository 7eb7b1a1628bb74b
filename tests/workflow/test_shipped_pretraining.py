"""The shipped restorative, pretext, multi-crop and overlap pretrainings train, each for a few steps on small real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.load import load_config
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config
from medcl.weights.read import find_weights
from medcl.workflow.pretrain import pretrain

SMALLER = {
    "genesis": [],
    "inpainting": [],
    "context_restoration": [],
    "hippocampus_masked": [],
    "rotation": ["stages.0.views.patch=[16,16,16]"],
    "swav": ["stages.0.batch=4"],
    "voco": ["stages.0.views.patch=[8,8,8]", "stages.0.views.centre.parts=[2,2,2]"],
}


def _trained(name: str, cohort: Path, out: Path, *more: str) -> list[dict[str, float]]:
    config = load_config(
        PretrainConfig,
        find_config(f"configs/pretrain/{name}.yaml"),
        [
            f"data.path={cohort}",
            f"data.store={cohort.parent / 'store'}",
            f"out={out}",
            "recipe.patch=[16,16,16]",
            "trainer={device: cpu, precision: '32', log_every: 1}",
            *SMALLER[name],
            *more,
        ],
    )
    run = pretrain(config, progress=False)
    assert find_weights(run.path).card.records
    return run.read_metrics()


@pytest.mark.parametrize("name", SMALLER)
def test_it_trains(name: str, small_cohort: Path, tmp_path: Path) -> None:
    rows = _trained(name, small_cohort, tmp_path / "run", "stages.0.steps=3")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    assert len({row["loss"] for row in rows}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("genesis", 0.8), ("rotation", 0.8), ("voco", 0.6)])
def test_it_learns(name: str, share: float, small_cohort: Path, tmp_path: Path) -> None:
    """The loss of the last ten of a hundred steps is below that of the first ten."""
    losses = torch.tensor([row["loss"] for row in _trained(name, small_cohort, tmp_path / "run", "stages.0.steps=100")])
    assert losses[-10:].mean() < share * losses[:10].mean()
