"""The shipped restorative, pretext, multi-crop and overlap pretrainings train, each for a few steps on small real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.load import load_config
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config
from medcl.records.layouts import open_data
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


@pytest.fixture(scope="module")
def some_hippocampi(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 of the real volumes."""
    manifest = open_data(hippocampus)
    table = tmp_path_factory.mktemp("some") / "records.jsonl"
    manifest.select([record.id for record in manifest.records][:24]).write(table)
    return table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share", "more"),
    [
        ("inpainting", 0.85, []),
        ("context_restoration", 0.8, []),
        ("voco", 0.6, ["stages.0.views.patch=[16,16,16]", "stages.0.views.centre.parts=[2,3,2]"]),
        ("swav", 0.95, ["stages.0.batch=16", "stages.0.terms.0.objective.queue_from=20"]),
    ],
)
def test_it_learns(name: str, share: float, more: list[str], some_hippocampi: Path, tmp_path: Path) -> None:
    """The loss of the last ten of eighty steps is below this share of that of the first ten."""
    rows = _trained(name, some_hippocampi, tmp_path / "run", "stages.0.steps=80", *more)
    losses = torch.tensor([row["loss"] for row in rows])
    assert losses[-10:].mean() < share * losses[:10].mean()
