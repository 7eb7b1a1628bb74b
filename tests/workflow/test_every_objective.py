"""Any objective goes into a shipped pretraining by its name; one that cannot be served is refused with the key to set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.load import load_config
from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config
from medcl.errors import ConfigError
from medcl.records.layouts import open_data
from medcl.weights.read import find_weights
from medcl.workflow.pretrain import pretrain

SERVED = sorted(
    name
    for name, entry in ObjectiveConfig.known.items()
    if entry.reads == "vectors"
    and not entry.needs & {"aligned", "rehearsal", "turns", "base_crops", "modalities", "complete"}
)
REFUSED = {name: entry for name, entry in ObjectiveConfig.known.items() if name not in SERVED}


def config(data: Path, out: Path, name: str, *more: str) -> PretrainConfig:
    return load_config(
        PretrainConfig,
        find_config("configs/pretrain/hippocampus_global.yaml"),
        [
            f"objective.name={name}",
            *(["objective.classes=2"] if "classes" in ObjectiveConfig.known[name].model_fields else []),
            *(["objective.controls=a"] if "controls" in ObjectiveConfig.known[name].model_fields else []),
            f"data.path={data}",
            f"data.store={data.parent / 'store'}",
            "data.test=2",
            f"out={out}",
            "recipe.patch=[16,16,16]",
            "stages.0.steps=2",
            "stages.0.views.patch=[16,8,16]",
            "trainer.precision='32'",
            "trainer.device=cpu",
            *more,
        ],
    )


@pytest.fixture(scope="module")
def sites(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort with a site and an age for every record."""
    manifest = open_data(small_cohort)
    records = [
        replace(r, attributes={**r.attributes, "site": "ab"[n % 2]}, targets={"age": 20.0 + n})
        for n, r in enumerate(manifest.records)
    ]
    table = tmp_path_factory.mktemp("sites") / "records.jsonl"
    replace(manifest, records=tuple(records)).write(table)
    return table


@pytest.mark.parametrize("name", SERVED)
def test_it_trains_the_encoder(name: str, sites: Path, tmp_path: Path) -> None:
    found = config(sites, tmp_path / "run", name, "classes=site", "targets=age")
    run = pretrain(found, progress=False)
    rows = run.read_metrics()
    assert rows
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    assert find_weights(run.path).card.training["objective"]["name"] == name


@pytest.mark.parametrize("name", [name for name in SERVED if "labels" in ObjectiveConfig.known[name].needs])
def test_without_classes_it_is_refused(name: str, sites: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"stages\.0\.terms\.0 \({name}\): needs a class for every record; set classes"
    ):
        pretrain(config(sites, tmp_path / "run", name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_served_is_refused_by_name_and_key(name: str, sites: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"stages\.0\.terms\.0 \({name}\): .*(set|give)"):
        pretrain(config(sites, tmp_path / "run", name, "classes=site"))
    assert not (tmp_path / "run").exists()
