"""Every shipped pretraining trains, for a few steps on small real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.load import load_config
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config, shipped_configs
from medcl.records.layouts import open_data
from medcl.weights.read import find_weights
from medcl.workflow.pretrain import pretrain

SMALLER = {
    "global_local_2020": [
        "recipe.patch=[32,32,1]",
        "stages.0.views.patch=[32,32,1]",
        "encoder={name: residual_unet, dims: 2}",
    ],
    "hippocampus": ["stages.0.views.patch=[16,8,16]"],
    "hippocampus_global": ["stages.0.views.patch=[16,8,16]"],
    "rotation": ["stages.0.views.patch=[16,16,16]"],
    "sepclr": ["stages.0.batch=4"],
    "supremix": ["stages.0.batch=4"],
    "swav": ["stages.0.batch=4"],
    "voco": ["stages.0.views.patch=[8,8,8]", "stages.0.views.centre.parts=[2,2,2]"],
    "volumes_multistage": ["stages.0.batch=4", "stages.1.batch=2", "stages.0.clusters=2"],
}
NAMES = [path.stem for path in shipped_configs() if path.parent.name == "pretrain"]
GLOBAL = ("global_gr", "global_gd_minus", "global_gd", "positional")
LOCAL = ("local_lr", "local_ld")


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
            *SMALLER.get(name, []),
            *more,
        ],
    )
    run = pretrain(config, progress=False)
    assert find_weights(run.path).card.records
    return run.read_metrics()


def _stages(name: str) -> int:
    return len(yaml.safe_load(find_config(f"configs/pretrain/{name}.yaml").read_text())["stages"])


@pytest.fixture(scope="module")
def described(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small cohort, with the classes and numbers of its records that some pretrainings read."""
    manifest, records = open_data(small_cohort), []
    for number, record in enumerate(manifest.records):
        group = ("control", "patient")[number % 2]
        targets = {"foreground_mm3": 1000.0 + 90 * number, "size": float(number % 3), "lesion": float(number % 4)}
        records.append(replace(record, attributes={**record.attributes, "group": group}, targets=targets))
    table = tmp_path_factory.mktemp("described") / "records.jsonl"
    replace(manifest, records=tuple(records)).write(table)
    return table


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name: str, described: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = _stages(name)
    rows = _trained(name, described, tmp_path / "run", *(f"stages.{n}.steps=3" for n in range(count)))
    assert [row["step"] for row in rows] == [1, 2, 3] * count
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    assert len({row["loss"] for row in rows}) == 3 * count
    assert ("give the run of one as init=RUN" in caplog.text) == (name in LOCAL)


@pytest.mark.slow
@pytest.mark.parametrize("before", GLOBAL)
def test_a_local_stage_follows_any_global_one(before: str, small_cohort: Path, tmp_path: Path) -> None:
    """volumetric.md 14: G^R, G^{D-}, G^D and positional contrast, each alone, with L^R and with L^D; the encoder is that of the first."""
    _trained(before, small_cohort, tmp_path / before, "stages.0.steps=2")
    first = find_weights(tmp_path / before).state
    for name in LOCAL:
        _trained(name, small_cohort, tmp_path / name, "stages.0.steps=2", f"init={tmp_path / before}")
        second = find_weights(tmp_path / name).state
        moved = {key for key in first if not first[key].equal(second[key])}
        assert moved
        assert all(key.startswith(("decoder.blocks.0.", "decoder.blocks.1.")) for key in moved)


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
