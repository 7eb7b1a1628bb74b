"""Every snippet of the README runs: shell blocks as commands, Python blocks as programs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medcl.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- runs: (?P<how>[a-z, ]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)

SHORTENED = {
    "pretrain": [
        "stages.0.steps=3",
        "stages.1.steps=2",
        "stages.0.views.centre.volumes=2",
        "stages.0.views.patch=[16,16,8]",
    ],
    "configs/pretrain/hippocampus.yaml": ["stages.0.steps=3", "stages.0.batch=2", "stages.0.views.patch=[16,16,8]"],
    "finetune": ["steps=4", "batch=2"],
    "align": [
        "stages.0.steps=2",
        "stages.0.batch=8",
        "modalities.radiograph={encoder: {name: resnet, depth: 10, width: 4}, shorter: 32, patch: [32, 32]}",
        "modalities.report.encoder={name: bert, layers: 1, width: 16, heads: 2}",
    ],
}
"""What a block marked ``shortened`` is given on top, by its configuration or else its command, so that a test need not train for real."""


def _blocks() -> list[tuple[str, str, str]]:
    text = (ROOT / "README.md").read_text()
    return [(m["how"] or "", m["language"], m["text"]) for m in BLOCK.finditer(text)]


def test_every_block_is_accounted_for() -> None:
    """A block without a mark is one that sets up the machine or runs a study: it must be one of these."""
    unmarked = [text.strip() for how, _, text in _blocks() if not how]
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
    ran = 0
    for how, language, text in _blocks():
        if not how:
            continue
        if language == "python":
            exec(compile(text, "README.md", "exec"), {})
            ran += 1
            continue
        for line in text.strip().splitlines():
            words = shlex.split(line)
            assert words[0] == "medcl"
            shorter = SHORTENED.get(words[2], SHORTENED.get(words[1], [])) if "shortened" in how else []
            done = CliRunner().invoke(app, [*words[1:], *shorter])
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
            ran += 1
    assert ran == 14
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
    assert (tmp_path / "scores.json").is_file()
    assert "data:image/png;base64" in (tmp_path / "hits.html").read_text()


def test_pipeline_snippets_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines that the README runs: their plan resolves."""
    monkeypatch.chdir(ROOT)
    for how, _, text in _blocks():
        if not how and text.startswith("medcl run"):
            words = shlex.split(text)
            done = CliRunner().invoke(app, [*words[1:], "--dry-run"])
            assert done.exit_code == 0, done.output
            assert "cells into" in done.output
