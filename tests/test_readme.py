"""Every snippet of the README runs: shell blocks as commands, Python blocks as programs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- runs: (?P<how>[a-z, ]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)

SHORTENED = {
    "pretrain": [
        "stages.0.steps=3",
        "stages.1.steps=2",
        "stages.0.views.centre.volumes=2",
        "stages.0.views.patch=[16,16,8]",
    ],
    "finetune": ["steps=4", "batch=2"],
}
"""What a block marked ``shortened`` is given on top, so that a test need not train for real."""


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


@pytest.mark.slow
def test_snippets_run_in_order(small_cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(small_cohort, tmp_path / "scans")
    ran = 0
    for how, language, text in _blocks():
        if not how:
            continue
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            ran += 1
            continue
        for line in text.strip().splitlines():
            words = shlex.split(line)
            assert words[0] == "medcl"
            extra = SHORTENED.get(words[1], []) if "shortened" in how else []
            command = [sys.executable, "-m", "medcl.cli.main", *words[1:], *extra]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran == 9
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
    assert (tmp_path / "scores.json").is_file()


def test_pipeline_snippets_are_valid() -> None:
    """The pipelines that the README runs: their plan resolves."""
    for how, _, text in _blocks():
        if not how and text.startswith("medcl run"):
            words = shlex.split(text)
            done = subprocess.run(
                [sys.executable, "-m", "medcl.cli.main", *words[1:], "--dry-run"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert "cells into" in done.stdout
