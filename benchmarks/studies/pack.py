"""What of a finished study belongs into docs/results: tables, page, figures and, in cells.tar.xz, the facts by which it goes on without training anew.

Folders of this machine are written as a reader would type them. Usage:

    python benchmarks/studies/pack.py STUDY docs/results/NAME --data /scans/Task04_Hippocampus=Task04_Hippocampus --out runs/NAME
"""

from __future__ import annotations

import argparse
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

FACTS = ("config.yaml", "run.json", "scores.json", "stages.json")
SHOWN = ("cases.csv", "page.html", "table.csv", "table.json", "table.md", "figures/*.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study that `medcl run` has finished")
    parser.add_argument("target", type=Path)
    parser.add_argument("--data", required=True, metavar="PATH=SHOWN")
    parser.add_argument("--out", required=True, metavar="SHOWN", help="the study's folder, as the reader will call it")
    given = parser.parse_args()
    data, _, shown = given.data.partition("=")
    words = {str(given.study): given.out, data: shown}
    for pattern in SHOWN:
        for file in sorted(given.study.glob(pattern)):
            _copy(file, given.target / file.relative_to(given.study), words)
    with tempfile.TemporaryDirectory() as scratch:
        for part in ("cells", "pretrain"):
            for file in sorted((given.study / part).rglob("*")):
                inside = file.relative_to(given.study)
                if file.name in FACTS and "pseudo" not in inside.parts:
                    _copy(file, Path(scratch) / inside, words)
        with tarfile.open(given.target / "cells.tar.xz", "w:xz") as packed:
            for folder in sorted(Path(scratch).iterdir()):
                packed.add(folder, folder.name, filter=_anonymous)


def _copy(file: Path, target: Path, words: Mapping[str, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(encoding="utf-8")
    for here, shown in words.items():
        text = text.replace(here, shown)
    target.write_text(text, encoding="utf-8")
    shutil.copymode(file, target)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
