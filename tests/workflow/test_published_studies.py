"""The cells committed with a published study count as finished today: whoever goes on from them computes only what is new."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import medcl.objectives  # noqa: F401  (arms name objectives)
from medcl.config.load import load_config
from medcl.config.pipeline import PipelineConfig
from medcl.workflow.cells import cell_digests, is_finished
from medcl.workflow.held_out import study_data
from medcl.workflow.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "limited_labels"
DATA = {"hippocampus": "hippocampus", "hippocampus_steps": "hippocampus", "sunnybrook": "cardiac-cine-sunnybrook"}


@pytest.mark.parametrize("name", [file.parent.name for file in sorted(RESULTS.glob("*/cells.tar.xz"))])
def test_every_committed_cell_is_finished(name: str, shared: Path, tmp_path: Path) -> None:
    with tarfile.open(RESULTS / name / "cells.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    changes = [f"data.path={shared / 'data' / DATA[name]}", f"out={tmp_path}"]
    plan = make_plan(load_config(PipelineConfig, ROOT / "pipelines" / "limited_labels" / f"{name}.yaml", changes))
    data = study_data(plan)
    committed = [cell for cell in plan.cells if cell.folder.is_dir()]
    assert {path.name for path in (tmp_path / "cells").iterdir()} <= set(plan.config.arms)
    assert len(committed) == len(list(tmp_path.glob("cells/*/n*")))
    again = [cell.name for cell in committed if not is_finished(cell.folder, cell_digests(cell, data, plan.config))]
    assert again == [], "a newer medcl would compute these anew: see _LATER in workflow/plan.py"
