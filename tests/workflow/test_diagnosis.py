"""A pretraining ends every stage with a diagnosis of its representation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcl.config.load import validate
from medcl.config.pretrain import PretrainConfig
from medcl.evaluation.representation import Diagnosis
from medcl.workflow.diagnosis import measure_codes
from medcl.workflow.pretrain import pretrain

STAGE = {
    "name": "instances",
    "steps": 4,
    "batch": 4,
    "views": {"patch": [16, 16, 16]},
    "terms": [{"objective": {"name": "nt_xent"}, "head": {"name": "projection", "hidden": 16, "out": 8}}],
}


def test_a_stage_is_diagnosed(small_cohort: Path, tmp_path: Path) -> None:
    values = {
        "out": tmp_path / "run",
        "data": {"path": small_cohort, "test": 2},
        "recipe": {"patch": [16, 16, 16]},
        "stages": [STAGE],
        "trainer": {"device": "cpu"},
    }
    run = pretrain(validate(PretrainConfig, values))
    found = Diagnosis.read(run.path / "diagnostics" / "instances.json")
    assert found.rows == 8  # the pool, once
    assert {"uniformity", "alignment", "rankme", "effective_rank", "effective_negatives"} <= set(found.numbers)
    assert -4 < found.numbers["uniformity"] < 0
    assert found.numbers["alignment"] > 0
    assert len(found.eigenvalues) == found.numbers["dims"]
    assert found.neighbours
    with np.load(run.path / "diagnostics" / "instances.npz") as pictures:
        for query in found.neighbours:
            for row in (query.row, *query.nearest):
                assert pictures[str(row)].shape == (16, 16)
                assert pictures[str(row)].std() > 0
    page = run.page.read_text()
    assert "What the representation is like" in page
    assert "Nearest neighbours: instances" in page
    assert f"{found.numbers['rankme']:.1f}" in page


def test_figures_of_known_codes() -> None:
    equal = measure_codes(torch.ones(2, 8, 5))
    assert equal["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert equal["uniformity"] == pytest.approx(0, abs=1e-5)
    assert equal["alignment"] == pytest.approx(0, abs=1e-6)
    apart = measure_codes(torch.eye(6)[None] * torch.tensor([3.0, 0.1])[:, None, None])
    assert apart["effective_rank"] == pytest.approx(6, rel=1e-5)
    assert apart["uniformity"] == pytest.approx(-4)
    opposite = measure_codes(torch.stack([torch.eye(6), -torch.eye(6)]))
    assert opposite["alignment"] == pytest.approx(4)
    assert set(measure_codes(torch.ones(1, 1, 4))) == {"effective_rank"}
