"""Snippets of Markdown pages and how they are run: shell blocks as commands, Python blocks as programs."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from medcl.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(?:<!-- runs: (?P<how>[a-z, ]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)

_SHORTENED = {
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


@dataclass(frozen=True)
class Block:
    """A block of code: its mark (what it needs, and whether it is shortened; empty without a mark), its language and its text."""

    how: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of ``page`` in their order."""
    return [Block(m["how"] or "", m["language"], m["text"]) for m in _BLOCK.finditer(page.read_text())]


def run(block: Block, page: Path) -> int:
    """Run every command of ``block``, or its program, in this process; how many there were."""
    if block.language == "python":
        exec(compile(block.text, str(page), "exec"), {"__name__": "__snippet__"})
        return 1
    lines = block.text.strip().splitlines()
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "medcl"
        shorter = _SHORTENED.get(words[2], _SHORTENED.get(words[1], [])) if "shortened" in block.how else []
        done = CliRunner().invoke(app, [*words[1:], *shorter])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return len(lines)
