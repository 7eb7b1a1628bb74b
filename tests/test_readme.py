"""Every snippet of the README runs: shell blocks as commands, Python blocks as programs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medcl.cli.main import app
from tests.snippets import ROOT, blocks, run

README = ROOT / "README.md"


def test_every_block_is_accounted_for() -> None:
    """A block without a mark is one that sets up the machine or runs a study: it must be one of these."""
    unmarked = [block.text.strip() for block in blocks(README) if not block.how]
    assert unmarked == [
        "make demo",
        'python3 -m venv .venv\n.venv/bin/pip install -c constraints.txt -e ".[demo]"',
        "medcl run pipelines/hippocampus.yaml data.path=Task04_Hippocampus/ out=runs/hippocampus",
    ]


def _pairs(path: Path) -> None:
    """A table of pictures and what they show."""
    rows = ["radiograph,report_text,subject"]
    for number in range(20):
        grey = np.random.default_rng(number).integers(0, 255, (40, 36), dtype=np.uint8)
        Image.fromarray(grey).save(path.with_name(f"{number}.png"))
        rows.append(f"{number}.png,Small effusion number {number} on the left.,patient{number}")
    path.write_text("\n".join(rows))


@pytest.mark.slow
def test_snippets_run_in_order(small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small_cohort, tmp_path / "scans")
    _pairs(tmp_path / "pairs.csv")
    monkeypatch.chdir(tmp_path)
    ran = sum(run(block, README) for block in blocks(README) if block.how)
    assert ran == 14
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
    assert (tmp_path / "scores.json").is_file()
    assert "data:image/png;base64" in (tmp_path / "hits.html").read_text()


def test_pipeline_snippets_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines that the README runs: their plan resolves."""
    monkeypatch.chdir(ROOT)
    for block in blocks(README):
        if not block.how and block.text.startswith("medcl run"):
            words = shlex.split(block.text)
            done = CliRunner().invoke(app, [*words[1:], "--dry-run"])
            assert done.exit_code == 0, done.output
            assert "cells into" in done.output
